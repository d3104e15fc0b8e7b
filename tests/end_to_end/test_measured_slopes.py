"""Slopes by one backward pass are what finite differences of the objective say, layer by layer."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import GATED, TINY, make

from optishear.calibration.collect import collect
from optishear.calibration.statistics import Gram, InputSq
from optishear.errors import ConfigError, NumericalError
from optishear.models.discover import layout_of
from optishear.models.load import LoadedModel
from optishear.models.weights import read
from optishear.objectives import make_objective
from optishear.objectives.slopes import SlopePart, slopes_of
from optishear.pipeline import MeasurementSettings, measure_on
from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.solved import SolvedLayers
from optishear.recipe.pattern import Row
from optishear.recipe.profile import Bounds, project
from optishear.recipe.recipe import Recipe
from optishear.text.tokens import TokenBatches


SUMMED = ("kl", "kl_top@5", "perplexity", "reconstruction", "centred_reconstruction")
NARROW = ("llama", "mixtral")  # their norms compute in fp32, whatever the model does


def log_p(model, tokens):
    return model(tokens, use_cache=False).logits.double().log_softmax(-1)


def bucketed(values, likeliest):
    top = values.gather(-1, likeliest)
    rest = torch.log1p(-top.exp().sum(-1, keepdim=True))
    return torch.cat([top, rest], -1)


@torch.no_grad()
def value(name, model, dense, tokens):
    """The objective by its definition, in fp64, with all logits there at once."""
    q = log_p(model, tokens)
    p = dense.log_softmax(-1)
    logits = model(tokens, use_cache=False).logits.double()
    if name == "kl":
        return (p.exp() * (p - q)).sum(-1).mean().item()
    if name == "kl_top@5":
        likeliest = dense.topk(5).indices
        a, b = bucketed(p, likeliest), bucketed(q, likeliest)
        return (a.exp() * (a - b)).sum(-1).mean().item()
    if name == "perplexity":
        said = q[:, :-1].gather(-1, tokens[:, 1:, None])
        return (-said).mean().exp().item()
    change = logits - dense
    if name == "centred_reconstruction":
        change = change - change.mean(-1, keepdim=True)
    return change.norm().item()


class Line:
    """A tiny model in fp64, and what its slopes are taken of."""

    def __init__(self, kind, solver=None, tmp=None):
        model = make("llama", GATED) if kind == "llama" else TINY[kind]()
        self.model, self.solver = model.double(), solver
        if kind == "mixtral":
            model.set_experts_implementation("eager")  # the grouped product knows no fp64
        self.eps, self.error = (1e-3, 2e-3) if kind in NARROW else (1e-6, 1e-5)
        self.layout = layout_of(model)
        generator = torch.Generator().manual_seed(0)
        vocab = model.config.vocab_size
        drawn = torch.randint(0, vocab, (9, 16), generator=generator)
        self.search = TokenBatches.of(drawn[4:], "search")
        self.tokens = drawn[4:]
        stats = collect(model, self.layout, [drawn[:4]], frozenset({InputSq, Gram}))
        self.data = CalibrationData(stats)
        self.solved = None if tmp is None else SolvedLayers(tmp, "tiny", 10**6)
        with torch.no_grad():
            self.dense = model(self.tokens, use_cache=False).logits.double()

    def recipe(self, sparsity=0.5):
        targets = dict.fromkeys(self.layout.sizes, sparsity)
        drop = project(targets, self.layout, Row(), Bounds(0.0, 0.9), None)
        return Recipe.of({"name": "wanda"}, drop, "row", self.solver)

    def counts(self, recipe, share=0.25):
        found = {}
        for layer in self.layout.layers:
            step = layer.out_features * max(1, round(share * layer.in_features))
            found[layer.name] = (max(0, recipe.drop[layer.name] - step),
                                 recipe.drop[layer.name] + step)  # fmt: skip
        return found

    def measuring(self, quantities=SUMMED, rungs=(), notice=lambda text: None):
        loaded = LoadedModel(self.model, None, "tiny", Path("nowhere"), "hash", torch.float64)
        by = MeasurementSettings(quantities, 32, rungs)
        return measure_on(
            loaded, self.layout, self.data, self.search, by, solved=self.solved, notice=notice
        )

    def slopes(self, measure, objective, recipe, counts, rung=None):
        parts = measure.slope_parts(objective, recipe, rung or self.search.units, counts)
        return slopes_of(make_objective(objective), parts, list(self.layout.sizes))

    def weights(self, layer, recipe):
        """What the recipe makes of one layer, by another way: alone in the model."""
        with self.measuring(("kl",)) as measure:
            measure(recipe, self.search.units)
            return read(self.model, layer).clone()


def differences(line, objective, recipe, counts):
    """(f(W + e D) - f(W - e D)) / 2 e with D = (W(c+) - W(c-)) / share, for every layer."""
    found, made = {}, {}
    for layer in line.layout.layers:
        fewer, more = counts[layer.name]
        ends = [
            line.weights(layer, recipe.with_drop({**recipe.drop, layer.name: count}))
            for count in (fewer, more)
        ]
        made[layer.name] = (ends[1] - ends[0]) / ((more - fewer) / layer.size)
    with line.measuring(("kl",)) as measure:
        measure(recipe, line.search.units)
        for layer in line.layout.layers:
            weight, along = read(line.model, layer), made[layer.name]
            before, values = weight.clone(), []
            for side in (1, -1):
                with torch.no_grad():
                    weight.copy_(before + side * line.eps * along)
                values.append(value(objective, line.model, line.dense, line.tokens))
            with torch.no_grad():
                weight.copy_(before)
            found[layer.name] = (values[0] - values[1]) / (2 * line.eps)
    return found


def close(line, got, want):
    scale = max(map(abs, want.values()))
    for name, slope in want.items():
        assert got[name] == pytest.approx(slope, rel=line.error, abs=line.error * scale), name
    return True


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_masks_by_rank_windows(kind):
    line = Line(kind)
    recipe = line.recipe()
    counts = line.counts(recipe)
    with line.measuring() as measure:
        _, got = line.slopes(measure, "kl", recipe, counts)
    assert close(line, got, differences(line, "kl", recipe, counts))


@pytest.mark.parametrize("objective", SUMMED)
def test_every_objective_with_slopes(objective):
    line = Line("gpt2")
    recipe = line.recipe()
    counts = line.counts(recipe)
    with line.measuring() as measure:
        here, got = line.slopes(measure, objective, recipe, counts)
    assert close(line, got, differences(line, objective, recipe, counts))
    with line.measuring() as measure:
        assert here == pytest.approx(measure(recipe, line.search.units)[objective], rel=1e-4)


def test_solved_levels_by_the_line_between_them(tmp_path):
    line = Line("gpt2", {"name": "refit", "of": "mask"}, tmp_path)
    recipe = line.recipe()
    counts = line.counts(recipe)
    with line.measuring() as measure:
        _, got = line.slopes(measure, "kl", recipe, counts)
    assert len(list(tmp_path.glob("*/*.safetensors"))) >= 3 * len(line.layout.layers)
    assert close(line, got, differences(line, "kl", recipe, counts))
    with line.measuring() as measure:  # now they are read
        assert line.slopes(measure, "kl", recipe, counts)[1] == got


def test_a_mask_slope_is_what_its_rank_window_weighs():
    """< dL/dW, -w > over the weights that rank between the two counts, over their share."""
    line = Line("llama")
    recipe = line.recipe()
    counts = line.counts(recipe)
    layer = line.layout.layers[0]
    with line.measuring() as measure:
        _, got = line.slopes(measure, "kl", recipe, counts)
        parameter = line.model.get_submodule(layer.name).weight
        parameter.requires_grad_(True)
        with torch.enable_grad():
            p = line.dense.log_softmax(-1)
            loss = (p.exp() * (p - log_p(line.model, line.tokens))).sum(-1).mean()
            [gradient] = torch.autograd.grad(loss, parameter)
    dense = read(line.model, layer)
    score = dense.abs() * line.data.stats[layer.site][InputSq].total.double().sqrt()
    rank = score.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    fewer, more = (count // layer.out_features for count in counts[layer.name])
    window = (rank >= fewer) & (rank < more)
    share = (more - fewer) / layer.in_features
    want = -(gradient * dense)[window].sum().item() / share
    assert got[layer.name] == pytest.approx(want, rel=1e-5)


def test_nothing_is_left_of_it_on_the_model():
    line = Line("llama")
    recipe, model = line.recipe(), line.model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    asked = {name: p.requires_grad for name, p in model.named_parameters()}
    with line.measuring() as measure:
        here = measure(recipe, line.search.units)
        line.slopes(measure, "kl", recipe, line.counts(recipe))
        assert all(p.grad is None and not p._post_accumulate_grad_hooks for p in model.parameters())
        assert {name: p.requires_grad for name, p in model.named_parameters()} == asked
        assert measure(recipe, line.search.units) == here
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_blocks_that_are_run_again_change_no_bit_and_where_they_cannot_be_it_is_told(
    kind, monkeypatch
):
    line, told = Line(kind), []
    line.model.float()
    recipe = line.recipe()
    found = []
    for why in (None, "block 1 alone is off by 0.1 of its norm"):
        if why:
            monkeypatch.setattr("optishear.pipeline.why_not_checkpointed", lambda *_, why=why: why)
        with line.measuring(("kl",), notice=told.append) as measure:
            for _ in range(2):
                found.append(line.slopes(measure, "kl", recipe, line.counts(recipe)))
    assert found == [found[0]] * 4
    assert told == [f"a backward pass keeps the activations of all blocks: {why}"]


def test_parts_of_the_batches_add_up_to_the_same_bits():
    line = Line("llama")
    recipe = line.recipe()
    counts = line.counts(recipe)
    with line.measuring() as measure:
        whole = line.slopes(measure, "kl", recipe, counts)
        split = [
            part
            for index in (1, 0)
            for part in measure.slope_parts("kl", recipe, line.search.units, counts, index, 2)
        ]
    assert slopes_of(make_objective("kl"), split, list(line.layout.sizes)) == whole


def test_a_rung_has_slopes_of_its_own():
    line = Line("llama")
    recipe = line.recipe()
    with line.measuring(rungs=(32,)) as measure:
        low, high = (
            line.slopes(measure, "kl", recipe, line.counts(recipe), rung)
            for rung in (32, line.search.units)
        )
    assert low[0] != high[0]


def test_a_layer_that_cannot_move_has_none():
    line = Line("llama")
    recipe = line.recipe()
    counts = {name: (drop, drop) for name, drop in recipe.drop.items()}
    moving = line.layout.layers[3].name
    counts[moving] = line.counts(recipe)[moving]
    with line.measuring() as measure:
        _, got = line.slopes(measure, "kl", recipe, counts)
        assert {name for name, slope in got.items() if slope} == {moving}
        still = {name: (drop, drop) for name, drop in recipe.drop.items()}
        assert not any(line.slopes(measure, "kl", recipe, still)[1].values())


def test_what_is_no_smooth_sum_has_none():
    line = Line("llama")
    recipe = line.recipe()
    with line.measuring(("kl", "sparsity")) as measure:
        with pytest.raises(ConfigError, match=r"sparsity: has no slopes, being no smooth sum"):
            measure.slope_parts("sparsity", recipe, line.search.units, line.counts(recipe))


def test_slopes_that_are_not_finite_are_a_failure():
    parts = [SlopePart(1.0, 10, {"a": 1.0}), SlopePart(1.0, 10, {"a": float("nan")})]
    with pytest.raises(NumericalError, match=r"a: its slope is nan"):
        slopes_of(make_objective("kl"), parts, ["a"])
    nothing = [replace(parts[0], total=0.0)]
    with pytest.raises(NumericalError, match="error of 0 has no slope"):
        slopes_of(make_objective("reconstruction"), nothing, ["a"])
