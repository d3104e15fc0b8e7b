"""Layer sparsities that a recipe has, for another method and another sparsity."""

import json
from pathlib import Path

import pytest
from layouts import small_layout

from optishear.calibration.origin import Origin, write_recipe
from optishear.errors import ConfigError
from optishear.recipe.recipe import Recipe
from optishear.tools.named import NamedMethod


LAYOUT = small_layout()
SHARES = [0.3, 0.5, 0.7]
DROP = {
    layer.name: layer.out_features * int(layer.in_features * SHARES[index % 3])
    for index, layer in enumerate(LAYOUT.layers)
}


@pytest.fixture
def place(tmp_path):
    path = tmp_path / "found.json"
    write_recipe(path, Recipe.of({"name": "ria"}, DROP, "layer"), Origin())
    return str(path)


def test_without_a_sparsity_the_counts_are_the_recipes(place):
    found = NamedMethod("wanda", profile=place, refit=True).recipe(LAYOUT)
    assert found.drop == DROP
    assert list(found.drop) == [layer.name for layer in LAYOUT.layers]
    assert found.default.metric == {"name": "wanda"}  # all else is the method's
    assert found.default.pattern.text == "row"
    assert found.default.solver["name"] == "refit"


@pytest.mark.parametrize("more", [-0.1, 0.15])
def test_another_sparsity_moves_all_layers_alike_and_is_met_to_the_weight(place, more):
    own = LAYOUT.sparsity(DROP)
    found = NamedMethod("wanda", own + more, profile=place).recipe(LAYOUT)
    assert sum(found.drop.values()) == round((own + more) * LAYOUT.total)
    for layer in LAYOUT.layers:
        moved = (found.drop[layer.name] - DROP[layer.name]) / layer.size
        assert moved == pytest.approx(more, abs=1.5 / layer.size)


def test_counts_that_the_pattern_cannot_have_are_the_nearest_that_it_can(place):
    found = NamedMethod("wanda", pattern="n:4", profile=place).recipe(LAYOUT)
    assert all(found.drop[layer.name] * 4 % layer.size == 0 for layer in LAYOUT.layers)
    assert 0 <= sum(DROP.values()) - sum(found.drop.values()) < max(LAYOUT.sizes.values()) / 4


def test_a_recipe_of_another_model_is_refused(place):
    data = json.loads(Path(place).read_text())
    data["drop"]["model.layers.9.mlp"] = 4
    Path(place).write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=r"model.layers.9.mlp is a layer of one of them only"):
        NamedMethod("wanda", profile=place).recipe(LAYOUT)


def test_a_name_that_is_neither_rule_nor_place_says_both(tmp_path):
    with pytest.raises(ConfigError, match=r"Did you mean 'owl'.*And no run, folder or recipe"):
        NamedMethod("wanda", 0.5, profile="olw")
    with pytest.raises(ConfigError, match="has no setting 'lamda'"):
        NamedMethod("wanda", 0.5, profile="owl:lamda=3")
    with pytest.raises(ConfigError, match="needs --sparsity"):
        NamedMethod("wanda", profile="owl")
