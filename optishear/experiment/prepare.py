"""What every candidate of a search shares: model, texts, statistics, the rules' profiles."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from optishear.allocation import RULES, LayerView
from optishear.assets.fetch import cache_dir
from optishear.calibration.gradient_store import load_or_collect_gradients
from optishear.calibration.statistics import Need, stats_of, unread
from optishear.calibration.store import load_or_collect
from optishear.models.discover import layout_of
from optishear.models.load import LoadedModel, load
from optishear.models.weights import read
from optishear.pruning.evidence import Evidence
from optishear.recipe.layout import ModelLayout
from optishear.recipe.profile import Rule
from optishear.records.run_directory import read_json, write_json
from optishear.text.sources import TextSpec
from optishear.text.tokens import TokenBatches, token_batches


GRADIENT_SEQUENCES = 16  # of the calibration text, each one sample of the empirical Fisher


@dataclass(frozen=True, eq=False)
class Prepared:
    """A dense model and its calibration tokens, about which nothing was collected yet."""

    loaded: LoadedModel
    layout: ModelLayout
    calibration: TokenBatches
    batch_tokens: int

    @property
    def batches(self) -> list[Int[Tensor, "_ seq"]]:
        """The calibration tokens as one forward call takes them: whole sequences, at least one."""
        tokens = self.calibration.tokens
        return list(tokens.split(max(1, self.batch_tokens // tokens.shape[1])))

    @property
    def identity(self) -> str:
        """What all that is cached of calibration depends on, beside what each of it adds."""
        parameter = next(self.loaded.model.parameters())
        return (
            f"{self.loaded.hash} {str(parameter.dtype).removeprefix('torch.')} "
            f"{parameter.device.type} {self.calibration.hash} {torch.__version__}"
        )

    @property
    def statistics_key(self) -> str:
        return f"{self.identity} {self.batch_tokens}"

    def calibrate(
        self,
        needs: frozenset[Need],
        gradient_sequences: int = GRADIENT_SEQUENCES,
        notice: Callable[[str], None] | None = None,
    ) -> "Calibrated":
        """Collects what `needs` names of the dense model, or reads it from the cache.

        Gradients are those of the first `gradient_sequences` calibration sequences; `notice` is
        told how much they take on disk, and how long it took.
        """
        model, gradients, stats = self.loaded.model, {}, unread(self.layout.layers)
        if wanted := needs - {Need.GRADIENTS}:
            stats = load_or_collect(
                cache_dir() / "statistics",
                self.statistics_key,
                model,
                self.layout,
                self.batches,
                wanted,
            )
        if Need.GRADIENTS in needs:
            tokens = self.calibration.tokens[:gradient_sequences]
            gradients = load_or_collect_gradients(
                cache_dir() / "gradients", self.identity, model, self.layout, tokens, notice
            ).layers
        return Calibrated(
            self.loaded,
            self.layout,
            self.calibration,
            self.batch_tokens,
            Evidence(stats, gradients),
        )


@dataclass(frozen=True, eq=False)
class Calibrated(Prepared):
    """A dense model with what its layers saw on the calibration text."""

    evidence: Evidence


def prepare(
    model: str, dtype: str, device: str, text: TextSpec, batch_tokens: int = 2048
) -> Prepared:
    """Loads the model and cuts its calibration text."""
    loaded = load(model, dtype=dtype, device=device)
    return Prepared(
        loaded, layout_of(loaded.model), token_batches(text, loaded.tokenizer), batch_tokens
    )


def rules_of(calibrated: Calibrated, names: Iterable[str]) -> dict[str, Rule]:
    """The published rules' profiles on this model, kept in the cache: spectra take a while."""
    c = calibrated
    found: dict[str, Rule] = {}
    for name in names:
        path = rule_path(c, name)
        if not path.exists():
            views = [
                LayerView(layer, read(c.loaded.model, layer), stats_of(c.evidence.stats, layer))
                for layer in c.layout.layers
            ]
            rule = RULES[name](views)
            write_json(path, {"factor": dict(rule.factor), "offset": dict(rule.offset)})
        # Read back even when just computed, so that a later run has the very same numbers.
        data = read_json(path)
        found[name] = Rule(data["factor"], data["offset"])
    return found


def rule_path(prepared: Prepared, name: str) -> Path:
    """Where a rule's profile on this model and calibration lies, if it is there."""
    p = prepared
    identity = f"1 {name} {p.loaded.hash} {p.layout.hash} {p.calibration.hash}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:32]
    return cache_dir() / "rules" / f"{digest}.json"
