"""A model card: the README.md of a pruned checkpoint, or of a recipe, on the Hugging Face Hub."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optishear.assets.hub import repository
from optishear.calibration.origin import SEQUENTIAL, Origin
from optishear.recipe.recipe import Recipe
from optishear.text.bos import NONE, PLACES
from optishear.text.sources import TextSpec


CARRIED = ("license", "license_name", "license_link", "language")
"""What of the dense model's own card holds for a pruned one too."""


@dataclass(frozen=True)
class Quality:
    """One row of a held-out comparison: perplexity on each text, with its standard error."""

    name: str
    texts: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Card:
    """All that a card says.

    - `weights`: whether these are pruned weights; else a recipe for them.
    - `sparsity`: the share of the prunable weights that is dropped.
    - `quality`: the dense model first; empty where nobody measured.
    - `dense_card`: fields of the dense model's card; `dense_file`: what that card is called here.
    """

    id: str
    recipe: Recipe
    origin: Origin
    sparsity: float
    version: str
    weights: bool
    quality: Sequence[Quality] = ()
    dense_card: Mapping[str, Any] | None = None
    dense_file: str | None = None

    @property
    def text(self) -> str:
        parts = [self._front(), f"# {self.id.rpartition('/')[2]}", self._what(), self._how()]
        parts += [self._measured(), self._again(), self._size()]
        if self.dense_file is not None:
            parts.append(f"The dense model's own card is [{self.dense_file}]({self.dense_file}).")
        return "\n\n".join(parts) + "\n"

    @property
    def model(self) -> str:
        return self.origin.model or "a model that nobody wrote down"

    @property
    def method(self) -> str:
        """Metrics, solvers and patterns that it has for some layers, as recipes name them."""
        said = [f"{p.metric['name']}, {p.solver.name}, {p.pattern}" for p in self.recipe.every]
        return "; ".join(said)

    def _front(self) -> str:
        """The part that the Hub reads. JSON is YAML, and quotes whatever has to be quoted."""
        known = repository("model", self.model)
        told: dict[str, Any] = {
            "base_model": None if known is None else known.id,
            "library_name": "transformers" if self.weights else None,
            "pipeline_tag": "text-generation" if self.weights else None,
            "tags": ["pruned", "sparse", "optishear"],
        }
        told |= {name: (self.dense_card or {}).get(name) for name in CARRIED}
        stated = {name: value for name, value in told.items() if value is not None}
        lines = [f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in stated.items()]
        return "\n".join(["---", *lines, "---"])

    def _what(self) -> str:
        share = f"{100 * self.sparsity:.2f} %"
        if self.weights:
            return f"`{self.model}` with {share} of its prunable weights set to zero by optishear."
        return f"A recipe of optishear that sets {share} of `{self.model}`'s prunable weights to 0."

    def _how(self) -> str:
        origin = self.origin
        rows = {
            "dense model": f"`{self.model}`, commit {_or(origin.model_commit)}, content hash "
            f"{_or(origin.model_hash)}",
            "metric, solver, pattern": self.method,
            "sparsity": f"{self.sparsity:.6f} of the prunable weights; the recipe has each layer's",
            "calibration text": _text(origin.calibration),
            "calibration tokens": f"hash {_or(origin.calibration_hash)}, dataset commit "
            f"{_or(origin.calibration_commit)}",
            "applied": "block by block" if origin.mode == SEQUENTIAL else _or(origin.mode),
            "computed in": f"{_or(origin.dtype)} on {_or(origin.device)}",
            "recipe": f"`{self.recipe.key}`",
            "optishear": f"{self.version}, code {_or(origin.code)}",
        }
        lines = [f"| {name} | {value} |" for name, value in rows.items()]
        return "\n".join(["| | |", "| --- | --- |", *lines])

    def _measured(self) -> str:
        if not self.quality:
            return "Its quality was not measured when this was written; `optishear evaluate` does."
        texts = list(self.quality[0].texts)
        lines = [f"| model | {' | '.join(texts)} |", "| --- |" + " --- |" * len(texts)]
        for row in self.quality:
            cells = [f"{row.texts[text][0]:.2f} ± {row.texts[text][1]:.2f}" for text in texts]
            lines.append(f"| {row.name} | {' | '.join(cells)} |")
        return "Held-out perplexity, with standard errors:\n\n" + "\n".join(lines)

    def _again(self) -> str:
        options = ["--one-shot"] if self.origin.mode not in (None, SEQUENTIAL) else []
        if (text := self.origin.calibration) is not None:
            options += [f"--text {_pinned(text, self.origin.calibration_commit)}@{text.split}"]
            options += [] if text.field == "text" else [f"--text-field {text.field}"]
            options += [f"--sequences {text.sequences}", f"--seq-len {text.seq_len}"]
        file = "optishear_recipe.json" if self.weights else "recipe.json"
        command = f"optishear prune --model {self.origin.pinned_model or 'MODEL'} --recipe {file}"
        lines = " \\\n  ".join([command, *options, "--to pruned/"])
        return f"The same again, with `{file}` of this repository:\n\n```\n{lines}\n```"

    def _size(self) -> str:
        return (
            "Zeros are stored like any other number: the files are as large as the dense model's, "
            "and it runs no faster unless a runtime makes use of the zeros."
        )


def _text(text: TextSpec | None) -> str:
    if text is None:
        return "none that was written down"
    bos = "" if text.bos == NONE else f", {PLACES[text.bos]}"
    return (
        f"`{text.source}`/{text.split}, {text.sequences} x {text.seq_len} tokens, seed {text.seed}"
        f"{bos}"
    )


def _pinned(text: TextSpec, commit: str | None) -> str:
    """The text's name with the commit that was read, where it can be asked for."""
    if commit is None or not text.source.startswith("dataset:"):
        return text.source
    path, colon, config = text.source.removeprefix("dataset:").partition(":")
    return f"dataset:{path.partition('@')[0]}@{commit}{colon}{config}"


def _or(value: str | None) -> str:
    return "unknown" if value is None else value
