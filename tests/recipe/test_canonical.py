"""What is alike is one recipe, what is not stays apart, and recipes made before keep their keys."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import small_layout
from problems import ROWS, WIDTH, SmallLayer

from optishear.metrics import METRICS
from optishear.pruning.calibration_data import CalibrationData
from optishear.recipe.canonical import CHOOSES_ITSELF, canonical_recipe, canonical_solver
from optishear.recipe.layout import Layer
from optishear.recipe.metric_forms import reads_inputs
from optishear.recipe.pattern import Block, NofM, Row, WholeLayer
from optishear.recipe.quadratic import USUAL_DAMPING
from optishear.recipe.recipe import Recipe
from optishear.records.journal import recipe_of
from optishear.records.packed import content_of
from optishear.records.run_directory import runs_under
from optishear.solvers import methods
from optishear.solvers.methods import solver_of


RESULTS = Path(__file__).resolve().parents[2] / "results"
DROP = dict.fromkeys(small_layout().sizes, 12)
LAYERS = list(DROP)
PLAIN = {"name": "reconstruction"}
MASK, REFIT = {"name": "mask"}, {"name": "refit", "of": "mask"}
WANDA, MAGNITUDE = {"name": "wanda"}, {"name": "magnitude"}


def mixed(value=0.5, layers=LAYERS, **more):
    return {"name": "moonshot", "lambda": dict.fromkeys(layers, value), **more}


def canonical(metric=WANDA, solver=MASK, quadratic=PLAIN, pattern=Row(), drop=DROP):  # noqa: B008
    return canonical_recipe(Recipe.of(metric, drop, pattern, solver, quadratic))


def test_the_usual_recipe_has_no_quadratic_in_its_file_and_its_old_key():
    found = canonical()
    assert found == Recipe.of(WANDA, DROP)
    assert "quadratic" not in found.to_json()
    assert found.key == Recipe.of(WANDA, DROP).key == "00dfd0ab53ed7b22"


@pytest.mark.parametrize("run", runs_under(RESULTS), ids=lambda run: run.path.parts[-2])
def test_recipes_of_committed_runs_are_canonical_and_keep_their_keys(run):
    header, *entries = map(json.loads, content_of(run.journal).splitlines())
    assert entries
    for entry in entries:
        recipe = recipe_of(entry, header["layers"])
        found = canonical_recipe(recipe)
        assert found.key == recipe.key == entry["key"]


@pytest.mark.parametrize("solver", [*CHOOSES_ITSELF, "refit of sparsegpt"])
def test_where_the_solver_chooses_by_itself_the_metric_is_its_own(solver):
    spec = {"name": solver} if " " not in solver else {"name": "refit", "of": "sparsegpt"}
    found = {canonical({"name": name}, spec, mixed()).key for name in METRICS}
    assert len(found) == 1
    assert canonical(solver=spec).default.metric == {"name": "own"}


def test_a_refit_of_alps_is_alps_and_a_refit_of_nothing_said_is_of_the_mask():
    assert canonical(solver={"name": "refit", "of": "alps"}) == canonical(solver={"name": "alps"})
    assert canonical(solver={"name": "refit"}) == canonical(solver=REFIT)
    assert canonical(solver=REFIT) != canonical(solver=MASK)


def test_settings_that_no_solver_has_are_left_for_others_to_refuse():
    wrong = {"name": "refit", "of": "alps", "rounds": 3}
    assert canonical_solver(wrong) == {"name": "alps", "rounds": 3}
    assert canonical_solver({"name": "refti"}) == {"name": "refti"}


def test_a_lambda_of_one_everywhere_is_plain_reconstruction():
    assert canonical(quadratic=mixed(1.0)) == canonical(quadratic=mixed(1 - 1e-9)) == canonical()
    assert canonical(quadratic=mixed(0.5)) != canonical()
    some = {"name": "moonshot", "lambda": {**dict.fromkeys(LAYERS, 1.0), LAYERS[1]: 0.5}}
    assert canonical(quadratic=some).lambdas == {LAYERS[1]: 0.5}


@pytest.mark.parametrize("metric", [MAGNITUDE, {"name": "random"}, {"name": "power", "delta": 0.0}])
def test_lambda_changes_nothing_where_neither_scores_nor_weights_depend_on_it(metric):
    assert canonical(metric, quadratic=mixed()) == canonical(metric)
    assert canonical(metric, REFIT, mixed()) != canonical(metric, REFIT)


def test_a_mask_moves_no_weights_so_damping_is_nothing_to_it():
    damped = {**PLAIN, "damping": 0.1}
    assert canonical(quadratic=damped) == canonical()
    assert canonical(quadratic=mixed(damping=0.1)) == canonical(quadratic=mixed())
    assert canonical(solver=REFIT, quadratic=damped) != canonical(solver=REFIT)


def test_the_recipes_and_the_solvers_know_the_same_names():
    assert set(CHOOSES_ITSELF) < set(methods.CHOOSERS)
    for name, metric in METRICS.items():
        assert reads_inputs({"name": name}) == bool(metric.needs)


solvers = st.sampled_from(
    [MASK, REFIT, {"name": "sparsegpt"}, {"name": "refit", "of": "sparsegpt"}]
)
metrics = st.one_of(
    st.sampled_from([{"name": name} for name in METRICS]),
    st.builds(
        lambda delta: {"name": "power", "beta": 0.5, "mix": 0.25, "delta": delta},
        st.sampled_from([0.0, 0.5]),
    ),
    st.builds(
        lambda transform, coefficient: {
            "name": "meta",
            "input_transform": transform,
            "input_coefficient": coefficient,
        },
        st.sampled_from(["no_op", "pow", "softmax"]),
        st.sampled_from(["no_coe", "row_sum", "column_sum"]),
    ),
)
lambdas = st.sampled_from([0.0, 0.3, 1.0])
dampings = st.sampled_from([USUAL_DAMPING, 0.1])
patterns = st.sampled_from([Row(), WholeLayer(), Block(16), NofM(4)])
ONE = Layer("one", 0, "attn.q", ROWS, WIDTH, "one")


@settings(deadline=None, max_examples=120)
@given(metrics, solvers, lambdas, dampings, patterns)
def test_the_canonical_recipe_gives_the_weights_that_its_parts_give(
    metric, solver, lam, damping, pattern
):
    quadratic = mixed(lam, ["one"], damping=damping)
    said = Recipe.of(metric, {"one": ROWS * WIDTH // 2}, pattern, solver, quadratic)
    found = canonical_recipe(said)
    assert canonical_recipe(found) == found  # nothing is left to simplify
    parts = {"name": "own"} if found.default.metric == {"name": "own"} else metric
    plain = Recipe.of(parts, found.drop, pattern.text, solver, quadratic)
    layer = SmallLayer()
    data = CalibrationData({"one": layer.stats}, {"one": layer.gradients})
    ours, theirs = (
        solver_of(recipe.default).solve(data.problem(ONE, layer.weight, recipe)).weight
        for recipe in (found, plain)
    )
    assert torch.equal(ours, theirs)


def test_settings_are_in_the_canonical_form_where_they_are_not_usual():
    assert canonical_solver({"name": "sparsegpt", "block": 128}) == {"name": "sparsegpt"}
    assert canonical_solver({"name": "sparsegpt", "block": 64}) == {
        "name": "sparsegpt",
        "block": 64,
    }
    assert canonical_solver({"name": "refit", "tolerance": 1e-4}) == REFIT
    assert canonical_solver({"name": "refit", "of": "alps", "iterations": 9}) == {
        "name": "alps",
        "iterations": 9,
    }
