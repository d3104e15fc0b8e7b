"""Damping `auto`: a layer is what its chosen damping makes of it, in every mode alike, and told."""

import json
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
import torch
from tiny_folders import tensors_of, tiny_folder
from tiny_models import TINY, tokens

from optishear.calibration.held_back import cut, without_held_back
from optishear.calibration.parts import collect_in_parts, one_after_the_other, parts_of
from optishear.calibration.statistics import HeldBackGram, stats_of, summed
from optishear.errors import ConfigError
from optishear.export.checkpoint import REPORT_FILE
from optishear.models.discover import layout_of
from optishear.models.load import LoadedModel
from optishear.models.weights import read, working_weights
from optishear.pruning.block_loop import InMemory, apply_by_block
from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.oneshot import prune
from optishear.pruning.solved import SolvedLayers, Stored
from optishear.recipe.pattern import parse_pattern
from optishear.recipe.quadratic import AUTO, DAMPINGS
from optishear.recipe.recipe import Recipe
from optishear.solvers.methods import needs_of, solver_of
from optishear.text.sources import TextSpec
from optishear.tools.named import NamedMethod
from optishear.tools.prune import How, prune_to
from optishear.tools.prune_streamed import prune_streamed
from optishear.workers.calibration import collecting_on
from optishear.workers.cluster import Cluster, Workers
from optishear.workers.layers import pruning_on


HOW = How(TextSpec("embedded", "train", 10, 256))  # two batches, of which two are held back
OWN = {"name": "own"}
METHODS = {
    "refit": ({"name": "wanda"}, "row", {"name": "refit", "of": "mask"}),
    "sparsegpt": (OWN, "block:8", {"name": "sparsegpt"}),
    "alps": (OWN, "n:4", {"name": "alps"}),
}
SEQUENCES = tokens(9, 12, seed=4)


def recipe_for(layout, method, damping=AUTO, **more):
    metric, pattern, solver = METHODS[method]
    drop = {x.name: parse_pattern(pattern).uniform(x, 0.5) for x in layout.layers}
    quadratic = {"name": "reconstruction", "damping": damping}
    return Recipe.of(metric, drop, pattern, solver, quadratic, **more)


def calibrated(model, recipe):
    """One-shot statistics of the model."""
    layout, kinds = layout_of(model), summed(needs_of(recipe))
    before, after = cut(SEQUENCES.split(4), kinds)
    collect = one_after_the_other(model, layout)
    stats = collect_in_parts(collect, parts_of(before, 1), kinds, held_back=parts_of(after, 1))
    return layout, CalibrationData(stats)


def slow_errors(data, layer, weight, recipe):
    """By damping: the layer solved without the held-back sequences, its error on them in fp64."""
    stats = stats_of(data.stats, layer)
    seen = CalibrationData({layer.site: without_held_back(stats)})
    apart, dense, found = stats[HeldBackGram].total.double(), weight.double(), {}
    for damping in DAMPINGS:
        problem = seen.problem(layer, weight, with_damping(recipe, damping))
        change = solver_of(recipe.at(layer)).solve(problem).weight.double() - dense
        wrong = torch.trace(change @ apart @ change.T) / torch.trace(dense @ apart @ dense.T)
        found[damping] = wrong.item()
    return found


def with_damping(recipe, damping):
    quadratic = replace(recipe.default.quadratic, damping=damping)
    return replace(recipe, default=replace(recipe.default, quadratic=quadratic))


@pytest.mark.parametrize("method", ["refit", "sparsegpt"])
def test_the_layers_own_solver_by_brute_force_chooses_the_same(method):
    """The masks of both are the same at every trial, and these layers have few rows anyway."""
    model = TINY["llama"]()
    recipe = recipe_for(layout_of(model), method)
    layout, data = calibrated(model, recipe)
    for layer in layout.layers[:4]:
        weight = read(model, layer).detach()
        tried = data.problem(layer, weight, recipe).quadratic.tried
        slow = slow_errors(data, layer, weight, recipe)
        assert {each.damping: each.error for each in tried} == pytest.approx(slow, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_a_layer_is_what_the_number_would_have_made_of_it(kind, method):
    model = TINY[kind]()
    recipe = recipe_for(layout_of(model), method)
    layout, data = calibrated(model, recipe)
    dampings = set()
    for layer in layout.layers[len(layout.layers) // 2 :]:  # one block of two
        weight = read(model, layer).detach()
        got = solver_of(recipe.at(layer)).solve(data.problem(layer, weight, recipe))
        least = min(got.tried, key=lambda each: each.error)
        assert got.damping == least.damping
        assert [each.damping for each in got.tried] == list(DAMPINGS)
        given = with_damping(recipe, got.damping)
        want = solver_of(recipe.at(layer)).solve(data.problem(layer, weight, given))
        assert torch.equal(got.weight, want.weight)
        assert (got.cost, want.tried) == (want.cost, ())
        assert int((~got.keep).sum()) == recipe.drop[layer.name]
        dampings.add(got.damping)
    assert len(dampings) > 1


def test_a_mask_from_elsewhere_is_what_is_tried():
    model = TINY["llama"]()
    layout, data = calibrated(model, recipe_for(layout_of(model), "refit"))
    layer = layout.layers[0]
    weight = read(model, layer).detach()
    keep = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) > 0.5
    solver, drop = {"name": "refit", "of": "mask"}, {x.name: 0 for x in layout.layers}
    drop[layer.name] = int((~keep).sum())
    metric = {"name": "given", "hash": "0" * 16}
    recipe = Recipe.of(metric, drop, "layer", solver, {"name": "reconstruction", "damping": AUTO})
    got = data.with_masks({layer.name: keep}).problem(layer, weight, recipe)
    slow = {}
    for damping in DAMPINGS:
        seen = CalibrationData({layer.site: without_held_back(stats_of(data.stats, layer))})
        posed = seen.with_masks({layer.name: keep}).problem(
            layer, weight, with_damping(recipe, damping)
        )
        change = solver_of(recipe.at(layer)).solve(posed).weight - weight
        gram = stats_of(data.stats, layer)[HeldBackGram].total
        slow[damping] = (torch.trace(change @ gram @ change.T)).item() / torch.trace(
            weight @ gram @ weight.T
        ).item()
    assert {x.damping: x.error for x in got.quadratic.tried} == pytest.approx(slow, rel=1e-3)


@dataclass(frozen=True)
class Desk(Cluster):
    """A cluster that is this process."""

    asked: list = field(default_factory=list)

    @contextmanager
    def pool(self, payload):
        def run(calls):
            for call in calls:
                self.asked.append(call.method)
                yield call.key, getattr(payload, call.method)(*call.arguments)

        yield SimpleNamespace(run=run)


@pytest.mark.parametrize("sequential", [True, False])
def test_workers_choose_and_solve_the_same(sequential):
    model, found = TINY["llama"](), {}
    layout = layout_of(model)
    recipe, desk = recipe_for(layout, "sparsegpt"), Desk(Workers(2, 1), print)
    for who, solve in (("here", prune), ("there", pruning_on(desk))):
        with working_weights(model, layout) as working:
            source = InMemory(model, working, layout)
            reports = apply_by_block(
                source, recipe, SEQUENCES.split(4), sequential=sequential, prune_layers=solve
            )
            weights = {x.name: working.view(x.name).clone() for x in layout.layers}
        found[who] = reports, weights
    assert desk.asked == ["level"] * len(layout.layers)
    assert found["here"][0] == found["there"][0]
    assert all(torch.equal(w, found["there"][1][name]) for name, w in found["here"][1].items())
    assert all(len(report.tried) == len(DAMPINGS) for report in found["here"][0])


def test_workers_sum_up_the_same(tmp_path):
    model = TINY["llama"]()
    layout = layout_of(model)
    kinds = summed(needs_of(recipe_for(layout, "refit")))
    before, after = (parts_of(part, 2) for part in cut(SEQUENCES.split(2), kinds))
    loaded = LoadedModel(model, None, "tiny", tmp_path, "hash", model.dtype)
    on_desk = collecting_on(Desk(Workers(2, 1), print), loaded, layout)
    here = collect_in_parts(one_after_the_other(model, layout), before, kinds, held_back=after)
    there = collect_in_parts(on_desk, before, kinds, held_back=after)
    for site, stats in here.items():
        for kind in kinds:
            assert torch.equal(stats[kind].total, there[site][kind].total)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return tiny_folder("qwen2", tmp_path_factory.mktemp("dense"), torch.bfloat16)


@pytest.mark.parametrize("sequential", [True, False], ids=["block by block", "one-shot"])
def test_streamed_or_not_the_same_is_chosen_written_and_told(sequential, dense, tmp_path):
    how = replace(HOW, sequential=sequential)
    method = NamedMethod("sparsegpt", 0.5, quadratic={"damping": AUTO})
    prune_to(str(dense), method.on, tmp_path / "whole", how)
    prune_streamed(str(dense), method.on, tmp_path / "streamed", how)
    whole, streamed = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "streamed")
    assert whole.keys() == streamed.keys()
    assert all(torch.equal(tensor, streamed[name]) for name, tensor in whole.items())
    told = (tmp_path / "whole" / REPORT_FILE).read_text()
    assert told == (tmp_path / "streamed" / REPORT_FILE).read_text()
    for report in json.loads(told):
        assert [each["damping"] for each in report["tried"]] == list(DAMPINGS)
        assert report["damping"] == min(report["tried"], key=lambda x: x["error"])["damping"]


def test_too_few_sequences_are_refused_before_anything_is_pruned(dense, tmp_path):
    how = replace(HOW, calibration=TextSpec("embedded", "train", 3, 64))
    method = NamedMethod("sparsegpt", 0.5, quadratic={"damping": AUTO})
    for place, sequential in (("a", True), ("b", False)):
        with pytest.raises(ConfigError, match="one of 4, and there are 3"):
            prune_to(str(dense), method.on, tmp_path / place, replace(how, sequential=sequential))
        assert not (tmp_path / place).exists()


def test_the_level_database_keeps_what_was_tried(tmp_path):
    model = TINY["llama"]()
    recipe = recipe_for(layout_of(model), "refit")
    layout, data = calibrated(model, recipe)
    layer = layout.layers[0]
    problem = data.problem(layer, read(model, layer).detach(), recipe)
    solution = solver_of(recipe.at(layer)).solve(problem)
    assert Stored.of(layer.name, solution).tried == solution.tried != ()
    SolvedLayers(tmp_path, "a", 0).put("key", solution)
    again = SolvedLayers(tmp_path, "a", 10**9).get("key")
    assert (again.tried, again.damping) == (solution.tried, solution.damping)


@pytest.mark.parametrize("other", [{"guided": 2}, {"lambda": {"LAYER": 0.5}}])
def test_no_other_cost_has_a_part_in_it(other):
    layout = layout_of(TINY["llama"]())
    name = "moonshot" if "lambda" in other else "reconstruction"
    said = json.loads(json.dumps(other).replace("LAYER", layout.layers[0].name))
    quadratic = {"name": name, "damping": AUTO, **said}
    recipe = Recipe.of(OWN, dict.fromkeys(layout.sizes, 0), "row", {"name": "alps"}, quadratic)
    with pytest.raises(ConfigError, match="by the plain reconstruction error, and the layer's"):
        recipe.check(layout)
