"""Sizes of a pruned checkpoint against what one counts by hand."""

import pytest
import torch
from layouts import small_layout

from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.recipe.storage import SIZES, Storage, sizes, two_of_four_layers


LAYOUT = small_layout(blocks=1)  # 6 x 8 and 5 x 12
HALF = {"blocks.0.attn.q": 24, "blocks.0.mlp.down": 30}


def recipe(pattern, drop=None):
    return Recipe.of({"name": "wanda"}, drop or HALF, pattern)


def test_the_three_forms_of_a_2_of_4_recipe():
    found = sizes(recipe("n:4"), LAYOUT, Storage(other_weights=10, bytes_per_weight=2))
    assert tuple(found) == SIZES
    assert found["bytes_dense"] == (48 + 60 + 10) * 2
    assert found["bytes"] == 24 * 2 + 48 // 8 + 30 * 2 + 60 // 8 + 20
    # 54 values of two bytes, each with an index of two bits (13 whole bytes), 10 other weights
    assert found["bytes_2:4"] == 54 * 2 + 54 * 2 // 8 + 20
    assert found["share_2:4"] == 1.0


def test_an_unstructured_recipe_promises_no_2_of_4():
    found = sizes(recipe("row"), LAYOUT, Storage(10, 2))
    assert (found["share_2:4"], found["bytes_2:4"]) == (0.0, found["bytes_dense"])


@pytest.mark.parametrize(
    ("m", "kept", "promised"),
    [(4, 2, True), (4, 3, False), (4, 1, True), (2, 1, True), (2, 2, False), (8, 2, True),
     (8, 4, False), (12, 3, False), (4, 0, True)],
)  # fmt: skip
def test_a_layer_is_2_of_4_where_no_way_of_keeping_breaks_it(m, kept, promised):
    """Against all ways to keep `kept` of every m: is any group of four ever fuller than two?"""
    layer = Layer("x", 0, "x", 2, 24, "x")
    layout = ModelLayout((layer,))
    drop = {"x": layer.size // m * (m - kept)}
    found = bool(two_of_four_layers(layout, recipe(f"n:{m}", drop)))
    worst = torch.zeros(24 // m, m)
    fullest = 0
    for start in range(m - kept + 1):  # neighbours fill a group of four most
        worst.zero_()[:, start : start + kept] = 1
        fullest = max(fullest, int(worst.reshape(-1, 4).sum(1).max()))
    assert found == promised
    assert promised == (fullest <= 2)


def test_mixed_layers_count_by_their_weights():
    found = sizes(recipe("n:4", {**HALF, "blocks.0.attn.q": 12}), LAYOUT, Storage(0, 4))
    assert found["share_2:4"] == pytest.approx(60 / 108)
    assert found["bytes_2:4"] == 48 * 4 + 30 * 4 + 60 // 8
