import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import small_layout

from optishear.errors import ConfigError
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.pattern import Block, NofM, Row, WholeLayer
from optishear.recipe.profile import Bounds, check_sparsity, project, uniform


def layout_of_sizes(sizes, multiple=1):
    layers = [
        Layer(f"l{i}", i, "r", out, in_ * multiple, f"l{i}") for i, (out, in_) in enumerate(sizes)
    ]
    return ModelLayout(tuple(layers))


sizes = st.lists(st.tuples(st.integers(3, 40), st.integers(4, 60)), min_size=1, max_size=10)
wishes = st.lists(st.floats(-2, 2), min_size=10, max_size=10)


@given(sizes, wishes, st.floats(0.3, 0.7), st.sampled_from([Row(), WholeLayer(), Block(4)]))
def test_every_wish_becomes_a_profile_that_meets_the_budget_to_the_weight(
    shapes, raw, sparsity, pattern
):
    layout = layout_of_sizes(shapes)
    wish = dict(zip(layout.sizes, raw, strict=False))
    budget = round(sparsity * layout.total)
    counts = project(wish, layout, pattern, Bounds(0.1, 0.9), budget)
    assert sum(counts.values()) == budget
    for layer in layout.layers:
        assert 0.1 * layer.size <= counts[layer.name] <= 0.9 * layer.size


@given(sizes, wishes, st.floats(0.1, 0.5), st.sampled_from([2, 4, 8]))
def test_an_n_of_m_budget_is_met_from_below_within_one_step(shapes, raw, sparsity, m):
    layout = layout_of_sizes(shapes, multiple=m)
    wish = dict(zip(layout.sizes, raw, strict=False))
    budget = round(sparsity * layout.total)
    counts = project(wish, layout, NofM(m), Bounds(0.0, 0.99), budget)
    total = sum(counts.values())
    assert total <= budget
    for layer in layout.layers:
        step = layer.size // m
        assert counts[layer.name] % step == 0
        assert counts[layer.name] <= layer.size - step
        could_lose_more = counts[layer.name] + step <= layer.size - step
        assert not could_lose_more or total + step > budget


@given(sizes, wishes)
def test_a_budget_keeps_the_order_of_the_wishes(shapes, raw):
    layout = layout_of_sizes([shapes[0]] * len(shapes))  # equal layers: counts compare
    wish = dict(zip(layout.sizes, raw, strict=False))
    counts = project(wish, layout, Row(), Bounds(0.0, 0.99), layout.total // 2)
    ordered = sorted(layout.sizes, key=lambda name: wish[name])
    assert all(counts[a] <= counts[b] + 1 for a, b in itertools.pairwise(ordered))


def test_without_a_budget_wishes_are_clipped_and_rounded():
    layout = small_layout(blocks=1)
    wish = {"blocks.0.attn.q": 0.5, "blocks.0.mlp.down": 2.0}
    counts = project(wish, layout, Row(), Bounds(0.0, 0.75), None)
    assert counts == {"blocks.0.attn.q": 24, "blocks.0.mlp.down": 45}


def test_without_a_budget_an_n_of_m_layer_gets_the_nearest_n():
    layout = small_layout(blocks=1)
    wish = {"blocks.0.attn.q": 0.3, "blocks.0.mlp.down": 1.0}
    counts = project(wish, layout, NofM(4), Bounds(), None)
    assert counts == {"blocks.0.attn.q": 12, "blocks.0.mlp.down": 45}  # 3:4 and 1:4


def test_an_impossible_budget_says_what_to_change():
    layout = small_layout()
    wish = dict.fromkeys(layout.sizes, 0.5)
    with pytest.raises(ConfigError, match="Widen the bounds"):
        project(wish, layout, Row(), Bounds(0.2, 0.8), round(0.9 * layout.total))


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 60.0, float("nan")])
def test_a_sparsity_outside_its_range_is_refused(sparsity):
    with pytest.raises(ConfigError, match=r"not in \[0, 1\)"):
        check_sparsity(sparsity)


def test_a_percentage_is_guessed():
    with pytest.raises(ConfigError, match=r"Did you mean 0\.6"):
        check_sparsity(60.0)


def test_uniform_counts_as_wanda_counts():
    layout = layout_of_sizes([(6, 9)])
    assert uniform(layout, Row(), 0.6) == {"l0": 6 * int(9 * 0.6)}
    assert uniform(layout, WholeLayer(), 0.6) == {"l0": int(54 * 0.6)}


def test_an_n_of_m_pattern_that_does_not_divide_a_layer_names_it():
    layout = layout_of_sizes([(6, 9)])
    with pytest.raises(ConfigError, match=r"l0: 9 inputs cannot be divided into groups of 4"):
        project({"l0": 0.5}, layout, NofM(4), Bounds(), None)


def test_what_is_left_of_a_budget_never_goes_to_a_layer_that_is_full():
    """One small N:M layer is at its ceiling, and the large one takes no further step."""
    layout = layout_of_sizes([(3, 4), (40, 60)])
    counts = project({"l0": 5.0, "l1": -5.0}, layout, NofM(2), Bounds(), 1205)
    assert counts == {"l0": 6, "l1": 0}
