"""What a search keeps in memory or on disk saves time and changes no bit of any value."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import TINY

from optishear.calibration.collect import collect
from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import Gram, InputSq
from optishear.errors import ConfigError
from optishear.kernels.use import kernels
from optishear.models.discover import decoder_blocks, layout_of
from optishear.models.graphs import GraphedForward
from optishear.models.load import LoadedModel
from optishear.pipeline import MeasurementSettings, Memory, measure_on
from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.solved import SolvedLayers
from optishear.recipe.pattern import parse_pattern
from optishear.recipe.profile import Bounds, project
from optishear.recipe.recipe import Recipe
from optishear.text.tokens import TokenBatches


QUANTITIES = ("reconstruction", "kl", "kl_top@4", "perplexity", "sparsity", "taylor")
NEEDS = frozenset({InputSq, Gram})
NONE = Memory()
ALL = Memory(ranks=2**30, prefixes=2**30)
METRICS = (
    {"name": "wanda"},
    {"name": "ria"},
    {"name": "power", "alpha": 0.7, "delta": 0.4},
    {"name": "meta", "weight_transform": "exp"},
)


class Line:
    """A tiny model with all that a measure of it needs, and recipes in plenty."""

    def __init__(self, name):
        model = TINY[name]()
        vocab = model.config.vocab_size
        generator = torch.Generator().manual_seed(0)
        calibration, self.search = (
            TokenBatches.of(torch.randint(0, vocab, (6, 16), generator=generator), purpose)
            for purpose in ("calibration", "search")
        )
        self.loaded = LoadedModel(model, None, name, Path("nowhere"), "hash", torch.float32)
        self.layout = layout_of(model)
        stats = collect(model, self.layout, calibration.batches(6), NEEDS)
        gradients = {
            layer.name: LayerGradients(
                torch.randn(layer.out_features, 2, layer.in_features, generator=generator).half(),
                torch.ones(2),
            )
            for layer in self.layout.layers
        }
        self.data = CalibrationData(stats, gradients)
        self.total = self.search.tokens.numel()

    def recipes(self, count, solvers=({"name": "mask"},), pattern="row", seed=0):
        """Some with a metric or a block's sparsity in common, some with nothing."""
        generator = np.random.default_rng(seed)
        targets = dict.fromkeys(self.layout.sizes, 0.5)
        made = []
        for _ in range(count):
            block = generator.integers(self.layout.blocks)
            for layer in self.layout.layers:
                if layer.block == block:
                    targets[layer.name] = generator.choice([0.25, 0.5, 0.75])
            metric = (
                METRICS[generator.integers(len(METRICS))] if not made else made[-1].default.metric
            )
            if generator.random() < 0.3:
                metric = METRICS[generator.integers(len(METRICS))]
            drop = project(targets, self.layout, parse_pattern(pattern), Bounds(), None)
            solver = solvers[generator.integers(len(solvers))]
            made.append(Recipe.of(metric, drop, pattern, solver))
        return made

    def values(self, recipes, memory=NONE, rungs=(), asked=None, solved=None):
        with measure_on(
            self.loaded,
            self.layout,
            self.data,
            self.search,
            MeasurementSettings(QUANTITIES, 32, tuple(rungs)),
            memory,
            solved,
        ) as measure:
            return [measure(r, rung) for r in recipes for rung in asked or [self.total]]


@pytest.mark.parametrize("name", sorted(TINY))
def test_ranks_and_prefixes_change_no_bit(name):
    line = Line(name)
    recipes = line.recipes(6)
    assert line.values(recipes, ALL) == line.values(recipes)


@pytest.mark.parametrize("pattern", ["layer", "n:4", "block:8"])
def test_ranks_and_prefixes_change_no_bit_under_other_patterns(pattern):
    line = Line("llama")
    recipes = line.recipes(6, pattern=pattern)
    assert line.values(recipes, ALL) == line.values(recipes)


@pytest.mark.parametrize("limit", [1, 5_000, 20_000])
def test_too_little_memory_changes_no_bit_either(limit):
    line = Line("llama")
    recipes = line.recipes(12)
    few = Memory(ranks=limit, prefixes=2**14)
    assert line.values(recipes, few) == line.values(recipes)


def test_solved_layers_are_copied_to_the_bit_also_by_the_next_process(tmp_path):
    line = Line("llama")
    solvers = ({"name": "mask"}, {"name": "refit", "of": "mask"})
    recipes = line.recipes(6, solvers)
    plain = line.values(recipes)
    for _ in range(2):
        solved = SolvedLayers(tmp_path, "this model", 2**20)
        assert line.values(recipes, ALL, solved=solved) == plain
    assert any(tmp_path.rglob("*.safetensors"))


def test_what_is_stored_is_read_and_not_solved_again(tmp_path, monkeypatch):
    line = Line("llama")
    recipes = line.recipes(4, ({"name": "refit", "of": "mask"},))
    first = line.values(recipes, solved=SolvedLayers(tmp_path, "this model", 2**20))

    def refuse(*_):
        raise AssertionError("solved again")

    monkeypatch.setattr("optishear.solvers.refit.Refit.solve", refuse)
    assert line.values(recipes, solved=SolvedLayers(tmp_path, "this model", 0)) == first


@pytest.mark.parametrize("memory", [NONE, ALL])
def test_a_recipe_that_goes_on_to_more_tokens_ends_where_a_fresh_one_does(memory):
    line = Line("llama")
    recipes, rungs = line.recipes(6), (32, 64)
    climbed = line.values(recipes, memory, rungs, [*rungs, line.total])[2::3]
    assert climbed == line.values(recipes, memory, rungs)


def test_a_rung_is_measured_on_its_own_tokens_only():
    line = Line("llama")
    recipes, rungs = line.recipes(3), (32, 64)
    middle = line.values(recipes, ALL, rungs, [64])
    shortened = replace(line.search, tokens=line.search.tokens[:4])
    line.search, line.total = shortened, 64
    assert middle == line.values(recipes, ALL, (32,))


def test_a_lower_rung_can_be_asked_for_after_a_higher_one():
    line = Line("llama")
    recipes, rungs = line.recipes(2), (32, 64)
    up = line.values(recipes, ALL, rungs, [32, 64])
    down = line.values(recipes, ALL, rungs, [64, 32])
    assert [up[1], up[0], up[3], up[2]] == down


def test_rungs_that_cut_a_sequence_are_refused():
    line = Line("llama")
    with pytest.raises(ConfigError, match="24 is no number of whole sequences of 16"):
        line.values([], rungs=(24,))


def test_a_model_that_cannot_start_in_the_middle_goes_on_without(monkeypatch):
    line, said = Line("llama"), []
    recipes = line.recipes(3)

    def refuse(*_):
        raise NotReusable("it cannot")

    from optishear.models.prefix import NotReusable

    monkeypatch.setattr("optishear.pipeline.PrefixForward", refuse)
    with measure_on(
        line.loaded, line.layout, line.data, line.search, MeasurementSettings(QUANTITIES, 32),
        memory=ALL, notice=said.append,
    ) as measure:  # fmt: skip
        found = [measure(recipe, line.total) for recipe in recipes]
    assert found == line.values(recipes)
    assert said == ["it cannot"]


def test_forwards_as_graphs_change_no_bit(monkeypatch):
    """Graphs of a kind that a CPU can record too: one place for the answer, over and over."""

    def record(run):
        answer = run().clone()
        return lambda: answer.copy_(run())

    graphed = partial(GraphedForward, capture=record)
    monkeypatch.setattr("optishear.pipeline.GraphedForward", graphed)
    line, said = Line("llama"), []
    recipes = line.recipes(4)
    with measure_on(
        line.loaded, line.layout, line.data, line.search,
        MeasurementSettings(QUANTITIES, 32, graphed=True), memory=ALL, notice=said.append,
    ) as measure:  # fmt: skip
        found = [measure(recipe, line.total) for recipe in recipes]
    assert found == line.values(recipes)
    assert len(said) == 1
    assert "no prefixes" in said[0]


def test_kernels_give_the_same_values_to_rounding():
    pytest.importorskip("triton", reason="Triton is not installed: pip install 'optishear[dev]'")
    line = Line("llama")
    recipes = line.recipes(2, pattern="n:4")
    with kernels("interpret"), np.errstate(all="ignore"):
        found = line.values(recipes, ALL)
    for got, want in zip(found, line.values(recipes), strict=True):
        assert got == pytest.approx(want, rel=1e-5)
        assert got["reconstruction"] == want["reconstruction"]  # of the very same weights


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_give_the_same_values_to_rounding_and_are_given_back():
    """In a process of its own: the compiler minds which distutils other tests have imported."""
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    code = "import test_caches; test_caches.compare_compiled()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr


def compare_compiled():
    line, said = Line("llama"), []
    recipes = line.recipes(4)
    with measure_on(
        line.loaded, line.layout, line.data, line.search,
        MeasurementSettings(QUANTITIES, 32, compiled=True), memory=ALL, notice=said.append,
    ) as measure:  # fmt: skip
        assert all(block._compiled_call_impl for block in decoder_blocks(line.loaded.model)[1])
        found = [measure(recipe, line.total) for recipe in recipes]
    for got, want in zip(found, line.values(recipes), strict=True):
        assert got == pytest.approx(want, rel=1e-3)
    assert len(said) == 1
    assert not any(block._compiled_call_impl for block in decoder_blocks(line.loaded.model)[1])
