import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import llama_layout, small_layout

from optishear.errors import ConfigError
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.pattern import Block, NofM, Row, WholeLayer
from optishear.recipe.profile import Bounds, check_sparsity, counts_within, project, uniform


def layout_of_sizes(sizes, multiple=1):
    layers = [
        Layer(f"l{i}", i, "r", out, in_ * multiple, f"l{i}") for i, (out, in_) in enumerate(sizes)
    ]
    return ModelLayout(tuple(layers))


sizes = st.lists(st.tuples(st.integers(3, 40), st.integers(4, 60)), min_size=1, max_size=10)
targets = st.lists(st.floats(-2, 2), min_size=10, max_size=10)


@given(sizes, targets, st.floats(0.3, 0.7), st.sampled_from([Row(), WholeLayer(), Block(4)]))
def test_every_target_becomes_a_profile_that_meets_the_budget_to_the_weight(
    shapes, raw, sparsity, pattern
):
    layout = layout_of_sizes(shapes)
    targets = dict(zip(layout.sizes, raw, strict=False))
    budget = round(sparsity * layout.total)
    counts = project(targets, layout, pattern, Bounds(0.1, 0.9), budget)
    assert sum(counts.values()) == budget
    for layer in layout.layers:
        assert 0.1 * layer.size <= counts[layer.name] <= 0.9 * layer.size


@given(sizes, targets, st.floats(0.1, 0.5), st.sampled_from([2, 4, 8]))
def test_an_n_of_m_budget_is_met_from_below_within_one_step(shapes, raw, sparsity, m):
    layout = layout_of_sizes(shapes, multiple=m)
    targets = dict(zip(layout.sizes, raw, strict=False))
    budget = round(sparsity * layout.total)
    counts = project(targets, layout, NofM(m), Bounds(0.0, 0.99), budget)
    total = sum(counts.values())
    assert total <= budget
    for layer in layout.layers:
        step = layer.size // m
        assert counts[layer.name] % step == 0
        assert counts[layer.name] <= layer.size - step
        could_lose_more = counts[layer.name] + step <= layer.size - step
        assert not could_lose_more or total + step > budget


@given(sizes, targets)
def test_a_budget_keeps_the_order_of_the_targets(shapes, raw):
    layout = layout_of_sizes([shapes[0]] * len(shapes))  # equal layers: counts compare
    targets = dict(zip(layout.sizes, raw, strict=False))
    counts = project(targets, layout, Row(), Bounds(0.0, 0.99), layout.total // 2)
    ordered = sorted(layout.sizes, key=lambda name: targets[name])
    assert all(counts[a] <= counts[b] + 1 for a, b in itertools.pairwise(ordered))


def test_without_a_budget_targets_are_clipped_and_rounded():
    layout = small_layout(blocks=1)
    targets = {"blocks.0.attn.q": 0.5, "blocks.0.mlp.down": 2.0}
    counts = project(targets, layout, Row(), Bounds(0.0, 0.75), None)
    assert counts == {"blocks.0.attn.q": 24, "blocks.0.mlp.down": 45}


def test_without_a_budget_an_n_of_m_layer_gets_the_nearest_n():
    layout = small_layout(blocks=1)
    targets = {"blocks.0.attn.q": 0.3, "blocks.0.mlp.down": 1.0}
    counts = project(targets, layout, NofM(4), Bounds(), None)
    assert counts == {"blocks.0.attn.q": 12, "blocks.0.mlp.down": 45}  # 3:4 and 1:4


def test_an_impossible_budget_says_what_to_change():
    layout = small_layout()
    targets = dict.fromkeys(layout.sizes, 0.5)
    with pytest.raises(ConfigError, match="Widen the bounds"):
        project(targets, layout, Row(), Bounds(0.2, 0.8), round(0.9 * layout.total))


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


def assert_met_from_below(counts, layout, bounds, budget):
    total = sum(counts.values())
    assert total <= budget
    for layer in layout.layers:
        within = counts_within(layer, Row(), bounds)
        assert counts[layer.name] in within
        assert counts[layer.name] == within[-1] or total + within.step > budget


@given(sizes, targets, st.floats(0.4, 0.6), st.sampled_from([3, 8, 32]))
def test_a_budget_on_steps_is_met_from_below_within_one_step(shapes, raw, sparsity, steps):
    layout = layout_of_sizes(shapes, multiple=steps)
    targets = dict(zip(layout.sizes, raw, strict=False))
    budget, bounds = round(sparsity * layout.total), Bounds(0.3, 0.7, steps)
    for pattern in (Row(), WholeLayer(), Block(4)):
        counts = project(targets, layout, pattern, bounds, budget)
        assert_met_from_below(counts, layout, bounds, budget)


@pytest.mark.parametrize("steps", [4, 12, 32])
def test_every_layer_has_the_same_levels_whatever_its_size(steps):
    for layer in llama_layout(1).layers:
        within = counts_within(layer, Row(), Bounds(0.25, 0.75, steps))
        assert [count / layer.size for count in within] == [
            k / steps for k in range(steps // 4, 3 * steps // 4 + 1)
        ]


def test_all_counts_of_an_n_of_m_layer_keep_one_of_m_at_least():
    layer = llama_layout(1).layers[1]
    within = counts_within(layer, NofM(4), Bounds())
    assert [count * 4 // layer.size for count in within] == [0, 1, 2, 3]


def test_targets_on_the_steps_that_meet_the_budget_stay_as_they_are():
    layout = llama_layout()
    targets = {name: (13 + i % 12) / 32 for i, name in enumerate(layout.sizes)}
    exact = {layer.name: round(targets[layer.name] * layer.size) for layer in layout.layers}
    bounds = Bounds(0.4, 0.8, 32)
    assert project(targets, layout, Row(), bounds, sum(exact.values())) == exact
    assert project(targets, layout, Row(), bounds, None) == exact


def switched(layout, targets, up, down, steps):
    counts, changed = (
        project(w, layout, Row(), Bounds(0.0, 0.99, steps), round(0.6 * layout.total))
        for w in (
            targets,
            {**targets, up: targets[up] + 1 / steps, down: targets[down] - 1 / steps},
        )
    )
    return {
        name: (changed[name] - counts[name]) * steps / layout.sizes[name]
        for name in layout.sizes
        if changed[name] != counts[name]
    }


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from([16, 32, 48]))
def test_a_step_from_one_layer_to_another_of_its_size_changes_these_two_only(data, steps):
    """Whatever the rest of the budget is: all layers have one remainder, but for rounding."""
    layout = llama_layout()
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    levels = generator.integers(steps // 2, 3 * steps // 4, len(layout.layers))
    targets = dict(zip(layout.sizes, (levels / steps).tolist(), strict=True))
    up = data.draw(st.sampled_from(layout.layers))
    alike = [layer for layer in layout.layers if layer.size == up.size and layer is not up]
    down = data.draw(st.sampled_from(alike))
    assert switched(layout, targets, up.name, down.name, steps) == {up.name: 1, down.name: -1}


def test_equal_targets_go_up_from_the_first_layer_on():
    """0.6 is 19.2 steps of 32: a fifth of the weights go to 20, those in the first blocks."""
    layout = llama_layout()
    targets = dict.fromkeys(layout.sizes, 0.3)
    counts = project(targets, layout, Row(), Bounds(0.0, 0.9, 32), round(0.6 * layout.total))
    levels = [counts[layer.name] * 32 // layer.size for layer in layout.layers]
    assert set(levels) == {19, 20}
    assert levels[:42] == [20] * 42  # six blocks of thirty
    assert set(levels[49:]) == {19}


def test_steps_that_do_not_divide_a_layer_are_answered_with_the_nearest_that_do():
    layout = llama_layout(1)
    with pytest.raises(ConfigError) as raised:
        project(dict.fromkeys(layout.sizes, 0.5), layout, Row(), Bounds(steps=20), None)
    assert str(raised.value) == (
        "sparsity.steps 20: layers.0.self_attn.q_proj has 331,776 weights, which cannot be divided "
        "into 20 steps. Choose 18 or 24: all layers have them."
    )
    primes = layout_of_sizes([(7, 11), (5, 13)])
    with pytest.raises(ConfigError, match=r"l0 has 77 .* Leave steps out"):
        project({"l0": 0.5, "l1": 0.5}, primes, Row(), Bounds(steps=4), None)


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        ((0.41, 0.43, 16), "no multiple of 1/16 lies in [0.41, 0.43]. Use more steps"),
        ((0.0, 0.9, 1), "a layer has at least 2"),
    ],
)
def test_bounds_without_a_step_between_them_are_refused(bounds, sentence):
    with pytest.raises(ConfigError) as raised:
        Bounds(*bounds)
    assert sentence in str(raised.value)


def test_an_n_of_m_pattern_takes_no_steps():
    layout = llama_layout(1)
    with pytest.raises(ConfigError, match="every layer has 4 steps already"):
        project(dict.fromkeys(layout.sizes, 0.5), layout, NofM(4), Bounds(steps=8), None)


class TestRounding:
    """Of a budget: what is left over after rounding down goes to the largest remainders."""

    @pytest.mark.parametrize(
        ("exact", "rounded"),
        [
            ((10.75, 20.125, 5.5, 30.625), (11, 20, 5, 31)),
            ((10.125, 20.875, 5.25, 30.75), (10, 21, 5, 31)),
            ((10.5, 20.0, 5.5, 31.0), (11, 20, 5, 31)),  # a tie goes to the first
        ],
    )
    def test_the_largest_remainders_get_what_is_left(self, exact, rounded):
        layout = layout_of_sizes([(4, 16)] * 4)
        targets = {name: count / 64 for name, count in zip(layout.sizes, exact, strict=True)}
        found = project(targets, layout, Row(), Bounds(), sum(rounded))
        assert tuple(found.values()) == rounded

    @given(sizes, st.lists(st.floats(0.2, 0.8), min_size=10, max_size=10))
    def test_no_layer_is_rounded_up_before_one_with_a_larger_remainder(self, shapes, raw):
        layout = layout_of_sizes(shapes)
        targets = dict(zip(layout.sizes, raw, strict=False))
        exact = {layer.name: targets[layer.name] * layer.size for layer in layout.layers}
        found = project(targets, layout, WholeLayer(), Bounds(), round(sum(exact.values())))
        shift = (sum(found.values()) - sum(exact.values())) / layout.total
        near = {layer.name: exact[layer.name] + shift * layer.size for layer in layout.layers}
        up = [near[name] % 1 for name, count in found.items() if count > near[name] + 1e-6]
        down = [near[name] % 1 for name, count in found.items() if count < near[name] - 1e-6]
        assert min(up, default=1.0) >= max(down, default=0.0) - 1e-6
