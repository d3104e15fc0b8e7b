"""Splits of budgets in bytes: the cheapest of all that take no more, as the objective counts."""

import itertools

import numpy as np
import pytest
from curved_run import curves_for
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import small_layout

from optishear.errors import ConfigError
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.profile import counts_within
from optishear.recipe.storage import Storage
from optishear.search.budget_splits import splits
from optishear.search.budget_units import Budget
from optishear.search.curves import Curves
from optishear.search.space_file import SpaceSpec, build_space


LAYOUT = small_layout(blocks=2, scale=4)  # layers of 768 and 960 weights
SPACES = {
    "steps": {"sparsity": {"by": "layer", "low": 0.0, "high": 0.75, "steps": 4}},
    "bounds": {"sparsity": {"by": "block", "low": 0.2, "high": 0.9, "steps": 8}},
    "N:M": {"pattern": "n:4", "sparsity": {"by": "layer", "high": 0.75}},
    "2:4 of a role": {
        "pattern": "n:4",
        "sparsity": {"by": "layer", "high": 0.75},
        "roles": {"mlp.*": {"pattern": "2:4"}},
    },
}


def space_of(said, layout=LAYOUT):
    return build_space(SpaceSpec.model_validate({"metric": {"name": "wanda"}, **said}), layout, {})


def taken(storage, drop, layout=LAYOUT):
    return storage.bitmask(layout, {name: size - drop[name] for name, size in layout.sizes.items()})


def every(space, storage, curves):
    """(cost, bytes) of all choices of counts within the bounds."""
    layers = space.layers
    options = [counts_within(x, layers.patterns, layers.bounds) for x in layers.layout.layers]
    for choice in itertools.product(*options):
        drop = dict(zip(layers.layout.sizes, choice, strict=True))
        yield curves.total(drop), taken(storage, drop, layers.layout)


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("storage", [Storage(100, 4), Storage(37, 2), Storage(0, 1)], ids=str)
def test_levels_are_split_as_trying_every_choice_says(kind, storage):
    space, curves = space_of(SPACES[kind]), curves_for(LAYOUT)
    choices = sorted(every(space, storage, curves))
    least, most = (float(find(size for _, size in choices)) for find in (min, max))
    budgets = [*np.linspace(least, most, 15).round(), least + 1, most + 10**6]
    for found in splits(space, curves, [Budget("bytes", float(b)) for b in budgets], storage):
        cost = next(cost for cost, size in choices if size <= found.budget.value)
        assert found.predicted == pytest.approx(cost, rel=1e-12)
        assert found.reached == taken(storage, found.drop) <= found.budget.value
        assert found.exact


def test_what_takes_as_much_as_a_dense_layer_is_left_dense():
    """In two bytes a weight, a bit mask pays for itself from a 16th dropped on."""
    space = space_of({"sparsity": {"by": "layer", "steps": 16}})
    storage = Storage(0, 2)
    [found] = splits(space, curves_for(LAYOUT), [Budget("bytes", 2.0 * LAYOUT.total - 1)], storage)
    assert sorted(found.drop.values())[:3] == [0, 0, 0]
    assert max(found.drop.values()) in (2 * 768 // 16, 2 * 960 // 16)


@pytest.mark.parametrize("kind", SPACES)
def test_the_least_that_is_said_can_be_asked_for(kind):
    space, storage, curves = space_of(SPACES[kind]), Storage(11, 4), curves_for(LAYOUT)
    least = min(size for _, size in every(space, storage, curves))
    with pytest.raises(ConfigError, match=f"the checkpoint takes {least}B at least"):
        splits(space, curves, [Budget.parsed("60kB"), Budget("bytes", least - 1.0)], storage)
    [found] = splits(space, curves, [Budget.parsed(f"{least}B")], storage)
    assert found.reached == least


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_layers_that_can_lose_any_number_use_what_is_left_and_are_never_above(data):
    """Of whatever shapes, most of them with no 64ths of whole weights."""
    shape = st.tuples(st.integers(3, 40), st.integers(3, 40))
    shapes = data.draw(st.lists(shape, min_size=1, max_size=5))
    layers = [Layer(f"l{i}", i, "mlp.up", *shape, f"l{i}") for i, shape in enumerate(shapes)]
    layout = ModelLayout(tuple(layers))
    low = data.draw(st.floats(0.0, 0.4))
    space = space_of({"sparsity": {"by": "layer", "low": low, "high": 0.95}}, layout)
    storage = Storage(data.draw(st.integers(0, 500)), data.draw(st.sampled_from([1, 2, 4])))
    points = {
        x.name: tuple(
            (max(1, x.size * i // 4) + i, (1 + x.block) * float(np.exp(3 * i))) for i in (1, 2, 3)
        )
        for x in layers
    }
    curves, reach = Curves(points), {}
    for layer in layers:
        reach[layer.name] = counts_within(layer, space.layers.patterns, space.layers.bounds)
    least = taken(storage, {name: counts[-1] for name, counts in reach.items()}, layout)
    most = taken(storage, {name: counts[0] for name, counts in reach.items()}, layout)
    budget = data.draw(st.integers(least, most))
    [found] = splits(space, curves, [Budget("bytes", float(budget))], storage)
    assert all(found.drop[name] in counts for name, counts in reach.items())
    assert found.reached == taken(storage, found.drop, layout) <= budget
    stored_one_by_one = all(
        drop > reach[name][0] and drop * storage.bytes_per_weight > layout.sizes[name] // 8
        for name, drop in found.drop.items()
    )
    if stored_one_by_one:  # then another weight kept is so many bytes more
        assert found.reached > budget - storage.bytes_per_weight


def test_budgets_of_both_kinds_are_answered_in_their_order():
    space, storage = space_of({"sparsity": {"by": "layer"}}), Storage(50, 4)
    asked = [Budget.parsed(said) for said in ("10kB", "0.5", "8KiB", "60%")]
    assert [one.value for one in asked] == [10_000, 0.5, 8192, 0.6]
    found = splits(space, curves_for(LAYOUT), asked, storage)
    assert [one.budget for one in found] == asked
    assert [sum(found[i].drop.values()) for i in (1, 3)] == [
        round(share * LAYOUT.total) for share in (0.5, 0.6)
    ]
    for i, size in ((0, 10_000), (2, 8192)):
        assert size - 4 < found[i].reached <= size  # not a weight more


def test_a_sparsity_between_the_bounds_and_the_first_64th_is_met():
    space = space_of({"sparsity": {"by": "layer", "low": 0.3, "high": 0.9}})
    [found] = splits(space, curves_for(LAYOUT), [Budget("sparsity", 0.305)])
    assert sum(found.drop.values()) == round(0.305 * LAYOUT.total)
    with pytest.raises(ConfigError, match=r"0\.3003 of all weights go at least"):
        splits(space, curves_for(LAYOUT), [Budget("sparsity", 0.29)])


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("much", "'much' is neither a sparsity, such as 0.5 or 60%, nor a size, such as 100MB"),
        ("", "is neither a sparsity"),
        ("5 parsecs", "is neither a sparsity"),
        ("1e400MB", "is neither a sparsity"),
        ("100000", "a size has its unit, such as 100000B"),
        ("60", "Did you mean 0.6"),
        ("-1", r"is not in \[0, 1\)"),
    ],
)
def test_what_is_no_budget_is_a_sentence(said, why):
    with pytest.raises(ConfigError, match=why):
        Budget.parsed(said)
