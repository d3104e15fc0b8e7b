"""Target shift and order as data: read, written, keyed, canonical; the usual changes nothing."""

import json

import pytest
from layouts import llama_layout

from optishear.errors import ConfigError
from optishear.recipe.canonical import canonical_recipe
from optishear.recipe.features import features, in_one_table
from optishear.recipe.layer_keys import layer_keys
from optishear.recipe.recipe import Recipe
from optishear.recipe.transfer import transfer


LAYOUT = llama_layout(2)
HALF = {layer.name: layer.size // 2 for layer in LAYOUT.layers}
OWN, WANDA, MASK, REFIT = {"name": "own"}, {"name": "wanda"}, {"name": "mask"}, {"name": "refit"}


def recipe(metric=WANDA, solver=REFIT, roles=(), order="block", **quadratic):
    spec = {"name": "reconstruction", **quadratic}
    return Recipe.of(metric, HALF, "row", solver, spec, roles, order)


def again(found):
    return Recipe.from_json(json.loads(json.dumps(found.to_json())))


@pytest.mark.parametrize(
    "found",
    [
        recipe(target_shift=0.5),
        recipe(order="site"),
        recipe(target_shift=1, damping=0.1, order="site"),
        recipe(roles=[("mlp.*", {"target_shift": 0.25})]),
        recipe(target_shift=0.5, roles=[("mlp.*", {"target_shift": 0.0, "damping": 0.2})]),
    ],
    ids=str,
)
def test_a_file_is_read_as_it_was_written_and_each_has_a_key_of_its_own(found):
    assert again(found) == found
    assert again(found).key == found.key != recipe().key
    found.check(LAYOUT)


def test_what_there_was_before_keeps_its_key():
    assert recipe().key == recipe(target_shift=0.0).key == recipe(target_shift=0).key
    assert recipe().key == "13d8c8215e368100"  # as before there was a target shift
    assert "order" not in recipe().to_json()
    [layer] = LAYOUT.layers[:1]
    assert "shift" not in layer_keys(recipe(), [layer])[layer.name]


def test_layers_of_another_shift_have_another_key():
    keys = [layer_keys(recipe(target_shift=a), LAYOUT.layers) for a in (0.0, 0.5, 0.75)]
    assert all(len({key[name] for key in keys}) == 3 for name in HALF)


def test_a_mask_reads_the_damping_where_its_target_is_shifted():
    plain = canonical_recipe(recipe(solver=MASK, damping=0.1))
    shifted = canonical_recipe(recipe(solver=MASK, damping=0.1, target_shift=0.5))
    assert plain.default.quadratic.damping == 0.01
    assert shifted.default.quadratic.damping == 0.1


def test_no_shift_is_the_recipe_without_it_and_order_says_nothing_where_nothing_is_read():
    assert canonical_recipe(recipe(target_shift=0)) == canonical_recipe(recipe())
    magnitude = {"name": "magnitude"}
    same = [canonical_recipe(recipe(magnitude, MASK, order=o)) for o in ("block", "site")]
    assert same[0] == same[1]
    by_site = canonical_recipe(recipe(order="site"))
    assert by_site.order == "site"
    shifted = canonical_recipe(recipe(magnitude, MASK, order="site", target_shift=0.5))
    assert shifted.order == "site"


def test_they_are_carried_over_to_another_model():
    there = llama_layout(3)
    found = transfer(recipe(OWN, {"name": "alps"}, order="site", target_shift=0.5), LAYOUT, there)
    assert found.recipe.order == "site"
    assert found.recipe.default.quadratic.target_shift == 0.5


def test_a_table_says_them_of_all_recipes_where_one_has_them():
    rows = [features(r, LAYOUT) for r in (recipe(), recipe(target_shift=0.5), recipe(order="site"))]
    table = in_one_table(rows, LAYOUT)
    assert [row["target_shift"] for row in table] == [0, 0.5, 0]
    assert [row["order"] for row in table] == ["block", "block", "site"]
    assert in_one_table(rows[:1], LAYOUT) == rows[:1]
    assert "order" not in rows[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"order": "sites"}, r"order: is 'sites', expected one of block, site"),
        ({"order": 3}, r"order: is 3, expected one of block, site"),
        (
            {"quadratic": {"name": "reconstruction", "target_shift": 1.5}},
            r"target_shift is 1\.5, expected a share of the whole shift in \[0, 1\]",
        ),
        (
            {"quadratic": {"name": "reconstruction", "target_shift": True}},
            r"target_shift is True, expected a share",
        ),
        (
            {"roles": [{"role": "mlp.*", "target_shift": "all"}]},
            r"roles\.0: target_shift is 'all', expected a share",
        ),
        ({"roles": [{"role": "mlp.*", "target_shft": 1}]}, "Did you mean 'target_shift'"),
    ],
)
def test_bad_values_are_a_sentence(change, said):
    with pytest.raises(ConfigError, match=said):
        Recipe.from_json({**recipe().to_json(), **change}, "here.json")


def test_what_only_block_by_block_knows_is_told():
    assert recipe().only_by_block() == []
    assert recipe(target_shift=0.5).only_by_block() == ["a target shift"]
    assert recipe(roles=[("mlp.*", {"target_shift": 1})]).only_by_block() == ["a target shift"]
    assert recipe(order="site").only_by_block() == ["an order by site"]
    assert recipe(order="site", target_shift=0.5).only_by_block(around=True) == []
