"""A recipe as a row: what it says of blocks and roles is what the layers say, weight by weight."""

import pytest
from layouts import small_layout

from optishear.recipe.features import features
from optishear.recipe.recipe import Recipe


LAYOUT = small_layout(blocks=11)


def recipe_on(layout, metric=None, **more):
    drop = {x.name: x.size * (1 + x.block) // 20 for x in layout.layers}
    return Recipe.of(metric or {"name": "wanda"}, drop, **more)


def test_sparsities_of_blocks_and_of_roles_both_add_up_to_the_recipe():
    recipe = recipe_on(LAYOUT)
    row = features(recipe, LAYOUT)
    for kind, groups in (("block", range(LAYOUT.blocks)), ("role", LAYOUT.roles)):
        total = 0.0
        for group in groups:
            name = f"{group:02d}" if kind == "block" else group
            members = [x.size for x in LAYOUT.layers if getattr(x, kind) == group]
            total += row[f"sparsity.{kind}.{name}"] * sum(members)
        assert total == pytest.approx(sum(recipe.drop.values()))


def test_names_of_blocks_sort_as_data_flows():
    names = [name for name in features(recipe_on(LAYOUT), LAYOUT) if ".block." in name]
    assert names == sorted(names)
    assert len(names) == 11


def test_settings_stand_under_the_name_of_their_part():
    solver = {"name": "refit", "of": {"name": "alps", "rho": 0.3}}
    row = features(recipe_on(LAYOUT, {"name": "power", "alpha": 1.5}, solver=solver), LAYOUT)
    assert (row["metric"], row["metric.alpha"], row["pattern"]) == ("power", 1.5, "row")
    assert (row["solver"], row["solver.of"], row["solver.of.rho"]) == ("refit", "alps", 0.3)
    assert row["damping"] == 0.01
    assert not [name for name in row if name.startswith("lambda")]


def test_a_mixed_lambda_is_the_mean_over_the_weights_of_a_group():
    first = LAYOUT.layers[0]
    quadratic = {"name": "moonshot", "lambda": {first.name: 0.25}}
    row = features(recipe_on(LAYOUT, quadratic=quadratic), LAYOUT)
    other = LAYOUT.layers[1]
    mean = (0.25 * first.size + other.size) / (first.size + other.size)
    assert row["lambda.block.00"] == pytest.approx(mean)
    assert row["lambda.block.01"] == 1.0
    assert row[f"lambda.role.{first.role}"] == pytest.approx((0.25 + 10) / 11)


def test_blocks_without_prunable_layers_are_left_out():
    layout = type(LAYOUT)(tuple(x for x in LAYOUT.layers if x.block != 4))
    assert "sparsity.block.04" not in features(recipe_on(layout), layout)
