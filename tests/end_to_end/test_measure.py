"""Tiny real models through statistics, pruning and objectives; the dense model stays as it was."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import TINY

from optishear.calibration.collect import collect
from optishear.calibration.statistics import InputSq
from optishear.freed_memory import FreedMemory
from optishear.models.discover import layout_of
from optishear.models.load import LoadedModel
from optishear.models.weights import read
from optishear.pipeline import MeasurementSettings, identity_of, measure_on
from optishear.pruning.calibration_data import CalibrationData
from optishear.recipe.pattern import Row
from optishear.recipe.profile import Bounds, project
from optishear.recipe.recipe import Recipe
from optishear.text.tokens import TokenBatches


QUANTITIES = ("reconstruction", "relative_reconstruction", "kl", "perplexity", "sparsity", "bytes")
NEEDS = frozenset({InputSq})


class Line:
    """A tiny model with all that a measure of it needs."""

    def __init__(self, name):
        model = TINY[name]()
        vocab = model.config.vocab_size
        generator = torch.Generator().manual_seed(0)
        self.calibration, self.search = (
            TokenBatches.of(torch.randint(0, vocab, (6, 16), generator=generator), f"{purpose}")
            for purpose in ("calibration", "search")
        )
        self.loaded = LoadedModel(model, None, name, Path("nowhere"), "hash", torch.float32)
        self.layout = layout_of(model)
        self.stats = collect(model, self.layout, self.calibration.batches(6), NEEDS)

    def recipe(self, sparsity, metric="wanda"):
        targets = dict.fromkeys(self.layout.sizes, sparsity)
        budget = round(sparsity * self.layout.total)
        drop = project(targets, self.layout, Row(), Bounds(), budget)
        return Recipe.of({"name": metric}, drop, "row")

    def measure(self, *recipes, batch_tokens=32):
        with measure_on(
            self.loaded,
            self.layout,
            CalibrationData(self.stats),
            self.search,
            MeasurementSettings(QUANTITIES, batch_tokens),
        ) as measure:
            return [measure(recipe, self.search.tokens.numel()) for recipe in recipes]


@pytest.fixture(params=sorted(TINY))
def line(request):
    return Line(request.param)


def test_every_divergence_is_zero_for_the_unpruned_model(line):
    [values] = line.measure(line.recipe(0.0))
    assert values["reconstruction"] == values["relative_reconstruction"] == values["kl"] == 0
    assert values["sparsity"] == 0


def test_a_search_leaves_the_model_as_it_was(line):
    before = {name: p.detach().clone() for name, p in line.loaded.model.named_parameters()}
    [values] = line.measure(line.recipe(0.6))
    assert values["kl"] > 0
    assert values["sparsity"] == pytest.approx(0.6, abs=1e-3)
    assert all(torch.equal(p, before[name]) for name, p in line.loaded.model.named_parameters())


def test_values_do_not_depend_on_batching_or_on_what_was_measured_before(line):
    mild, harsh = line.recipe(0.3), line.recipe(0.7, "magnitude")
    alone, after = line.measure(mild), line.measure(harsh, mild)
    assert alone[0] == after[1]  # bit for bit
    other = line.measure(mild, batch_tokens=10_000)[0]
    for name, value in alone[0].items():
        assert other[name] == pytest.approx(value, rel=1e-4), name


def test_values_are_those_of_a_model_pruned_by_hand():
    line = Line("llama")
    recipe = line.recipe(0.5, "magnitude")
    [values] = line.measure(recipe)
    model, tokens = line.loaded.model, line.search.tokens
    dense = model(tokens, use_cache=False).logits.double()
    for layer in line.layout.layers:
        weight = read(model, layer)
        for index, row in enumerate(weight):
            each, more = divmod(recipe.drop[layer.name], layer.out_features)
            row[row.abs().argsort(stable=True)[: each + (index < more)]] = 0
    pruned = model(tokens, use_cache=False).logits.double()
    assert values["reconstruction"] == pytest.approx((pruned - dense).norm().item(), rel=1e-4)
    log_p, log_q = dense.log_softmax(-1), pruned.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean().item()
    assert values["kl"] == pytest.approx(kl, rel=1e-4)
    said = log_q[:, :-1].gather(2, tokens[:, 1:, None]).mean().item()
    assert values["perplexity"] == pytest.approx(np.exp(-said), rel=1e-5)
    zeros = sum(int((read(model, layer) == 0).sum()) for layer in line.layout.layers)
    assert zeros == sum(recipe.drop.values())


def test_the_identity_names_all_that_a_value_depends_on():
    line = Line("llama")
    args = (line.loaded, line.layout, line.calibration, line.search)
    by = MeasurementSettings(QUANTITIES, 32)
    plain = identity_of(*args, by)
    assert plain == identity_of(*args, MeasurementSettings(QUANTITIES, 32))
    swapped = identity_of(line.loaded, line.layout, line.search, line.calibration, by)
    assert swapped != plain
    others = {
        "quantities": QUANTITIES[:2], "batch_tokens": 64, "rungs": (16,), "compiled": True,
        "graphed": True, "mode": "sequential",
    }  # fmt: skip
    assert set(others) == {field.name for field in fields(MeasurementSettings)}
    for name, value in others.items():
        assert identity_of(*args, replace(by, **{name: value})) != plain, name
    assert {"threads", "torch", "optishear", "dtype", "model"} <= set(plain)


def test_freed_memory_is_given_back_after_each_candidate(monkeypatch):
    asked = []
    monkeypatch.setattr(FreedMemory, "give_back", lambda self: asked.append(self))
    line = Line("llama")
    line.measure(line.recipe(0.5), line.recipe(0.6))
    assert len(asked) == 2
    assert len(set(asked)) == 1
