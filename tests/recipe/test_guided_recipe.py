"""Guided quadratics as data: read, written, keyed, canonical; without one nothing changes."""

import json
from types import MappingProxyType

import pytest
from layouts import llama_layout

from optishear.errors import ConfigError
from optishear.recipe.canonical import canonical_recipe
from optishear.recipe.layer_keys import layer_keys
from optishear.recipe.recipe import Recipe


LAYOUT = llama_layout(2)
HALF = {layer.name: layer.size // 2 for layer in LAYOUT.layers}
OWN, WANDA, MASK, REFIT = {"name": "own"}, {"name": "wanda"}, {"name": "mask"}, {"name": "refit"}
PLAIN = {"name": "reconstruction"}
TWO = {"name": "guided", "groups": 2}


def recipe(quadratic=PLAIN, metric=WANDA, solver=REFIT, roles=()):
    return Recipe.of(metric, HALF, "row", solver, quadratic, roles)


def again(found):
    return Recipe.from_json(json.loads(json.dumps(found.to_json())))


@pytest.mark.parametrize(
    "found",
    [
        recipe(TWO),
        recipe({"name": "guided", "groups": 1, "damping": 0.1, "target_shift": 0.5}),
        recipe(roles=[("mlp.*", {"guided": 4})]),
        recipe(TWO, roles=[("mlp.*", {"guided": 0})]),
    ],
    ids=str,
)
def test_a_file_is_read_as_it_was_written_and_each_has_a_key_of_its_own(found):
    assert again(found) == found
    assert again(found).key == found.key != recipe().key
    found.check(LAYOUT)


def test_what_there_was_before_keeps_its_key():
    assert recipe().key == "13d8c8215e368100"
    assert layer_keys(recipe(), LAYOUT.layers) == layer_keys(
        recipe(roles=[("mlp.*", {"guided": 0})]), LAYOUT.layers
    )


def test_files_name_it_and_say_its_row_groups():
    assert recipe(TWO).to_json()["quadratic"] == TWO
    assert recipe({"name": "guided"}).to_json()["quadratic"] == {"name": "guided", "groups": 1}
    assert recipe(roles=[("mlp.*", {"guided": 2})]).to_json()["roles"] == [
        {"role": "mlp.*", "guided": 2}
    ]


def test_row_groups_are_those_of_each_layers_role():
    found = recipe(TWO, roles=[("mlp.*", {"guided": 0}), ("*.v_proj", {"guided": 4})])
    groups = {layer.role: number for layer, number in found.row_groups(LAYOUT.layers).items()}
    assert groups == {f"self_attn.{n}_proj": 4 if n == "v" else 2 for n in "qkvo"}


def test_a_layers_key_says_it_where_it_is_guided():
    plain = layer_keys(recipe(), LAYOUT.layers)
    found = layer_keys(recipe(roles=[("mlp.*", {"guided": 1})]), LAYOUT.layers)
    changed = {name for name, key in found.items() if plain[name] != key}
    assert changed == {layer.name for layer in LAYOUT.layers if "mlp" in layer.role}


@pytest.mark.parametrize("groups", [0, 5, 1.0, True, "2"])
def test_an_impossible_number_of_groups_is_refused(groups):
    data = {**recipe(TWO).to_json(), "quadratic": {"name": "guided", "groups": groups}}
    with pytest.raises(ConfigError, match=r"groups is .*1 to 4"):
        Recipe.from_json(data)


def test_an_impossible_number_by_role_is_refused():
    data = {**recipe().to_json(), "roles": [{"role": "mlp.*", "guided": 7}]}
    with pytest.raises(ConfigError, match=r"guided is 7.*0 to 4"):
        Recipe.from_json(data)


@pytest.mark.parametrize("key", ["guided", "groups"])
def test_plain_reconstruction_has_no_groups(key):
    data = {**recipe().to_json(), "quadratic": {"name": "reconstruction", key: 2}}
    with pytest.raises(ConfigError, match=f"no setting '{key}'"):
        Recipe.from_json(data)


class TestMoonshot:
    LAMBDAS = MappingProxyType({LAYOUT.layers[0].name: 0.5})

    def test_both_in_a_file_are_refused(self):
        mixed = {"name": "moonshot", "lambda": self.LAMBDAS, "guided": 2}
        with pytest.raises(ConfigError, match="Leave one of them out"):
            Recipe.from_json({**recipe().to_json(), "quadratic": mixed})

    def test_both_in_a_layer_are_refused(self):
        mixed = {"name": "moonshot", "lambda": self.LAMBDAS}
        other = recipe(mixed, roles=[("mlp.*", {"guided": 2})])
        other.check(LAYOUT)
        same = recipe(mixed, roles=[("self_attn.*", {"guided": 2})])
        with pytest.raises(ConfigError, match=r"q_proj: is guided, and a lambda"):
            same.check(LAYOUT)


class TestCanonical:
    def of(self, found):
        return canonical_recipe(found, LAYOUT.layers)

    def test_a_mask_whose_metric_reads_no_inputs_is_not_guided(self):
        guided = recipe(TWO, {"name": "magnitude"}, MASK)
        assert self.of(guided) == self.of(recipe(metric={"name": "magnitude"}, solver=MASK))

    def test_a_mask_whose_metric_reads_inputs_is(self):
        guided, plain = recipe(TWO, WANDA, MASK), recipe(PLAIN, WANDA, MASK)
        assert self.of(guided).key != self.of(plain).key
        assert self.of(guided).row_groups(LAYOUT.layers)

    @pytest.mark.parametrize("groups", [1, 4])
    def test_a_refit_is_as_it_was_asked_for(self, groups):
        asked = recipe({"name": "guided", "groups": groups})
        assert self.of(asked).row_groups(LAYOUT.layers) == dict.fromkeys(LAYOUT.layers, groups)
