"""A key holds all that its value depends on: another input, another key, in every cache."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from layouts import small_layout
from torch import nn

from optishear import pipeline
from optishear.calibration.gradients import LayerGradients
from optishear.calibration.origin import Around
from optishear.calibration.statistics import Gram, InputSq, Need
from optishear.models.load import LoadedModel
from optishear.pipeline import MeasurementSettings, identity_of
from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.solved import SolvedLayers
from optishear.recipe.layer_keys import layer_key
from optishear.recipe.layout import ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.records import cache
from optishear.runs import keys
from optishear.runs.prepare import Calibrated
from optishear.text.sources import TextSpec
from optishear.text.tokens import TokenBatches, token_batches


WORDS = " ".join(str(number) for number in range(400))
LAYOUT = small_layout()
DROP = {layer.name: layer.size // 2 for layer in LAYOUT.layers}
CALIBRATION = TextSpec("TEXT", "all", 4, 8, seed=0)
SEARCH = TextSpec("TEXT", "all", 4, 16, seed=1)
EVALUATION = TextSpec("TEXT", "all", 4, 24, seed=2)
BY = MeasurementSettings(("kl",), 64)
SAID = {
    "metric": {"name": "wanda"},
    "drop": DROP,
    "pattern": "row",
    "solver": {"name": "refit", "of": "mask"},
    "quadratic": {"name": "moonshot", "damping": 0.01, "lambda": dict.fromkeys(DROP, 0.5)},
}
RECIPE = Recipe.of(**SAID)


class Embedding(nn.Module):
    """As much of a model as keys ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 2)

    def get_input_embeddings(self):
        return self.embedding

    def get_output_embeddings(self):  # a causal language model has a head
        return self.embedding


class ByBytes:
    """A tokenizer that can tell what it does, so that its texts are kept; `shift` makes others."""

    def __init__(self, shift: int = 0) -> None:
        self.shift = shift
        self.backend_tokenizer = SimpleNamespace(to_str=lambda: f'{{"shift": {shift}}}')

    def __call__(self, texts, **_):
        return {"input_ids": [[byte + self.shift for byte in text.encode()] for text in texts]}


@dataclass(frozen=True)
class Inputs:
    """All that a value can depend on, as small as can be. No part of a model is ever run."""

    folder: Path
    model_hash: str = "a model"
    saved_as: str = "stored"
    layout: ModelLayout = LAYOUT
    dtype: torch.dtype = torch.float32
    place: str = ""
    text: TextSpec = CALIBRATION
    tokenizer: int = 0
    search: TextSpec = SEARCH
    evaluation: TextSpec = EVALUATION
    batch_tokens: int = 16
    parts: int = 1
    needs: frozenset[Need] = frozenset({InputSq})
    gradient_sequences: int = 4
    groups: int = 1
    recipe: Recipe = RECIPE
    mode: str = "one-shot"
    by: MeasurementSettings = BY
    around: Around | None = None
    rule_setting: tuple[str, str] = ("", "")  # of OWL, of AlphaPruning

    def tokens(self, spec: TextSpec) -> TokenBatches:
        """From a file that has the name of the source in it, so that it can be another one."""
        path = self.folder / "words.txt"
        path.write_text(WORDS if spec.source == "TEXT" else WORDS[::-1])
        return token_batches(replace(spec, source=str(path)), ByBytes(self.tokenizer))

    @property
    def calibrated(self) -> Calibrated:
        model = Embedding().to(self.dtype)
        loaded = LoadedModel(
            model, None, "m", self.folder, self.model_hash, self.dtype, self.saved_as
        )
        samples = self.gradient_sequences
        gradients = {"q": LayerGradients(torch.zeros(3, samples, 2).half(), torch.ones(samples))}
        return Calibrated(
            loaded,
            self.layout,
            self.tokens(self.text),
            self.batch_tokens,
            self.parts,
            self.place,
            self.around,
            data=CalibrationData({}, gradients),
        )

    def keys(self) -> dict[str, Any]:
        """Of every cache. What is kept in a file, by its path; a journal by its measure."""
        known, evaluation = self.calibrated, self.tokens(self.evaluation)
        measured = identity_of(
            known.loaded,
            known.layout,
            known.calibration,
            self.tokens(self.search),
            self.by,
            self.gradient_sequences,
            self.parts,
            around="" if self.around is None else self.around.text,
        )
        levels = keys.levels_key(known, self.gradient_sequences)
        said = self.recipe.default
        plain = Recipe.of(said.metric, self.recipe.drop, said.pattern, said.solver)
        held_out = [
            keys.held_out_key(known, recipe, self.mode, evaluation, self.by.batch_tokens).path
            for recipe in (self.recipe, plain, None)
        ]
        name = next(iter(self.recipe.drop))
        return {
            "statistics": keys.statistics_key(known, self.needs).path,
            "gradients": keys.gradients_key(known, self.gradient_sequences).path,
            "token weights": keys.token_weights_key(known, self.groups).path,
            "a rule that reads inputs": keys.rule_key(known, f"owl{self.rule_setting[0]}").path,
            "a rule of weights": keys.rule_key(known, f"alphapruning{self.rule_setting[1]}").path,
            "levels": SolvedLayers(self.folder, levels.text, 0).own,
            "a level": (levels.path, layer_key(self.recipe, LAYOUT.by_name[name])),
            "held out": held_out[0],
            "held out without gradients": held_out[1],
            "dense": held_out[2],
            "measure": measured,
            "evaluation": (measured, self.recipe.key),
        }


RULES = {"a rule that reads inputs", "a rule of weights"}
HELD_OUT = {"held out", "held out without gradients"}
SOLVED = {"levels", "a level", *HELD_OUT, "measure", "evaluation"}
SEEN = {"statistics", "a rule that reads inputs", *SOLVED}
ALL = {*SEEN, "gradients", "token weights", "a rule of weights", "dense"}
OF_RECIPES = {"a level", *HELD_OUT, "evaluation"}


def with_recipe(**changes):
    return lambda inputs: replace(inputs, recipe=Recipe.of(**{**SAID, **changes}))


def with_text(purpose, **changes):
    return lambda inputs: replace(inputs, **{purpose: replace(getattr(inputs, purpose), **changes)})


def with_by(**changes):
    return lambda inputs: replace(inputs, by=replace(inputs.by, **changes))


def given(**changes):
    return lambda inputs: replace(inputs, **changes)


NAMES = {"text": "calibration", "search": "search", "evaluation": "evaluation"}


def texts(purpose: str, changed: set[str]) -> dict[str, tuple[Callable[[Inputs], Inputs], set]]:
    return {
        f"the {NAMES[purpose]} text's {what}": (with_text(purpose, **change), changed)
        for what, change in {
            "content": {"source": "other"},
            "seed": {"seed": 7},
            "number of sequences": {"sequences": 3},
            "length of sequences": {"seq_len": 12},
        }.items()
    }


CHANGES: dict[str, tuple[Callable[[Inputs], Inputs], set[str]]] = {
    "the model": (given(model_hash="its next revision"), ALL),
    "the type saved in": (
        given(saved_as="float16"),
        ALL - {"measure", "evaluation"},  # a search saves nothing
    ),
    "the layout": (given(layout=small_layout(blocks=2)), ALL),
    "the dtype": (given(dtype=torch.bfloat16), ALL),
    **texts("text", {*SEEN, "gradients", "token weights"}),
    **texts("search", {"measure", "evaluation"}),
    **texts("evaluation", {*HELD_OUT, "dense"}),
    "batches of calibration": (
        given(batch_tokens=32),
        SEEN - {"measure", "evaluation"},  # one number in an experiment, which the measure has
    ),
    "batches of what is measured": (
        with_by(batch_tokens=32),
        {"measure", "evaluation", *HELD_OUT, "dense"},
    ),
    "calibration_parts": (given(parts=2), SEEN),
    "what it is around": (
        given(around=Around(RECIPE, 4)),
        {"statistics", *SOLVED},  # rules are of the dense model
    ),
    "what is summed up": (given(needs=frozenset({Gram})), {"statistics"}),
    "gradient sequences": (
        given(gradient_sequences=3),
        {"gradients", *SOLVED} - {"held out without gradients"},
    ),
    "row groups": (given(groups=2), {"token weights"}),
    "the metric": (with_recipe(metric={"name": "ria"}), OF_RECIPES),
    "the pattern": (with_recipe(pattern="layer"), OF_RECIPES),
    "the solver": (with_recipe(solver={"name": "mask"}), OF_RECIPES),
    "a setting of the solver": (
        with_recipe(metric={"name": "own"}, solver={"name": "refit", "of": "sparsegpt"}),
        OF_RECIPES,
    ),
    "the damping": (
        with_recipe(quadratic={**SAID["quadratic"], "damping": 0.1}),
        OF_RECIPES - {"held out without gradients"},
    ),
    "λ": (
        with_recipe(quadratic={**SAID["quadratic"], "lambda": dict.fromkeys(DROP, 0.25)}),
        OF_RECIPES - {"held out without gradients"},
    ),
    "what is dropped": (with_recipe(drop=dict.fromkeys(DROP, 5)), OF_RECIPES),
    "the mode": (given(mode="sequential"), HELD_OUT),
    "what is measured": (with_by(quantities=("kl", "perplexity")), {"measure", "evaluation"}),
    "rungs": (with_by(rungs=(16,)), {"measure", "evaluation"}),
    "compiled blocks": (with_by(compiled=True), {"measure", "evaluation"}),
    "CUDA graphs": (with_by(graphed=True), {"measure", "evaluation"}),
    "a rule's settings": (given(rule_setting=(":m=7", ":epsilon=0.2")), RULES),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTISHEAR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def inputs(tmp_path):
    return Inputs(tmp_path)


def differing(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name, key in before.items() if after[name] != key}


@pytest.mark.parametrize("what", CHANGES)
def test_another_input_is_another_key_wherever_it_counts_and_nowhere_else(inputs, what):
    change, changed = CHANGES[what]
    assert differing(inputs.keys(), change(inputs).keys()) == changed


def test_another_tokenizer_is_another_calibration(inputs):
    changed = differing(inputs.keys(), replace(inputs, tokenizer=1).keys())
    assert changed == {*ALL} - {"a rule of weights"}


@pytest.mark.parametrize("what", ["threads", "device", "kernels"])
def test_where_it_is_computed_is_in_every_key(inputs, what, monkeypatch):
    before = inputs.keys()
    if what == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
        want = ALL
    elif what == "kernels":
        for module in ("optishear.runs.keys", "optishear.pipeline"):
            monkeypatch.setattr(f"{module}.usable", lambda tensor: True)
        want = SOLVED | {"dense"}
    else:
        for module in ("optishear.runs.keys", "optishear.pipeline"):
            monkeypatch.setattr(f"{module}.kind_of_device", lambda model: "cuda")
        want = ALL
    assert differing(before, inputs.keys()) == want


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_a_streamed_model_is_where_it_computes_and_not_where_its_weights_are(inputs, place):
    changed = differing(inputs.keys(), replace(inputs, place=place).keys())
    assert changed == (set() if place == "cpu" else ALL - {"measure", "evaluation"})


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("statistics", SEEN | {"a rule of weights", "dense"}),
        ("gradients", {"gradients", "dense", *SOLVED}),
        ("token_weights", {"token weights"}),
        ("rules", RULES),
        ("levels", SOLVED | {"dense"}),
        ("held_out", {*HELD_OUT, "dense"}),
        ("measure", {"measure", "evaluation"}),
    ],
)
def test_other_code_answers_nothing_from_what_the_old_one_made(inputs, kind, changed, monkeypatch):
    before = inputs.keys()
    raised = replace(cache.KINDS[kind], version=cache.KINDS[kind].version + 1)
    monkeypatch.setitem(cache.KINDS, kind, raised)
    assert differing(before, inputs.keys()) == changed


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (given(around=Around(RECIPE, 3)), {"statistics", *SOLVED}),
        (given(around=Around(replace(RECIPE, order="site"), 4)), {"statistics", *SOLVED}),
        (given(gradient_sequences=3), {"gradients", *SOLVED} - {"held out without gradients"}),
    ],
)
def test_around_another_recipe_or_its_gradients_all_that_is_pruned_is_another(
    inputs, change, changed
):
    around = replace(inputs, around=Around(RECIPE, 4))
    assert differing(around.keys(), change(around).keys()) == changed


def test_block_by_block_every_recipe_is_around_itself(inputs):
    both = [
        replace(inputs, mode="sequential", around=around).keys()
        for around in (None, Around(RECIPE, 4))
    ]
    assert not HELD_OUT & differing(*both)


@pytest.mark.parametrize("kind", ["statistics", "gradients", "levels", "statistics_around"])
def test_around_old_code_answers_nothing_either(inputs, kind, monkeypatch):
    around = replace(inputs, around=Around(RECIPE, 4))
    before = around.keys()
    raised = replace(cache.KINDS[kind], version=cache.KINDS[kind].version + 1)
    monkeypatch.setitem(cache.KINDS, kind, raised)
    assert {"statistics", "levels", *HELD_OUT} <= differing(before, around.keys())


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_another_version_of_a_library_is_another_key(inputs, library, monkeypatch):
    before = inputs.keys()
    real = cache.library_version
    for module in (cache, pipeline):
        monkeypatch.setattr(
            module, "library_version", lambda name: "99" if name == library else real(name)
        )
    assert differing(before, inputs.keys()) == ALL


@pytest.mark.parametrize("kind", sorted(cache.KINDS.keys() - {"measure"}))
def test_every_part_every_library_and_the_code_are_in_a_key(kind, monkeypatch):
    known = cache.KINDS[kind]
    parts = dict.fromkeys(known.parts, "x")
    found = [cache.key(kind, parts)]
    found += [cache.key(kind, {**parts, part: "y"}) for part in parts]
    with monkeypatch.context() as patch:
        patch.setitem(cache.KINDS, kind, replace(known, version=99))
        found.append(cache.key(kind, parts))
    for library in known.libraries:
        with monkeypatch.context() as patch:
            patch.setattr(cache, "library_version", lambda name, it=library: name == it)
            found.append(cache.key(kind, parts))
    assert len({key.path for key in found}) == len(found)


def test_a_part_that_is_forgotten_or_unknown_is_a_bug():
    parts = dict.fromkeys(cache.KINDS["tokens"].parts, "x")
    with pytest.raises(ValueError, match="A key of tokens has the parts"):
        cache.key("tokens", {**parts, "more": 1})
    del parts["split"]
    with pytest.raises(ValueError, match="A key of tokens has the parts"):
        cache.key("tokens", parts)


def test_every_kind_is_made_from_kinds_of_the_list():
    for kind in cache.KINDS:
        assert cache.code_versions(kind).keys() <= cache.KINDS.keys()
