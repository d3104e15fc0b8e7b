"""Foreign files made recipes: which kind a file is, and what it comes to on a model."""

import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import small_layout

from optishear.errors import ConfigError
from optishear.export.profiles import write_profile
from optishear.interchange.evopress import levels_of, write_levels
from optishear.interchange.kinds import KINDS, kind_of
from optishear.interchange.recipes import Asked, imported, metric_of_tree
from optishear.recipe.quadratic import canonical_quadratic
from optishear.recipe.recipe import Recipe
from optishear.solvers.methods import METHODS


LAYOUT = small_layout(3)
NAMES = list(LAYOUT.sizes)
BEST_TREE = {  # as Pruner-Zero's save_tree nests it
    "data": "mul",
    "left": {
        "data": "abs",
        "left": {"data": "mul", "left": {"data": "W"}, "right": {"data": "W"}},
    },
    "right": {"data": "mms", "left": {"data": "G"}},
}
TEXTS = {
    "evopress": ["a.q: 0\na.k: -3\n", "a: 1"],
    "ratios": [
        "[0.5, 0.5]",
        "[0.5 0.5]",
        "0.5\n0.6",
        "a: 0.5",
        "a: 0.5\nb: 1",
        '{"a": 0.5}',
        '{"density": [0.5]}',
        "layer,sparsity\na,0.5",
        '[{"layer": "a", "density": 0.5}]',
        "1 0.5",
    ],
    "profile": [
        "layer,block,weights,drop\na,0,4,1",
        '[{"layer": "a", "weights": 4, "drop": 1}]',
    ],
    "pruner-zero": [json.dumps(BEST_TREE), "mul(abs(W), X)", "W", '{"data": "W"}'],
}


@pytest.mark.parametrize(
    ("kind", "text"), [(kind, text) for kind, texts in TEXTS.items() for text in texts]
)
def test_a_kind_is_seen_in_the_content(kind, text):
    assert kind_of(text, "x") == kind
    assert kind in KINDS


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("some words\nand others", "Say --kind"),
        ("a: 1\nb: x", "Say --kind"),
        ('["a", "b"]', "Say --kind"),
        ("{}", "Say --kind"),
        ('{"format": "optishear-recipe/1"}', "is a recipe already"),
        ("{nonsense", "is no JSON"),
    ],
)
def test_what_could_be_anything_is_asked_about(text, sentence):
    with pytest.raises(ConfigError, match=sentence) as raised:
        kind_of(text, "x")
    assert "\n" not in str(raised.value)


def given_file(tmp_path, text, name="file.txt"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


COUNTS = st.tuples(*(st.integers(0, layer.size - 1) for layer in LAYOUT.layers))


@settings(deadline=None, max_examples=30)
@given(counts=COUNTS, ending=st.sampled_from(["csv", "json"]))
def test_our_own_profile_comes_back_count_by_count(tmp_path_factory, counts, ending):
    path = tmp_path_factory.mktemp("p") / f"profile.{ending}"
    recipe = Recipe.of({"name": "wanda"}, dict(zip(NAMES, counts, strict=True)))
    write_profile(path, recipe, LAYOUT)
    assert imported(path, LAYOUT, Asked()).recipe == recipe
    other = imported(path, LAYOUT, Asked(method="alps")).recipe
    assert other == METHODS["alps"].recipe(LAYOUT, recipe.drop, "layer")


def test_a_profile_s_lambdas_come_back_too(tmp_path):
    quadratic = canonical_quadratic({NAMES[0]: 0.25, NAMES[3]: 0.5})
    recipe = Recipe.of({"name": "wanda"}, dict.fromkeys(NAMES, 4), quadratic=quadratic)
    write_profile(tmp_path / "profile.csv", recipe, LAYOUT)
    assert imported(tmp_path / "profile.csv", LAYOUT, Asked()).recipe == recipe


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.assign(drop=-1), "drop of blocks.0.attn.q is -1"),
        (lambda t: t.assign(drop=0.5), "drop of blocks.0.attn.q is 0.5"),
        (lambda t: t.assign(drop=t["weights"]), "expected a count of its 48 weights"),
        (lambda t: t.assign(weights=7), "has 7 weights there and 48 in the model"),
        (lambda t: t[1:], "says nothing of 1 of the model's 6 layers"),
        (lambda t: pd.concat([t, t[:1]]), "twice"),
        (lambda t: t.assign(**{"lambda": "x"}), "lambda of blocks.0.attn.q is 'x'"),
        (lambda t: t.assign(**{"lambda": 2.0}), "must lie in"),
    ],
)
def test_a_profile_of_something_else_is_one_sentence(tmp_path, change, sentence):
    recipe = Recipe.of({"name": "wanda"}, dict.fromkeys(NAMES, 4))
    write_profile(tmp_path / "profile.csv", recipe, LAYOUT)
    table = change(pd.read_csv(tmp_path / "profile.csv"))
    table.to_csv(tmp_path / "profile.csv", index=False)
    with pytest.raises(ConfigError, match=sentence):
        imported(tmp_path / "profile.csv", LAYOUT, Asked())


def test_evopress_levels_become_sparsegpt_with_counts_on_their_grid(tmp_path):
    counts = dict(zip(NAMES, (24, 30, 24, 30, 20, 30)))
    recipe = Recipe.of({"name": "wanda"}, counts)
    levels = levels_of(recipe, LAYOUT, 1)
    write_levels(tmp_path / "l.txt", levels)
    found = imported(tmp_path / "l.txt", LAYOUT, Asked())
    assert found.kind == "evopress"
    assert found.recipe.default.solver == {"name": "sparsegpt"}
    assert found.recipe.default.pattern.text == "block:128"
    assert all(abs(found.recipe.drop[name] - counts[name]) <= 1 for name in NAMES)
    text = given_file(tmp_path, "\n".join(f"{name}: 0" for name in NAMES), "bare.txt")
    asked = Asked(sparsity=0.5, step=6, method="wanda", pattern="2:4")
    found = imported(text, LAYOUT, asked).recipe
    assert found.drop == {name: size // 2 for name, size in LAYOUT.sizes.items()}
    assert (found.default.metric, found.default.pattern.text) == ({"name": "wanda"}, "n:4")


def test_ratios_are_counted_as_wanda_counts(tmp_path):
    """int(inputs * sparsity) of each row: what Wanda's and OWL's own code takes."""
    path = given_file(tmp_path, "[0.6, 0.5, 0.45]")
    found = imported(path, LAYOUT, Asked(meaning="keep"))
    want = {
        layer.name: layer.out_features
        * int(layer.in_features * (1 - (0.6, 0.5, 0.45)[layer.block]))
        for layer in LAYOUT.layers
    }
    assert found.recipe == Recipe.of({"name": "wanda"}, want)
    assert "dropped: 0.4 of the first layer, 0.55 of the last" in found.notes[0]


def test_a_tree_is_a_metric_and_with_a_sparsity_a_recipe(tmp_path):
    path = given_file(tmp_path, json.dumps(BEST_TREE))
    metric, tree = metric_of_tree(path)
    assert metric == {"name": "tree", "formula": "mul(mms(G), sqr(W))"}
    assert str(tree) == "mul(abs(mul(W, W)), mms(G))"
    found = imported(path, LAYOUT, Asked(sparsity=0.5))
    assert found.recipe.default.metric == metric
    assert found.recipe.default.pattern.text == "row"
    assert LAYOUT.sparsity(found.recipe.drop) == 0.5
    with pytest.raises(ConfigError, match="add --sparsity"):
        imported(path, LAYOUT, Asked())


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"data": "mull", "left": {"data": "W"}, "right": {"data": "W"}}, "Did you mean 'mul'"),
        ({"data": "mul", "left": {"data": "W"}}, "mul takes 2 arguments, not 1"),
        ({"data": "abs", "left": "W"}, "an object with `data`, found 'W'"),
        ({"data": "W", "left": {"data": "W"}}, "W takes 0 arguments, not 1"),
        ({"data": "abs", "left": {"data": "W"}, "middle": 1}, "no 'middle'"),
    ],
)
def test_a_tree_that_is_none_is_one_sentence(tmp_path, tree, sentence):
    with pytest.raises(ConfigError, match=sentence):
        metric_of_tree(given_file(tmp_path, json.dumps(tree)))


def test_a_tree_nested_without_end_is_one_sentence(tmp_path):
    tree = {"data": "W"}
    for _ in range(100):
        tree = {"data": "abs", "left": tree}
    with pytest.raises(ConfigError, match="nested at most 32"):
        metric_of_tree(given_file(tmp_path, json.dumps(tree)))
    with pytest.raises(ConfigError, match=r"is no JSON|nested"):
        metric_of_tree(given_file(tmp_path, '{"data":"abs","left":' * 100_000))


@pytest.mark.parametrize(
    ("text", "asked", "sentence"),
    [
        ("W", Asked(meaning="keep", sparsity=0.5), "--meaning: a file of the kind pruner-zero"),
        ("W", Asked(method="wanda"), "--method: a file of the kind pruner-zero"),
        ("0.5 0.5 0.5", Asked(meaning="drop", sparsity=0.5), "--sparsity: a file of the kind"),
        ("0.5 0.5 0.5", Asked(meaning="drop", step=5), "--weights-diff: a file of the kind ratios"),
        ("0.5 0.5 0.5", Asked(meaning="drop", method="wnada"), "Did you mean 'wanda'"),
        ("0.5 0.5 0.5", Asked(meaning="drop", pattern="n:5"), "groups of 5"),
        ("0.5 0.5 0.5", Asked(kind="ratio"), "Did you mean 'ratios'"),
        ("W", Asked(sparsity=50.0), "Did you mean 0.5"),
    ],
)
def test_options_that_do_not_go_with_a_file_are_refused(tmp_path, text, asked, sentence):
    with pytest.raises(ConfigError, match=sentence):
        imported(given_file(tmp_path, text), LAYOUT, asked)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.pt", b"\x80\x05\x95\xff", "is no text. Pickles and arrays are not read"),
        ("m.safetensors", b"x", "optishear prune --mask-from"),
    ],
)
def test_what_is_no_text_is_one_sentence(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=sentence):
        imported(tmp_path / name, LAYOUT, Asked())
    with pytest.raises(ConfigError, match="there is no such file"):
        imported(tmp_path / "nowhere", LAYOUT, Asked())
    with pytest.raises(ConfigError, match="could not be read"):
        imported(tmp_path, LAYOUT, Asked())
