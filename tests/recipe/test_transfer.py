"""A recipe carried to another model: the same one at home, the budget kept abroad."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import llama_layout

from optishear.errors import ConfigError
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.quadratic import QuadraticSettings, canonical_quadratic
from optishear.recipe.recipe import Recipe
from optishear.recipe.transfer import carry, match_roles, transfer


LLAMA = {
    "self_attn.q_proj": (6, 8),
    "self_attn.k_proj": (3, 8),
    "self_attn.v_proj": (3, 8),
    "self_attn.o_proj": (8, 12),
    "mlp.gate_proj": (10, 8),
    "mlp.up_proj": (10, 8),
    "mlp.down_proj": (5, 16),
}
GPT2 = {
    "attn.c_attn": (15, 8),
    "attn.c_proj": (7, 8),
    "mlp.c_fc": (9, 8),
    "mlp.c_proj": (8, 12),
}
NEOX = {
    "attention.query_key_value": (15, 8),
    "attention.dense": (7, 8),
    "mlp.dense_h_to_4h": (9, 8),
    "mlp.dense_4h_to_h": (8, 12),
}
OPT = {
    "self_attn.q_proj": (6, 8),
    "self_attn.k_proj": (6, 8),
    "self_attn.v_proj": (6, 8),
    "self_attn.out_proj": (8, 12),
    "fc1": (10, 8),
    "fc2": (5, 16),
}
MIXTRAL = {
    **{role: shape for role, shape in LLAMA.items() if role.startswith("self_attn")},
    "mlp.experts.gate_up_proj": (14, 8),
    "mlp.experts.down_proj": (8, 12),
}
FAMILIES = {"llama": LLAMA, "gpt2": GPT2, "neox": NEOX, "opt": OPT, "mixtral": MIXTRAL}


def layout_with(roles, blocks, experts=1, scale=1):
    layers = []
    for block in range(blocks):
        for role, (out, in_) in roles.items():
            for index in range(experts if "experts" in role else 1):
                name = f"h.{block}.{role}.{index}"
                layers.append(Layer(name, block, role, out * scale, in_ * scale, name))
    return ModelLayout(tuple(layers))


layouts = st.builds(
    lambda family, blocks, experts: layout_with(FAMILIES[family], blocks, experts),
    st.sampled_from(sorted(FAMILIES)),
    st.integers(1, 7),
    st.integers(1, 3),
)
patterns = st.sampled_from(["row", "layer", "block:5", "n:4", "n:2"])


def drawn(data, layout, pattern):
    """Any recipe that fits: any count a layer, nothing and everything among them; any λ."""
    drop = {}
    for layer in layout.layers:
        step = layer.size // int(pattern[2:]) if pattern.startswith("n:") else 1
        drop[layer.name] = step * data.draw(st.integers(0, layer.size // step))
    lambdas = {layer.name: data.draw(st.floats(0, 1)) for layer in layout.layers}
    mixed = data.draw(st.booleans())
    damping = data.draw(st.sampled_from([0.01, 0.1]))
    quadratic = canonical_quadratic(lambdas if mixed else {}, QuadraticSettings(damping))
    return Recipe.of({"name": "wanda"}, drop, pattern, {"name": "refit", "of": "mask"}, quadratic)


@settings(deadline=None, max_examples=60)
@given(st.data(), layouts, patterns)
def test_a_transfer_onto_the_same_model_is_the_same_recipe(data, layout, pattern):
    recipe = drawn(data, layout, pattern)
    assert transfer(recipe, layout, layout).recipe.key == recipe.key


@pytest.mark.parametrize("pattern", ["row", "n:4"])
def test_a_transfer_onto_the_same_model_is_exact_at_the_sizes_of_real_models(pattern):
    """Up to 4,096 x 14,336 weights a layer: rounding must not lose one of them."""
    layout = layout_with({"self_attn.q_proj": (4096, 4096), "mlp.down_proj": (4096, 14336)}, 32)
    drop = {
        layer.name: layer.size // 4 * (index % 3 + 1)
        if pattern == "n:4"
        else layer.size * 3 // 5 + index
        for index, layer in enumerate(layout.layers)
    }
    recipe = Recipe.of({"name": "wanda"}, drop, pattern)
    assert transfer(recipe, layout, layout).recipe == recipe


@settings(deadline=None, max_examples=60)
@given(st.data(), layouts, layouts, patterns)
def test_the_budget_of_the_target_is_that_of_the_source(data, source, target, pattern):
    """To the weight; under N:M from below, so that no layer could lose one more step within it."""
    recipe = drawn(data, source, pattern)
    found = transfer(recipe, source, target).recipe
    found.check(target)
    budget = round(source.sparsity(recipe.drop) * target.total)
    total = sum(found.drop.values())
    if pattern.startswith("n:"):
        assert total <= budget
        steps = {layer.name: layer.size // int(pattern[2:]) for layer in target.layers}
        open_ = [name for name, size in target.sizes.items() if found.drop[name] < size]
        few = max(recipe.drop[n] / source.sizes[n] for n in source.sizes) <= 0.99
        limits = {n: size - steps[n] if few else size for n, size in target.sizes.items()}
        assert all(total + steps[n] > budget for n in open_ if found.drop[n] < limits[n])
    else:
        assert total == budget


@settings(deadline=None, max_examples=60)
@given(layouts, layouts, st.floats(0, 1))
def test_a_constant_profile_stays_that_constant(source, target, value):
    values = dict.fromkeys(source.sizes, value)
    assert set(carry(values, source, target, match_roles(source, target)).values()) == {value}


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(2, 9), st.integers(1, 23))
def test_a_profile_that_rises_with_depth_rises_on_the_target_too(data, blocks, target_blocks):
    source, target = layout_with(LLAMA, blocks), layout_with(OPT, target_blocks)
    values = {}
    for role in source.roles:
        steps = sorted(data.draw(st.floats(0, 1)) for _ in range(blocks))
        names = [layer.name for layer in source.layers if layer.role == role]
        values |= dict(zip(names, steps, strict=True))
    carried = carry(values, source, target, match_roles(source, target))
    for role in target.roles:
        along = [carried[layer.name] for layer in target.layers if layer.role == role]
        assert all(a <= b for a, b in itertools.pairwise(along))
        assert min(values.values()) <= along[0] <= along[-1] <= max(values.values())


def test_between_two_blocks_the_value_is_read_off_the_line_between_them():
    source, target = layout_with(GPT2, 3), layout_with(GPT2, 5)
    values = {layer.name: [0.2, 0.6, 0.4][layer.block] for layer in source.layers}
    carried = carry(values, source, target, match_roles(source, target))
    along = [carried[layer.name] for layer in target.layers if layer.role == "mlp.c_fc"]
    assert along == pytest.approx([0.2, 0.4, 0.6, 0.5, 0.4])


def test_a_model_of_one_block_reads_the_middle():
    source, target = layout_with(GPT2, 3), layout_with(GPT2, 1)
    values = {layer.name: [0.2, 0.6, 0.4][layer.block] for layer in source.layers}
    assert set(carry(values, source, target, match_roles(source, target)).values()) == {0.6}


def rules(source, target):
    found = match_roles(layout_with(FAMILIES[source], 2), layout_with(FAMILIES[target], 2))
    return {role: (*sources, rule) for role, (sources, rule) in found.items()}


def test_the_same_path_is_the_first_choice():
    assert rules("llama", "opt")["self_attn.q_proj"] == ("self_attn.q_proj", "same path")


def test_a_fused_projection_reads_its_parts_and_each_part_the_fused_one():
    assert rules("llama", "gpt2") == {
        "attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "synonym"),
        "attn.c_proj": ("self_attn.o_proj", "synonym"),
        "mlp.c_fc": ("mlp.up_proj", "synonym"),
        "mlp.c_proj": ("mlp.down_proj", "synonym"),
    }
    back = rules("neox", "llama")
    assert {back[f"self_attn.{x}_proj"] for x in "qkv"} == {
        ("attention.query_key_value", "synonym")
    }
    assert back["mlp.gate_proj"] == back["mlp.up_proj"] == ("mlp.dense_h_to_4h", "synonym")
    assert rules("llama", "mixtral")["mlp.experts.gate_up_proj"] == (
        "mlp.gate_proj",
        "mlp.up_proj",
        "synonym",
    )
    assert rules("llama", "mixtral")["mlp.experts.down_proj"] == ("mlp.down_proj", "same name")


def test_one_last_name_in_both_halves_of_a_block_is_not_taken_for_the_other():
    other = {"attention.c_proj": (7, 8), "ffn.c_proj": (8, 12)}
    found = match_roles(layout_with(other, 2), layout_with(GPT2, 2))
    assert found["attn.c_proj"] == (("attention.c_proj",), "same name")
    assert found["mlp.c_proj"] == (("ffn.c_proj",), "same name")


def test_an_unknown_role_reads_the_mean_of_the_block():
    mamba = layout_with({"mixer.in_proj": (9, 8)}, 2)
    source = layout_with({"attn.c_attn": (1, 8), "mlp.c_fc": (3, 8)}, 2)
    values = {layer.name: 0.8 if layer.role == "attn.c_attn" else 0.4 for layer in source.layers}
    matched = match_roles(source, mamba)
    assert matched == {"mixer.in_proj": ((), "block mean")}
    carried = carry(values, source, mamba, matched)
    assert list(carried.values()) == pytest.approx([0.5, 0.5])


def test_the_mean_over_fused_parts_is_over_weights():
    source, target = layout_with(LLAMA, 1), layout_with(GPT2, 1)
    values = dict.fromkeys(source.sizes, 0.0) | {"h.0.self_attn.q_proj.0": 0.6}
    carried = carry(values, source, target, match_roles(source, target))
    assert carried["h.0.attn.c_attn.0"] == pytest.approx(0.6 * 6 / (6 + 3 + 3))


def test_experts_keep_their_own_sparsity_where_there_are_as_many_and_read_the_mean_where_not():
    source = layout_with(MIXTRAL, 2, experts=3)
    values = {layer.name: int(layer.name[-1]) / 4 for layer in source.layers}
    for count, want in ((3, [0.0, 0.25, 0.5]), (2, [0.25, 0.25])):
        target = layout_with(MIXTRAL, 2, experts=count)
        carried = carry(values, source, target, match_roles(source, target))
        assert [carried[f"h.1.mlp.experts.down_proj.{i}"] for i in range(count)] == want


def test_roles_are_reported_with_what_was_carried_and_what_came_of_it():
    source, target = layout_with(LLAMA, 3), layout_with(GPT2, 4)
    drop = {layer.name: layer.size // 2 for layer in source.layers}
    found = transfer(Recipe.of({"name": "wanda"}, drop), source, target, sparsity=0.25)
    [row] = [role for role in found.roles if role.role == "attn.c_attn"]
    assert (row.layers, row.rule, row.carried) == (4, "synonym", 0.5)
    assert row.sparsity == pytest.approx(0.25, abs=0.01)
    assert found.carried == 0.5
    assert sum(found.recipe.drop.values()) == round(0.25 * target.total)


def test_lambda_is_carried_by_role_and_depth_and_the_rest_stays():
    source, target = layout_with(LLAMA, 3), layout_with(GPT2, 5)
    lambdas = {x.name: [0.1, 0.5, 0.9][x.block] for x in source.layers if "q_proj" in x.role}
    recipe = Recipe.of(
        {"name": "power", "alpha": 1.2},
        {layer.name: layer.size // 2 for layer in source.layers},
        "layer",
        {"name": "refit", "of": "mask"},
        canonical_quadratic(lambdas, QuadraticSettings(0.05)),
    )
    found = transfer(recipe, source, target).recipe
    assert found.default == recipe.default
    assert found.default.quadratic.damping == 0.05
    along = [found.lambda_of(target.by_name[f"h.{b}.attn.c_attn.0"]) for b in range(5)]
    assert along == pytest.approx([0.55, 0.65, 0.75, 0.85, 0.95])  # half the weights have λ = 1
    assert found.lambda_of(target.by_name["h.2.mlp.c_fc.0"]) == 1


def test_a_given_mask_cannot_be_transferred():
    layout = layout_with(GPT2, 2)
    recipe = Recipe.of({"name": "given", "hash": "0"}, dict.fromkeys(layout.sizes, 4), "layer")
    with pytest.raises(ConfigError, match="cannot be transferred to another model"):
        transfer(recipe, layout, layout)


def test_a_pattern_that_does_not_fit_the_target_names_the_layer():
    source, target = layout_with(GPT2, 2), layout_with({"attn.c_attn": (3, 10)}, 2)
    drop = {layer.name: layer.size // 2 for layer in source.layers}
    with pytest.raises(ConfigError, match=r"h\.0\.attn\.c_attn\.0: 10 inputs cannot be divided"):
        transfer(Recipe.of({"name": "wanda"}, drop, "n:4"), source, target)


def test_a_recipe_of_another_layout_is_refused():
    recipe = Recipe.of({"name": "wanda"}, {"x": 1})
    with pytest.raises(ConfigError, match="Was it made for another model"):
        transfer(recipe, llama_layout(2), llama_layout(3))
