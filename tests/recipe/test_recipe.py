import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import small_layout

from optishear.errors import ConfigError
from optishear.recipe.layout import Layer
from optishear.recipe.lookup import lookup
from optishear.recipe.pattern import Block, NofM, Row, WholeLayer, parse_asked, parse_pattern
from optishear.recipe.recipe import Recipe


def recipe(**changes):
    drop = dict.fromkeys(small_layout().sizes, 12)
    return Recipe.of(**{"metric": {"name": "wanda"}, "drop": drop, "pattern": "row", **changes})


def test_equal_content_is_an_equal_key_whatever_the_order():
    backwards = dict(reversed(recipe().drop.items()))
    assert recipe().key == recipe(drop=backwards).key
    assert recipe().key != recipe(pattern="layer").key
    assert recipe().key != recipe(metric={"name": "ria"}).key


def test_a_recipe_survives_its_file(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({**recipe().to_json(), "made_with": {"model": "embedded"}}))
    assert Recipe.read(path) == recipe()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"patern": "row"}, "unknown key 'patern'. Did you mean 'pattern'"),
        ({"format": "other/1"}, "this version reads"),
        ({"drop": {"a": -1}}, "not a count of weights"),
        ({"drop": {"a": 0.5}}, "not a count of weights"),
        ({"pattern": "rows"}, "pattern 'rows' is unknown"),
        ({"metric": "wanda"}, "'metric' is missing or no dict"),
        ({"solver": {"name": "mask", "block": 3}}, "'mask' has no setting block"),
        ({"solver": {"name": "sparsegpt", "blok": 3}}, "Did you mean 'block'?"),
        ({"solver": {"name": "sparsegpt", "block": 0}}, "whole number in [1, 65536]"),
        ({"solver": {"name": "alps", "iterations": 1.5}}, "is 1.5, expected a whole number"),
        ({"solver": {"name": "alps", "iterations": True}}, "is True, expected a whole number"),
        ({"solver": {"name": "refit", "tolerance": "1e-3"}}, "is '1e-3', expected a number"),
        ({"solver": {"name": "refit", "of": "mask", "block": 8}}, "has no setting block"),
        ({"solver": {"name": "refit", "of": "alps", "tolerance": 2}}, "number in [1e-07, 1]"),
        ({"quadratic": {"name": "reconstruction", "damping": 2}}, "in [0, 1]"),
        ({"quadratic": {"name": "reconstruction", "dampin": 1}}, "has no setting 'dampin'"),
    ],
)
def test_a_broken_recipe_file_gets_a_sentence(tmp_path, change, sentence):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe().to_json() | change))
    with pytest.raises(ConfigError) as raised:
        Recipe.read(path)
    assert sentence in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_setting_at_its_usual_value_is_no_other_recipe():
    plain = recipe(solver={"name": "alps"})
    said = recipe(solver={"name": "alps", "iterations": 300, "tolerance": 1e-4}).to_json()
    assert Recipe.from_json(said) == plain
    fewer = Recipe.from_json(said | {"solver": {"name": "alps", "iterations": 30}})
    assert fewer.key != plain.key
    assert Recipe.from_json(fewer.to_json()) == fewer


def test_a_recipe_file_that_is_missing_or_no_json_gets_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match="no such recipe file"):
        Recipe.read(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match="not a JSON recipe"):
        Recipe.read(tmp_path / "bad.json")


def test_a_recipe_of_another_model_is_refused():
    layout = small_layout()
    recipe().check(layout)
    with pytest.raises(ConfigError, match="says nothing of 2 of the model's 8 layers"):
        recipe().check(small_layout(blocks=4))
    with pytest.raises(ConfigError, match="names a layer"):
        recipe(drop={**recipe().drop, "blocks.9.attn.q": 3}).check(layout)
    with pytest.raises(ConfigError, match="cannot be dropped"):
        recipe(drop=dict.fromkeys(layout.sizes, 61)).check(layout)
    with pytest.raises(ConfigError, match="cannot be dropped"):  # 13 is no multiple of 48 / 4
        recipe(drop=dict.fromkeys(layout.sizes, 13), pattern="n:4").check(layout)


def test_patterns_are_read_as_they_are_written():
    for pattern in (Row(), WholeLayer(), Block(128), NofM(8)):
        assert parse_pattern(pattern.text) == pattern
    assert parse_asked("2:4") == (NofM(4), 0.5)
    assert parse_asked("row") == (Row(), None)
    for text in ("4:4", "0:4"):
        with pytest.raises(ConfigError, match="1 <= N < M"):
            parse_asked(text)


def test_an_unknown_name_names_its_neighbour():
    with pytest.raises(ConfigError, match=r"Did you mean 'wanda'\? There are: ria, wanda\."):
        lookup({"wanda": 1, "ria": 2}, "wnada", kind="metric")


@given(st.integers(1, 9), st.integers(1, 300), st.integers(1, 130), st.floats(0, 0.999))
def test_each_block_of_columns_loses_its_share(rows, width, columns, sparsity):
    pattern = Block(columns)
    layer = Layer("l", 0, "l", rows, width, "l")
    drop = pattern.uniform(layer, sparsity)
    shares = [cut.count for cut in pattern.cuts((rows, width), drop)]
    sizes = [min(columns, width - start) for start in range(0, width, columns)]
    assert sum(shares) == drop <= sparsity * rows * width
    for share, size in zip(shares, sizes, strict=True):
        assert abs(share - drop * size / width) < 1
        assert share <= rows * size
