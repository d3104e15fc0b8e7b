"""Parts by role: which a layer has, what a recipe's file and key say of them, exact budgets."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import llama_layout, small_layout

from optishear.errors import ConfigError
from optishear.recipe.canonical import canonical_recipe
from optishear.recipe.features import features, in_one_table
from optishear.recipe.layer_keys import layer_keys
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.pattern import NofM, Row, WholeLayer
from optishear.recipe.patterns import Asked, Patterns
from optishear.recipe.profile import Bounds, counts_within, project, uniform
from optishear.recipe.recipe import FORMAT_1, Recipe
from optishear.recipe.storage import two_of_four_layers
from optishear.recipe.transfer import transfer


LAYOUT = llama_layout(2)
HALF = {layer.name: layer.size // 2 for layer in LAYOUT.layers}
WANDA, RIA, MAGNITUDE = {"name": "wanda"}, {"name": "ria"}, {"name": "magnitude"}
MLP = ("mlp.*", {"pattern": "n:4", "metric": RIA})


def recipe(*roles, **parts):
    return Recipe.of(**{"metric": WANDA, "drop": HALF, "roles": roles, **parts})


def at(role):
    return next(layer for layer in LAYOUT.layers if layer.role == role)


def test_a_layer_has_what_the_first_entry_says_that_matches_its_role():
    found = recipe(("mlp.down_proj", {"pattern": "layer"}), MLP, ("*.?_proj", {"damping": 0.5}))
    assert found.at(at("mlp.down_proj")).pattern == WholeLayer()
    assert found.at(at("mlp.down_proj")).metric == WANDA
    assert found.at(at("mlp.up_proj")).pattern == NofM(4)
    assert found.at(at("mlp.up_proj")).metric == RIA
    assert found.at(at("self_attn.q_proj")).quadratic.damping == 0.5
    assert found.at(at("self_attn.q_proj")).pattern == Row()


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        (["mlp.*", "mpl.down_proj"], r"'mpl\.down_proj' matches no role .*'mlp\.down_proj'"),
        (["*_proj", "mlp.*"], r"'mlp\.\*' says nothing, since earlier entries match all"),
        (["mlp.*", "self_attn.*", "*"], r"'\*' says nothing, since earlier"),
    ],
)
def test_an_entry_about_no_role_is_refused_in_a_sentence(entries, sentence):
    with pytest.raises(ConfigError, match=sentence) as error:
        recipe(*[(match, {"metric": RIA}) for match in entries]).check(LAYOUT)
    assert "\n" not in str(error.value)


def test_a_file_of_format_2_is_read_as_it_was_written():
    found = recipe(MLP, ("self_attn.q_proj", {"solver": {"name": "refit", "of": "mask"}}))
    said = json.loads(json.dumps(found.to_json(), sort_keys=True))
    assert said["format"] == "optishear-recipe/2"
    assert said["roles"][0] == {"role": "mlp.*", "pattern": "n:4", "metric": RIA}
    again = Recipe.from_json(said)
    assert again == found
    assert again.key == found.key


def test_the_order_of_entries_that_overlap_is_in_the_key_and_that_of_others_is_not():
    narrow = ("mlp.down_proj", {"metric": MAGNITUDE})
    assert recipe(MLP, narrow).key != recipe(narrow, MLP).key
    other = ("mlp.up_proj", {"metric": RIA})
    assert recipe(other, narrow).key == recipe(narrow, other).key


def test_what_format_1_could_say_is_read_and_keeps_the_key_that_it_had():
    damped = recipe(quadratic={"name": "reconstruction", "damping": 0.1})
    mixed = {"name": "moonshot", "lambda": {"layers.0.mlp.up_proj": 0.25}}
    solver = {"name": "alps", "iterations": 9}
    other = recipe(pattern="n:4", solver=solver, quadratic=mixed)
    for said, key in ((damped, "8a7192ffde986a1b"), (other, "9710d4497a3edd95")):
        old = Recipe.from_json({**said.to_json(), "format": FORMAT_1})
        assert old == said
        assert old.key == key  # as the first version of the format had it


@pytest.mark.parametrize(
    ("roles", "sentence"),
    [
        ({"mlp.*": {}}, "roles: a list of entries was expected, found dict"),
        ([{"pattern": "row"}], r"roles\.0: role is missing"),
        ([{"role": "*", "patern": "row"}], r"roles\.0: unknown key 'patern'.* 'pattern'"),
        ([{"role": "*", "pattern": 4}], r"roles\.0: 'pattern' is no str"),
        ([{"role": "*", "pattern": "n4"}], "pattern 'n4' is unknown"),
        ([{"role": "*", "metric": {"alpha": 1}}], "metric: name is missing"),
        ([{"role": "*", "metric": {"name": "ria", "powr": 1}}], r"roles\.0\.metric: .*'power'\?"),
        ([{"role": "*", "solver": {"name": "alps", "iterations": 0}}], "iterations"),
        ([{"role": "*", "damping": 2}], r"damping is 2.* in \[0, 1\]"),
    ],
)
def test_a_damaged_entry_is_a_sentence(roles, sentence):
    with pytest.raises(ConfigError, match=f"r.json: .*{sentence}"):
        Recipe.from_json({**recipe().to_json(), "roles": roles}, "r.json")


def test_recipes_that_mean_the_same_are_one():
    layers = LAYOUT.layers
    plain = canonical_recipe(recipe(), layers)
    assert canonical_recipe(recipe(("mlp.*", {"metric": WANDA, "pattern": "row"})), layers) == plain
    point = {"name": "power", "alpha": 1, "delta": 1.0}  # Wanda, as a point of another form
    same = canonical_recipe(recipe(("mlp.*", {"metric": point})), layers)
    assert same.key == plain.key
    assert canonical_recipe(recipe(("*", {"metric": RIA})), layers) == recipe(metric=RIA)
    # Said of three roles, or of the other four.
    other = recipe(("self_attn.*", {}), ("*", {"metric": RIA}))
    assert (
        canonical_recipe(other, layers).key
        == canonical_recipe(recipe(("mlp.*", {"metric": RIA})), layers).key
    )
    assert canonical_recipe(other, layers).default.metric == WANDA


def test_the_canonical_form_is_one_and_says_the_same_of_every_layer():
    said = recipe(
        ("mlp.down_proj", {"solver": {"name": "sparsegpt"}, "pattern": "block:64"}),
        ("mlp.*", {"metric": MAGNITUDE, "damping": 0.3}),
        quadratic={"name": "moonshot", "lambda": dict.fromkeys(HALF, 0.5)},
    )
    found = canonical_recipe(said, LAYOUT.layers)
    assert canonical_recipe(found, LAYOUT.layers) == found
    assert found.at(at("mlp.down_proj")).metric == {"name": "own"}
    assert found.at(at("mlp.up_proj")).metric == MAGNITUDE
    assert found.at(at("mlp.up_proj")).quadratic.damping == 0.01  # which a mask does not read
    heard = {layer.name for layer in LAYOUT.layers if "up" not in layer.role}
    assert set(found.lambdas) == {name for name in heard if "gate" not in name}


def test_a_layer_s_key_is_that_of_the_same_parts_said_of_all_layers():
    found = layer_keys(recipe(MLP), LAYOUT.layers)
    rows, groups = recipe(), recipe(metric=RIA, pattern="n:4")
    for layer in LAYOUT.layers:
        alone = groups if layer.role.startswith("mlp") else rows
        assert found[layer.name] == layer_keys(alone, LAYOUT.layers)[layer.name]


def test_a_count_is_checked_under_the_pattern_of_its_layer():
    odd = {**HALF, "layers.1.mlp.up_proj": 12}
    with pytest.raises(ConfigError, match=r"layers\.1\.mlp\.up_proj: 12 .* pattern 'n:4'"):
        recipe(MLP, drop=odd).check(LAYOUT)
    recipe(MLP, drop={**HALF, "layers.1.self_attn.q_proj": 12}).check(LAYOUT)


def test_2_of_4_is_promised_only_where_it_is_the_pattern():
    found = {layer.role for layer in two_of_four_layers(LAYOUT, recipe(MLP))}
    assert found == {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}


def test_features_say_by_role_what_differs_and_all_rows_of_a_table_do_so():
    mixed, plain = features(recipe(MLP), LAYOUT), features(recipe(metric=MAGNITUDE), LAYOUT)
    assert mixed["metric.role.mlp.up_proj"] == "ria"
    assert mixed["pattern.role.self_attn.q_proj"] == "row"
    assert "metric" not in mixed
    first, second = in_one_table([mixed, plain], LAYOUT)
    assert second["metric.role.mlp.up_proj"] == "magnitude"
    assert first.keys() == second.keys()
    assert in_one_table([plain], LAYOUT) == [plain]


def test_roles_are_carried_to_another_model_by_what_they_do():
    roles = {"attn.c_attn": (96, 32), "attn.c_proj": (32, 32), "mlp.c_fc": (64, 32)}
    target = ModelLayout(
        tuple(
            Layer(f"h.{b}.{role}", b, role, *shape, f"h.{b}.{role}")
            for b in range(3)
            for role, shape in roles.items()
        )
    )
    found = transfer(recipe(MLP), LAYOUT, target).recipe
    found.check(target)
    assert found.at(target.by_name["h.1.mlp.c_fc"]).metric == RIA
    assert found.at(target.by_name["h.1.attn.c_attn"]).metric == WANDA
    assert found.drop["h.1.mlp.c_fc"] == 64 * 32 // 2
    assert transfer(recipe(MLP), LAYOUT, LAYOUT).recipe == recipe(MLP)


TARGETS = st.lists(st.floats(-0.5, 1.5), min_size=20, max_size=20)
SHAPES = st.lists(
    st.tuples(st.integers(3, 20), st.integers(1, 12), st.sampled_from(["a", "b", "c"])),
    min_size=1,
    max_size=10,
)
MIXED = Patterns(Asked(Row()), (("b", Asked(NofM(4))), ("c", Asked(NofM(4), 0.5))))


@settings(deadline=None, max_examples=150)
@given(SHAPES, TARGETS, st.floats(0.05, 0.9))
def test_a_budget_on_mixed_patterns_is_met_to_the_weight_where_layers_can_lose_any_number(
    shapes, raw, sparsity
):
    layers = [
        Layer(f"l{i}", i, role, out, 4 * in_, f"l{i}") for i, (out, in_, role) in enumerate(shapes)
    ]
    layout, bounds = ModelLayout(tuple(layers)), Bounds(0.05, 0.9)
    targets, budget = dict(zip(layout.sizes, raw, strict=False)), round(sparsity * layout.total)
    reach = {layer.name: counts_within(layer, MIXED, bounds) for layer in layers}
    least, most = sum(r[0] for r in reach.values()), sum(r[-1] for r in reach.values())
    if not least <= budget <= most:
        with pytest.raises(ConfigError, match=r"cannot be met: .* it lies between"):
            project(targets, layout, MIXED, bounds, budget)
        return
    counts = project(targets, layout, MIXED, bounds, budget)
    total = sum(counts.values())
    for layer in layers:
        assert counts[layer.name] in reach[layer.name]
        if layer.role == "c":
            assert counts[layer.name] == layer.size // 2
    fine = sum(len(reach[x.name]) - 1 for x in layers if x.role == "a")
    steps = [reach[x.name].step for x in layers if x.role == "b"]
    if fine >= max(steps, default=0) and any(x.role == "a" for x in layers):
        assert total == budget
    assert total <= budget
    for layer in layers:  # no layer could lose one more step within it
        more = counts[layer.name] + reach[layer.name].step
        assert more > reach[layer.name][-1] or total - counts[layer.name] + more > budget


def test_where_a_role_has_2_of_4_the_others_meet_the_rest():
    patterns = Patterns.asked("row", {"mlp.*": "2:4"})
    counts = uniform(LAYOUT, patterns, 0.6)
    mlp = [layer for layer in LAYOUT.layers if layer.role.startswith("mlp")]
    assert all(counts[layer.name] == layer.size // 2 for layer in mlp)
    assert LAYOUT.sparsity(counts) == pytest.approx(0.6, abs=1e-3)
    budget = round(0.6 * LAYOUT.total)
    exact = project(dict.fromkeys(LAYOUT.sizes, 0.3), LAYOUT, patterns, Bounds(), budget)
    assert sum(exact.values()) == budget
    with pytest.raises(ConfigError, match=r"0\.05 cannot be met: the layers whose pattern fixes N"):
        uniform(LAYOUT, patterns, 0.05)


def test_one_pattern_said_by_role_gives_the_counts_that_it_gives_alone():
    layout = small_layout(scale=4)
    raw = dict(zip(layout.sizes, np.linspace(0.2, 0.9, 6).tolist()))
    for pattern in (Row(), NofM(4)):
        said = Patterns(Asked(WholeLayer()), (("*", Asked(pattern)),))
        both = [project(raw, layout, given, Bounds(), 900) for given in (pattern, said)]
        assert both[0] == both[1]
