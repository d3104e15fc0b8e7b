"""A search space in which roles have patterns, metrics and solvers of their own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import small_layout

from optishear.errors import ConfigError
from optishear.recipe.layer_keys import layer_key, layer_keys
from optishear.recipe.profile import Rule
from optishear.recipe.recipe import Recipe
from optishear.search.levels import levels_of
from optishear.search.seeds import seed_genomes
from optishear.search.space_file import SpaceSpec, build_space


LAYOUT = small_layout(blocks=3, scale=4)
ATTN = [layer for layer in LAYOUT.layers if layer.role == "attn.q"]
RULES = {"uniform": Rule(dict.fromkeys(LAYOUT.sizes, 1.0), dict.fromkeys(LAYOUT.sizes, 0.0))}
WANDA_S = {"beta": 0.0, "gamma": 0.0, "delta": 1.0, "mix": 0.0}
POWER = {"name": "power", "alpha": {"real": [0.5, 2.0]}, **WANDA_S}
SOLVERS = [{"name": "mask"}, {"name": "refit", "of": "mask"}]


def space(roles, **more):
    spec = {"metric": POWER, "sparsity": {"by": "layer", "budget": 0.5}, "roles": roles, **more}
    return build_space(SpaceSpec.model_validate(spec), LAYOUT, RULES)


def drawn(chosen, shares):
    low = np.array([gene.low for gene in chosen.genes])
    high = np.array([gene.high for gene in chosen.genes])
    return low + np.resize(shares, len(low)) * (high - low)


def test_genes_of_roles_have_names_of_their_own_and_follow_their_layers():
    chosen = space({"mlp.*": {"metric": POWER, "solver": SOLVERS}})
    names = [gene.name for gene in chosen.genes]
    assert len(set(names)) == len(names)
    assert names[0] == "metric.0.power.alpha"
    assert names[-2:] == ["roles.mlp.*.metric.0.power.alpha", "roles.mlp.*.solver"]
    of = dict(zip(names, chosen.gene_layers))
    assert {layer.role for layer in of[names[-1]]} == {"mlp.down"}


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.floats(0, 1), min_size=13, max_size=13),
    st.sampled_from(["n:4", "2:4", "layer"]),
    st.sampled_from(["layer", "block", "curve", "uniform"]),
)
def test_every_genome_is_a_legal_recipe_that_meets_the_budget(shares, pattern, by):
    roles = {"attn.*": {"pattern": pattern, "solver": SOLVERS}, "mlp.*": {"metric": POWER}}
    chosen = space(roles, metric={"name": "wanda"}, sparsity={"by": by, "budget": 0.55})
    recipe = chosen.decode(drawn(chosen, shares))
    recipe.check(LAYOUT)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert sum(recipe.drop.values()) == chosen.budget
    for layer in ATTN:
        assert recipe.at(layer).pattern.text == ("n:4" if ":" in pattern else pattern)
        if pattern == "2:4":
            assert recipe.drop[layer.name] == layer.size // 2


def test_what_2_of_4_fixes_has_no_gene():
    chosen = space({"attn.*": {"pattern": "2:4"}}, metric={"name": "wanda"})
    assert {gene.name for gene in chosen.genes} == {
        f"sparsity.{layer.name}" for layer in LAYOUT.layers if layer not in ATTN
    }


def test_seeds_use_the_same_metric_in_every_role_that_can_express_it():
    chosen = space({"mlp.*": {"metric": POWER}})
    [seed, *_] = seed_genomes(chosen, [{"name": "wanda"}])
    recipe = chosen.decode(seed)
    assert recipe.same_everywhere
    assert recipe.default.metric == {"name": "wanda"}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=9, max_size=9))
def test_every_layer_of_every_recipe_is_one_of_the_levels(shares):
    chosen = space(
        {"mlp.*": {"metric": {"name": "magnitude"}, "solver": SOLVERS}},
        metric={"name": "wanda"},
        solver={"name": "refit", "of": "mask"},
        moonshot={"by": "global", "roles": "all", "options": [0.5, 1]},
        sparsity={"by": "layer", "budget": 0.5, "steps": 8},
    )
    keys = {layer_key(recipe, layer) for layer, recipe in levels_of(chosen)}
    recipe = chosen.decode(drawn(chosen, shares))
    assert set(layer_keys(recipe, LAYOUT.layers).values()) <= keys


@pytest.mark.parametrize(
    ("roles", "more", "sentence"),
    [
        ({"mpl.*": {"pattern": "n:4"}}, {}, r"roles: 'mpl\.\*' matches no role"),
        ({"*": {"damping": 0.1}}, {}, r"roles\.\*\.damping 0\.1 changes nothing"),
        ({"mlp.*": {}}, {}, "an entry says nothing"),
        ({"mlp.*": {"pattern": "n4"}}, {}, r"roles\.mlp\.\*: pattern 'n4' is unknown"),
        (
            {"mlp.*": {"metric": POWER, "solver": {"name": "alps"}}},
            {},
            r"roles\.mlp\.\*\.metric: its genes change nothing",
        ),
        (
            {"mlp.*": {"metric": POWER}, "attn.*": {"metric": {"name": "ria"}}},
            {},
            "metric: its genes change nothing, since every role has a metric",
        ),
        ({"mlp.*": {"pattern": "n:4"}}, {"sparsity": {"by": "layer", "steps": 8}}, "'n:4' has"),
    ],
)
def test_what_would_say_nothing_is_refused_in_a_sentence(roles, more, sentence):
    with pytest.raises(ConfigError, match=sentence):
        space(roles, **more)


def test_a_space_without_roles_is_written_as_it_was():
    assert "roles" not in SpaceSpec().model_dump()
    said = SpaceSpec.model_validate({"roles": {"mlp.*": {"pattern": "n:4"}}}).model_dump()
    assert said["roles"] == {"mlp.*": {"pattern": "n:4"}}
