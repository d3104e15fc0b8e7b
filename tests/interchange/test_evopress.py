"""EvoPress's `name: level` files, there and back."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import llama_layout, small_layout

from optishear.errors import ConfigError
from optishear.interchange.evopress import (
    Grid,
    drops_of,
    levels_of,
    parse_levels,
    read_grid,
    write_levels,
)
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.pattern import parse_pattern
from optishear.recipe.recipe import Recipe


LAYOUT = small_layout(3)
COUNTS = st.tuples(*(st.integers(0, layer.size - 1) for layer in LAYOUT.layers))
MIDDLING = st.tuples(
    *(st.integers(layer.size // 3, layer.size * 2 // 3) for layer in LAYOUT.layers)
)


def recipe(counts, layout=LAYOUT):
    return Recipe.of({"name": "wanda"}, dict(zip(layout.sizes, counts, strict=True)))


def back(levels, pattern="layer", layout=LAYOUT):
    return drops_of(levels.levels, levels.grid, layout, parse_pattern(pattern), "x.txt")[0]


@settings(deadline=None)
@given(MIDDLING)
def test_a_step_of_one_weight_gives_every_profile_back(counts):
    drop = recipe(counts).drop
    got = back(levels_of(recipe(counts), LAYOUT, step=1))
    # s * n is no whole number of weights
    assert all(abs(got[name] - drop[name]) <= 1 for name in drop)
    assert sum(got.values()) == pytest.approx(sum(drop.values()), abs=len(drop) / 2)


@settings(deadline=None)
@given(MIDDLING)
def test_with_room_on_both_sides_no_layer_is_a_step_from_what_was_asked(counts):
    found = levels_of(recipe(counts), LAYOUT)
    for layer in LAYOUT.layers:
        got = found.grid.dropped(layer.size, found.levels[layer.name])
        assert abs(got - recipe(counts).drop[layer.name]) < found.grid.step
    assert abs(found.deviation.by) < found.grid.step / 48
    assert max(map(abs, found.levels.values())) <= 8


@settings(deadline=None)
@given(COUNTS, st.none() | st.integers(1, 40))
def test_levels_stay_on_the_grid_and_keep_the_sparsity(counts, step):
    found = levels_of(recipe(counts), LAYOUT, step)
    for layer in LAYOUT.layers:
        low, high = found.grid.ends(layer.size)
        assert low <= found.levels[layer.name] <= high
    assert sum(found.levels.values()) == 0  # the budget holds exactly, as in EvoPress's search


def test_levels_mean_what_evopress_says():
    """Level l drops s + l * step / n of n weights: 0.5 of 576 * 576 and 3 times 1000 more."""
    layer = Layer("q", 0, "q", 576, 576, "q")
    text, layout = "q: 3\n", ModelLayout((layer,))
    drop, _ = drops_of(
        parse_levels(text, "x"), Grid(0.5, 1000), layout, parse_pattern("layer"), "x"
    )
    assert drop == {"q": 165888 + 3000}


def test_uniform_is_level_zero_everywhere():
    layout = llama_layout(2)
    found = levels_of(recipe([size // 2 for size in layout.sizes.values()], layout), layout)
    assert set(found.levels.values()) == {0}
    assert found.deviation.by == 0


def test_the_file_is_lines_that_evopress_reads_and_the_grid_stands_beside_it(tmp_path):
    found = levels_of(recipe([10, 20, 30, 40, 5, 0]), LAYOUT, 4)
    paths = write_levels(tmp_path / "levels.txt", found)
    assert [path.name for path in paths] == ["levels.txt", "levels.txt.json"]
    for line in paths[0].read_text().splitlines():
        name, level = line.split(":")  # as its load_sparse_weights does
        assert found.levels[name.strip(" ")] == int(level)
    assert parse_levels(paths[0].read_text(), "x") == found.levels
    assert read_grid(paths[0], None, None) == found.grid
    assert read_grid(paths[0], 0.25, 7) == Grid(0.25, 7)
    says = json.loads(paths[1].read_text())
    assert says["weights_diff"] == 4
    assert f"--weights_diff 4 --num_levels {says['num_levels']}" in " ".join(found.notes)


def test_levels_without_a_grid_are_refused(tmp_path):
    path = tmp_path / "levels.txt"
    path.write_text("q: 1\n")
    with pytest.raises(ConfigError, match="mean nothing by themselves"):
        read_grid(path, 0.5, None)
    (tmp_path / "levels.txt.json").write_text('{"sparsity": 0.5}')
    with pytest.raises(ConfigError, match="is not what `optishear export"):
        read_grid(path, None, 4)


def test_an_n_of_m_pattern_takes_the_nearest_n_and_says_how_far_that_is():
    levels = dict.fromkeys(LAYOUT.sizes, 0) | {"blocks.0.attn.q": 2}
    drop, deviates = drops_of(levels, Grid(0.5, 5), LAYOUT, parse_pattern("n:4"), "x")
    assert drop["blocks.0.attn.q"] == 36  # of 34 asked for: 3 of every 4
    assert deviates.layer == "blocks.0.attn.q"
    assert deviates.by == pytest.approx(2 / 48)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("q", "line 1 is 'q', expected"),
        ("a: 1\nq: 1.5", "line 2 is 'q: 1.5'"),
        (": 1", "expected `layer name: level`"),
        ("q: 1\nq: 2", "line 2 names 'q' for the second time"),
        ("q: --1", "expected `layer name: level`"),
    ],
)
def test_a_line_that_is_none_is_one_sentence(text, sentence):
    with pytest.raises(ConfigError, match=sentence):
        parse_levels(text, "x.txt")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"blocks.0.attn.k": 0}, "Did you mean 'blocks.0.attn.q'"),
        ({"blocks.0.attn.q": 7}, r"level 7 of blocks.0.attn.q would drop 52 of its 48.*-6 to 6"),
        ({"blocks.0.attn.q": -7}, "it has levels -6 to 6"),
        ({"blocks.0.attn.q": 6}, "would drop 48 of its 48"),
    ],
)
def test_levels_that_the_model_has_not_are_one_sentence(changes, sentence):
    levels = dict.fromkeys(LAYOUT.sizes, 0) | changes
    with pytest.raises(ConfigError, match=sentence):
        drops_of(levels, Grid(0.5, 4), LAYOUT, parse_pattern("layer"), "x")
    del levels["blocks.1.attn.q"]
    with pytest.raises(ConfigError, match=r"names a layer|says nothing of 1|levels"):
        drops_of(levels, Grid(0.5, 4), LAYOUT, parse_pattern("layer"), "x")


def test_a_file_for_fewer_layers_is_refused():
    with pytest.raises(ConfigError, match="says nothing of 5 of the model's 6 layers"):
        drops_of({"blocks.0.attn.q": 0}, Grid(0.5, 4), LAYOUT, parse_pattern("layer"), "x")


def test_experts_in_one_parameter_cannot_be_named():
    expert = Layer("mlp.experts.up.1", 0, "mlp.experts.up", 4, 6, "mlp.experts.up.1")
    with pytest.raises(ConfigError, match="one expert inside a 3-D parameter"):
        levels_of(Recipe.of({"name": "wanda"}, {expert.name: 3}), ModelLayout((expert,)))


@pytest.mark.parametrize(("sparsity", "step"), [(1.0, 4), (-0.1, 4), (0.5, 0)])
def test_an_impossible_grid_is_refused(sparsity, step):
    with pytest.raises(ConfigError):
        Grid(sparsity, step)
