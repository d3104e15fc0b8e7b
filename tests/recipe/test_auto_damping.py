"""Damping `auto` in recipes: read, written, carried over, and another recipe than any number."""

import pytest
from layouts import llama_layout

from optishear.calibration.origin import Origin
from optishear.calibration.statistics import Gram, HeldBackCross, HeldBackGram
from optishear.config.reach import needs_of_space
from optishear.errors import ConfigError
from optishear.interchange.llmcompressor import llmcompressor_recipe
from optishear.recipe.canonical import canonical_recipe
from optishear.recipe.features import features
from optishear.recipe.layer_keys import layer_keys
from optishear.recipe.quadratic import AUTO
from optishear.recipe.recipe import Recipe
from optishear.recipe.transfer import transfer
from optishear.search.levels import levels_of
from optishear.search.space_file import SpaceSpec, build_space
from optishear.solvers.methods import needs_of
from optishear.tools.named import NamedMethod, roles_asked


LAYOUT = llama_layout(2)
HALF = {layer.name: layer.size // 2 for layer in LAYOUT.layers}
REFIT = {"name": "refit", "of": "mask"}
WANDA = {"name": "wanda"}


def recipe(damping=AUTO, solver=REFIT, roles=()):
    quadratic = {"name": "reconstruction", "damping": damping}
    return Recipe.of(WANDA, HALF, "row", solver, quadratic, roles)


def test_it_is_read_as_it_was_written_and_has_keys_of_its_own():
    found = recipe()
    assert found.to_json()["quadratic"] == {"name": "reconstruction", "damping": "auto"}
    assert Recipe.from_json(found.to_json()) == found
    assert len({recipe(damping).key for damping in (AUTO, 0.01, 0.1)}) == 3
    keys = layer_keys(found, LAYOUT.layers), layer_keys(recipe(0.1), LAYOUT.layers)
    assert all(keys[0][name] != keys[1][name] for name in HALF)


def test_a_recipe_without_it_keeps_its_key():
    assert recipe(0.01).key == Recipe.of(WANDA, HALF, "row", REFIT).key
    assert "damping" not in str(recipe(0.01).to_json())


def test_it_goes_by_role():
    found = recipe(0.01, roles=[("mlp.*", {"damping": AUTO})])
    assert Recipe.from_json(found.to_json()) == found
    assert {x.role for x in LAYOUT.layers if found.at(x).quadratic.auto} == {
        x.role for x in LAYOUT.layers if x.role.startswith("mlp.")
    }
    asked = roles_asked("{mlp.*: {damping: auto}}")
    named = NamedMethod("sparsegpt", 0.5, roles=asked).recipe(LAYOUT)
    assert [parts.quadratic.auto for parts in named.every] == [False, True]


def test_a_mask_that_moves_nothing_has_no_use_for_it():
    assert canonical_recipe(recipe(AUTO, {"name": "mask"})) == canonical_recipe(
        recipe(0.01, {"name": "mask"})
    )
    assert canonical_recipe(recipe()) == recipe()
    assert not {HeldBackGram} & needs_of(recipe(AUTO, {"name": "mask"}))


def test_it_is_carried_to_another_model():
    there = transfer(recipe(), LAYOUT, llama_layout(3)).recipe
    assert there.default.quadratic.damping == AUTO
    assert transfer(recipe(), LAYOUT, LAYOUT).recipe == recipe()


def test_it_is_a_feature():
    assert features(recipe(), LAYOUT)["damping"] == "auto"


def test_it_needs_what_is_held_back():
    assert {Gram, HeldBackGram} <= needs_of(recipe())
    assert HeldBackGram not in needs_of(recipe(0.1))
    quadratic = {"name": "reconstruction", "damping": AUTO, "target_shift": 0.5}
    shifted = Recipe.of(WANDA, HALF, "row", REFIT, quadratic)
    assert {HeldBackGram, HeldBackCross} <= needs_of(shifted)
    assert HeldBackCross not in needs_of(recipe())


@pytest.mark.parametrize("damping", ["automatic", 2, -0.1, True, None])
def test_anything_else_is_refused_in_a_sentence(damping):
    said = recipe().to_json() | {"quadratic": {"name": "reconstruction", "damping": damping}}
    with pytest.raises(ConfigError, match=r"damping is .*, expected 'auto' or a fraction") as error:
        Recipe.from_json(said)
    assert "\n" not in str(error.value)


class TestASpace:
    def test_says_it_for_all_layers_or_by_role(self):
        spec = SpaceSpec(
            solver=(REFIT,), damping=AUTO, sparsity={"by": "block", "budget": 0.5, "steps": 8}
        )
        space = build_space(spec, LAYOUT, {})
        assert HeldBackGram in needs_of_space(spec)
        levels = list(levels_of(space) or ())
        assert levels
        assert all(recipe.default.quadratic.auto for _, recipe in levels)
        by_role = SpaceSpec(
            solver=(REFIT,),
            roles={"mlp.*": {"damping": AUTO}},
            sparsity={"by": "block", "budget": 0.5},
        )
        assert HeldBackGram in needs_of_space(by_role)
        assert by_role.model_dump(mode="json")["roles"]["mlp.*"] == {"damping": "auto"}
        assert HeldBackGram not in needs_of_space(SpaceSpec(solver=(REFIT,), damping=0.1))

    def test_has_no_use_for_it_where_nothing_moves_or_the_taylor_loss_is_mixed_in(self):
        with pytest.raises(ConfigError, match="damping auto changes nothing"):
            SpaceSpec(damping=AUTO, sparsity={"by": "block", "budget": 0.5})
        with pytest.raises(ConfigError, match="moonshot mixes the Taylor loss in"):
            SpaceSpec(solver=(REFIT,), damping=AUTO, moonshot={})


def test_llmcompressor_gets_the_usual_one_and_the_reader_is_told():
    own = Recipe.of(
        {"name": "own"}, HALF, "block:128", {"name": "sparsegpt"}, recipe().to_json()["quadratic"]
    )
    written = llmcompressor_recipe(own, LAYOUT, list(HALF), Origin())
    assert "dampening_frac: 0.01" in written.text
    assert any("damping is chosen layer by layer" in sentence for sentence in written.lost)
