"""Recipes for llm-compressor: the counts that its arithmetic comes to, and what is said to be lost.

`tests/end_to_end/test_llmcompressor_run.py` really runs it.
"""

import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import small_layout

from optishear.calibration.origin import Origin
from optishear.errors import ConfigError
from optishear.interchange.llmcompressor import (
    llmcompressor_recipe,
    sparsegpt_sparsity,
    wanda_sparsity,
)
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.text.sources import TextSpec


LAYOUT = small_layout(2)
ORDER = ["blocks.0.mlp.down", "blocks.0.attn.q", "blocks.1.mlp.down", "blocks.1.attn.q", "head"]
MADE = Origin("tiny", "abc", calibration=TextSpec("sotu", "train", 9, 64))
WANDA = {"name": "wanda"}
OWN = {"name": "own"}


def written(drop, **parts):
    recipe = Recipe.of(**{"metric": WANDA, "drop": dict(zip(LAYOUT.sizes, drop)), **parts})
    return llmcompressor_recipe(recipe, LAYOUT, ORDER, MADE)


def modifiers(found):
    [stage] = yaml.safe_load(found.text).values()
    return [next(iter(group.items())) for group in stage.values()]


SHAPES = st.tuples(st.integers(1, 40), st.integers(2, 700))


@settings(deadline=None)
@given(SHAPES, st.data())
def test_its_wanda_drops_whole_columns_of_the_rows_nearest_to_the_count(shape, data):
    rows, width = shape
    drop = data.draw(st.integers(0, rows * width - 1))
    sparsity, count = wanda_sparsity(Layer("x", 0, "x", rows, width, "x"), drop)
    assert count == rows * int(width * sparsity)  # as its sparsify_weight counts
    assert abs(count - drop) <= rows  # half a column, or the one that must stay
    assert 0 <= sparsity < 1


@settings(deadline=None)
@given(SHAPES, st.data())
def test_its_sparsegpt_drops_one_more_than_int_in_every_block(shape, data):
    rows, width = shape
    drop = data.draw(st.integers(1, rows * width - 1))
    sparsity, count = sparsegpt_sparsity(Layer("x", 0, "x", rows, width, "x"), drop)
    blocks = [rows * min(128, width - start) for start in range(0, width, 128)]
    assert count == sum(int(size * sparsity) + 1 for size in blocks)
    assert abs(count - drop) <= len(blocks)


def test_sparsities_stand_in_the_order_of_the_modules():
    """A list in the order of the layout would prune other layers than meant."""
    found = written([12, 20, 24, 30])
    [(name, settings)] = modifiers(found)
    assert name == "WandaPruningModifier"
    assert settings["targets"] == ORDER[:4]
    assert settings["sparsity"] == [pytest.approx(4 / 12), 2 / 8, 6 / 12, 4 / 8]
    assert settings["mask_structure"] == "0:0"
    assert found.lost == ()
    assert found.deviation.by == 0
    assert "exact count" in found.notes[0]


def test_a_layer_that_loses_nothing_is_no_target():
    [(_, settings)] = modifiers(written([12, 0, 24, 1]))
    assert settings["targets"] == ["blocks.0.attn.q", "blocks.1.attn.q"]


def test_counts_that_are_no_whole_columns_are_reported():
    found = written([12, 20, 26, 30])
    assert found.deviation.layer == "blocks.1.attn.q"
    assert found.deviation.by == pytest.approx(-2 / 48)
    assert "-4.1667 percentage points, in blocks.1.attn.q" in found.text


def test_n_of_m_is_one_modifier_for_each_n_and_n_is_what_goes():
    found = written([24, 30, 12, 45], pattern="n:4")
    got = [(s["mask_structure"], s["targets"]) for _, s in modifiers(found)]
    assert got == [
        ("1:4", ["blocks.1.attn.q"]),
        ("2:4", ["blocks.0.mlp.down", "blocks.0.attn.q"]),
        ("3:4", ["blocks.1.mlp.down"]),
    ]
    assert "pipeline='sequential'" in found.text
    assert found.deviation.by == 0


def test_sparsegpt_takes_its_damping_along():
    quadratic = {"name": "reconstruction", "damping": 0.1}
    solver = {"name": "sparsegpt"}
    found = written(
        [12, 20, 24, 30], metric=OWN, pattern="block:128", solver=solver, quadratic=quadratic
    )
    [(name, settings)] = modifiers(found)
    assert name == "SparseGPTModifier"
    assert (settings["dampening_frac"], settings["block_size"]) == (0.1, 128)
    assert found.deviation.by == 0
    assert [s for s in found.lost if "takes its place" in s] == []


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"metric": {"name": "ria"}}, "the metric is ria; Wanda's takes its place"),
        ({"metric": {"name": "power", "alpha": 2.0}}, r"power\(alpha=2.0\)"),
        ({"pattern": "layer"}, "the pattern is layer; weights compete under row"),
        ({"solver": {"name": "refit", "of": "mask"}}, r"refit\(of=mask\) of the metric wanda"),
        ({"metric": OWN, "solver": {"name": "alps"}}, "the solver is alps; SparseGPT"),
        ({"metric": OWN, "solver": {"name": "sparsegpt"}}, "goes on with the identity"),
        ({"quadratic": {"name": "moonshot", "lambda": {"blocks.0.attn.q": 0.5}}}, "MOONSHOT"),
        ({"quadratic": {"name": "guided", "groups": 2}}, "weighs tokens as the loss hears"),
        (
            {"quadratic": {"name": "reconstruction", "target_shift": 0.5}},
            "has a target shift; none",
        ),
        ({"order": "site"}, "has an order by site; none"),
    ],
)
def test_what_cannot_be_said_stands_in_the_file_and_in_the_notes(parts, sentence):
    found = written([12, 20, 24, 30], **parts)
    notes = [note for note in found.notes if note.startswith("not expressed")]
    assert any(re.search(sentence, note) for note in notes)
    for lost in found.lost:
        assert f"# NOT EXPRESSED: {lost}\n" in found.text


def test_the_head_says_where_it_comes_from():
    text = written([12, 20, 24, 30]).text
    assert "# found on: model tiny (abc)" in text
    assert "# calibration there: source sotu, split train, sequences 9, seq_len 64" in text


def test_layers_that_it_would_pass_over_are_refused():
    recipe = Recipe.of(WANDA, dict.fromkeys(LAYOUT.sizes, 4))
    with pytest.raises(ConfigError, match=r"blocks.1.attn.q is no nn.Linear"):
        llmcompressor_recipe(recipe, LAYOUT, ORDER[:3], MADE)
    expert = Layer("mlp.experts.up.1", 0, "mlp.experts.up", 4, 6, "mlp.experts.up.1")
    with pytest.raises(ConfigError, match="one expert inside a 3-D parameter"):
        llmcompressor_recipe(
            Recipe.of(WANDA, {expert.name: 3}), ModelLayout((expert,)), [expert.name], MADE
        )


def test_patterns_by_role_are_modifiers_of_their_own_and_what_is_lost_names_the_roles():
    roles = [("attn.*", {"pattern": "n:4", "metric": {"name": "ria"}})]
    found = written([24, 30, 12, 15], roles=roles)
    groups = {settings["mask_structure"]: settings["targets"] for _, settings in modifiers(found)}
    assert groups == {
        "0:0": ["blocks.0.mlp.down", "blocks.1.mlp.down"],
        "1:4": ["blocks.1.attn.q"],
        "2:4": ["blocks.0.attn.q"],
    }
    assert found.lost == ("attn.q: the metric is ria; Wanda's takes its place",)


def test_roles_that_need_different_modifiers_are_refused():
    with pytest.raises(ConfigError, match="masks some roles and solves others"):
        written([24, 30, 12, 15], roles=[("mlp.*", {"solver": {"name": "sparsegpt"}})])
