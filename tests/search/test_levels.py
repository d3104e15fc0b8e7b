"""The levels of a space are all that its recipes are made of, and no more than few."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import llama_layout, small_layout

from optishear.recipe.layer_keys import layer_key, layer_keys
from optishear.recipe.profile import Rule
from optishear.search.genes import Integer
from optishear.search.levels import levels_of
from optishear.search.space_file import SpaceSpec, build_space
from optishear.search.template_genes import TemplateGenes


LAYOUT = small_layout(blocks=3, scale=4)
NAMES = list(LAYOUT.sizes)
OFFSETS = {name: 0.03 * (i // 2 - 1) for i, name in enumerate(NAMES)}
RULES = {
    "uniform": Rule(dict.fromkeys(NAMES, 1.0), dict.fromkeys(NAMES, 0.0)),
    "owl": Rule(dict.fromkeys(NAMES, 1.0), OFFSETS),
}
WANDA, REFIT = {"name": "wanda"}, {"name": "refit", "of": "mask"}
META = {"name": "meta", "weight_transform": {"choice": ["no_op", "pow", "exp"]}}
POWER = {"name": "power", "alpha": {"real": [0.5, 2.0]}}
SOLVERS = [
    {"name": "mask"},
    {"name": "refit", "of": {"choice": ["mask", "sparsegpt", "alps"]}},
    {"name": "alps"},
]


def space(metric=(WANDA,), solver=(REFIT,), pattern="row", moonshot=None, **sparsity):
    spec = {"pattern": pattern, "metric": metric, "solver": solver, "moonshot": moonshot}
    return build_space(SpaceSpec.model_validate(spec | {"sparsity": sparsity}), LAYOUT, RULES)


LISTED = {
    "layers in steps": space(by="layer", steps=16, low=0.3, high=0.8, budget=0.6),
    "blocks in steps": space(by="block", steps=24, low=0.3, high=0.8),
    "a curve in steps": space(by="curve", steps=8, low=0.2, high=0.9, budget=0.5),
    "a rule's level in steps": space(by="owl", steps=8, low=0.2, high=0.9),
    "metrics and solvers": space(
        [{"name": "magnitude"}, META], SOLVERS, by="block", steps=8, budget=0.5
    ),
    "a rule on a budget": space([META], by="owl", budget=0.5),
    "a fixed lambda": space(
        [META], SOLVERS, moonshot={"lambda": 0.5}, by="layer", steps=8, budget=0.5
    ),
    "few lambdas": space(
        [META], SOLVERS, moonshot={"by": "role", "options": [0.5, 1]}, by="layer", steps=8
    ),
    "few lambdas, none plain": space(
        [META], SOLVERS, moonshot={"options": [0.2, 0.5]}, by="layer", steps=8
    ),
    "few lambdas of a refit": space(
        moonshot={"options": [0.5, 1], "roles": "all"}, by="uniform", budget=0.5
    ),
    "options": space(by="block", options=[0.45, 0.5, 0.55]),
    "n of 4": space(pattern="n:4", by="layer", high=0.75, budget=0.5),
    "2:4": space([META], SOLVERS, pattern="2:4"),
}
WHOLE = {"name": "power", "alpha": Integer("alpha", 1, 3), "delta": 1.5}
LISTED["whole numbers"] = replace(
    LISTED["a rule on a budget"], metric=TemplateGenes("metric", (WHOLE,))
)
CONTINUOUS = {
    "no steps": space(by="block", budget=0.6),
    "options on a budget": space(by="block", options=[0.45, 0.5, 0.55], budget=0.5),
    "a metric": space([WANDA, POWER], by="layer", steps=16),
    "a lambda": space(moonshot={}, by="layer", steps=16),
}


def keys_of(levels):
    return [layer_key(recipe, layer) for layer, recipe in levels]


@cache
def listed(name):
    """Made once for all examples: of some spaces they are thousands."""
    return frozenset(keys_of(levels_of(LISTED[name])))


@pytest.mark.parametrize("name", LISTED)
class TestEveryListedSpace:
    @settings(deadline=None, max_examples=60)
    @given(st.data())
    def test_every_layer_of_every_recipe_is_one_of_its_levels(self, name, data):
        chosen = LISTED[name]
        low = np.array([gene.low for gene in chosen.genes])
        high = np.array([gene.high for gene in chosen.genes])
        shares = data.draw(st.lists(st.floats(0, 1), min_size=len(low), max_size=len(low)))
        recipe = chosen.decode(low + np.array(shares) * (high - low))
        assert set(layer_keys(recipe, chosen.layers.layout.layers).values()) <= listed(name)

    def test_levels_come_once_each_in_the_order_of_the_layout(self, name):
        levels = list(levels_of(LISTED[name]))
        keys = keys_of(levels)
        assert len(set(keys)) == len(keys)
        assert list(dict.fromkeys(layer.name for layer, _ in levels)) == NAMES
        order = [NAMES.index(layer.name) for layer, _ in levels]
        assert order == sorted(order)
        assert all(list(recipe.drop) == [layer.name] for layer, recipe in levels)


@pytest.mark.parametrize(
    ("name", "a_layer"),
    [
        ("layers in steps", 8),  # 5 to 12 of 16
        ("options", 3),
        ("few lambdas of a refit", 1 + 1),
        ("n of 4", 4),
        ("whole numbers", 3),
        ("a rule on a budget", 3),  # of its metric, one count
        ("2:4", 3 + 3 + 2),  # mask and refit of three metrics, SparseGPT's refit and ALPS
    ],
)
def test_a_layer_has_few_levels(name, a_layer):
    assert len(list(levels_of(LISTED[name]))) == a_layer * len(NAMES)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_what_is_continuous_cannot_be_listed(name):
    assert levels_of(CONTINUOUS[name]) is None


def test_the_shipped_space_has_thirteen_levels_a_layer():
    path = Path(__file__).resolve().parents[2] / "search_spaces" / "refit_levels.yaml"
    spec, layout = SpaceSpec.model_validate(yaml.safe_load(path.read_text())), llama_layout()
    levels = list(levels_of(build_space(spec, layout, {})))
    assert len(levels) == 13 * len(layout.layers)
    assert {recipe.default.solver.name for _, recipe in levels} == {"refit"}
