"""What calibration collects for a space: everything that any value of a gene may read."""

import pytest

from optishear.calibration.statistics import Need
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
    assert Need.GRADIENTS in needs_of_space(space(*formulas))


def test_trees_without_gradients_do_not_ask_for_them():
    assert Need.GRADIENTS not in needs_of_space(space("W", "mul(W, X)"))


def test_every_choice_of_a_formula_is_read_before_a_model_is_loaded():
    with pytest.raises(ConfigError, match="Did you mean 'mul'"):
        check_space(space("W", "mull(W, X)"))
