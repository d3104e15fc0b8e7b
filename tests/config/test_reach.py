"""What calibration collects for a space: everything that any value of a gene may read."""

import pytest

from optishear.calibration.gradients import LayerGradients
from optishear.config.reach import check_space, needs_of_space
from optishear.errors import ConfigError
from optishear.search.space_file import SpaceSpec


def space(*formulas):
    return SpaceSpec.model_validate(
        {
            "metric": {"name": "tree", "formula": {"choice": list(formulas)}},
            "sparsity": {"budget": 0.5},
        }
    )


@pytest.mark.parametrize("formulas", [["W", "mul(W, G)"], ["mul(W, G)", "W"]])
def test_a_tree_anywhere_among_the_choices_that_reads_gradients_has_them_collected(formulas):
    assert LayerGradients in needs_of_space(space(*formulas))


def test_trees_without_gradients_do_not_ask_for_them():
    assert LayerGradients not in needs_of_space(space("W", "mul(W, X)"))


def test_every_choice_of_a_formula_is_read_before_a_model_is_loaded():
    with pytest.raises(ConfigError, match="Did you mean 'mul'"):
        check_space(space("W", "mull(W, X)"))


def of_solver(*solvers, **more):
    data = {"solver": list(solvers), "sparsity": {"budget": 0.5}, **more}
    return SpaceSpec.model_validate(data)


@pytest.mark.parametrize(
    "solver",
    [
        {"name": "alps", "iterations": {"integer": [10, 300]}},
        {"name": "sparsegpt", "block": {"choice": [32, 128]}},
        {"name": "refit", "of": "mask", "tolerance": {"real": [1e-5, 1e-2]}},
        {"name": "refit", "of": "sparsegpt", "tolerance": 1e-3, "block": 64},
    ],
)
def test_settings_of_solvers_can_be_genes(solver):
    check_space(of_solver(solver))


@pytest.mark.parametrize(
    ("solver", "sentence"),
    [
        (
            {"name": "alps", "iterations": {"integer": [0, 9]}},
            r"space\.solver\.0: .*is 0, expected",
        ),
        ({"name": "alps", "iterations": {"real": [1, 9]}}, "is 1.0, expected a whole number"),
        ({"name": "refit", "tolerance": {"real": [1e-5, 7]}}, "is 7.0, expected a number in"),
        ({"name": "sparsegpt", "blok": 64}, r"no setting blok\. Did you mean 'block'"),
        (
            {"name": "refit", "of": {"choice": ["sparsegpt", "mask"]}, "block": 64},
            "of 'mask' has no",
        ),
        ({"name": "refit", "of": ["mask"]}, r"of is \['mask'\]"),
    ],
)
def test_a_setting_that_a_solver_cannot_have_is_refused_before_a_model_is_loaded(solver, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check_space(of_solver(solver))


def test_a_setting_that_the_pattern_leaves_without_a_say_is_refused():
    solver = {"name": "sparsegpt", "block": {"choice": [32, 64]}}
    check_space(of_solver(solver, pattern="layer"))
    for pattern in ("block:128", "n:4"):
        with pytest.raises(ConfigError, match="block of solver 'sparsegpt' says nothing under"):
            check_space(of_solver(solver, pattern=pattern))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "1", {"real": [0, 9e999]}])
def test_a_metric_s_number_is_a_finite_one(value):
    metric = {"name": "power", "delta": value}
    with pytest.raises(
        ConfigError, match=r"delta of metric .power. is .*, expected a finite number"
    ):
        check_space(SpaceSpec.model_validate({"metric": metric, "sparsity": {"budget": 0.5}}))
