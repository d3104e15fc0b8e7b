"""Formulas are data: what can be read, what is refused, and which texts mean the same."""

import pytest
from formulas import trees
from hypothesis import given

from optishear.errors import ConfigError
from optishear.recipe.formula import (
    Node,
    canonical_formula,
    node_of,
    parse_formula,
)
from optishear.recipe.metric_forms import canonical_metric, reads_inputs
from optishear.recipe.pattern import Row


@given(trees())
def test_a_tree_is_read_back_from_its_text(tree):
    assert parse_formula(str(tree)) == tree


@given(trees())
def test_the_simplest_form_is_as_simple_as_it_gets_and_reads_the_same(tree):
    simple = canonical_formula(str(tree))
    assert canonical_formula(simple) == simple
    assert parse_formula(simple).leaves == tree.leaves


@pytest.mark.parametrize(
    ("text", "simple"),
    [
        ("mul(abs(mul(W, W)), mms(G))", "mul(mms(G), sqr(W))"),
        (" mul( X ,abs(W) ) ", "mul(W, X)"),
        ("skp(skp(G))", "G"),
        ("pow(neg(X))", "sqr(X)"),
        ("sqr(neg(abs(sub(W, X))))", "sqr(sub(W, X))"),
        ("sub(X, W)", "sub(X, W)"),
        ("div(X, W)", "div(X, W)"),
        ("neg(neg(log(neg(W))))", "log(W)"),
        ("abs(zsn(W))", "abs(zsn(W))"),
    ],
)
def test_what_computes_the_same_has_one_simplest_form(text, simple):
    assert canonical_formula(text) == simple
    assert canonical_metric({"name": "tree", "formula": text}, Row()) == {
        "name": "tree",
        "formula": simple,
    }


def test_a_tree_reads_the_inputs_if_x_is_in_it():
    assert reads_inputs({"name": "tree", "formula": "mul(W, X)"})
    assert not reads_inputs({"name": "tree", "formula": "mul(W, G)"})
    assert reads_inputs({"name": "tree"})  # the usual formula


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "ends too early"),
        ("mul(W", "mul takes 2 arguments, not 1|bracket of mul"),
        ("mul(W,", "ends too early"),
        ("mul(W, X", "bracket of mul"),
        ("mul(W)", "mul takes 2 arguments, not 1"),
        ("abs(W, X)", "abs takes 1 arguments, not 2"),
        ("W(X)", "W takes 0 arguments, not 1"),
        ("abs", "abs takes 1 arguments, not 0"),
        ("mull(W, X)", "Did you mean 'mul'"),
        ("W X", "'X' stands after the end"),
        ("abs()", r"found '\)' where"),
        ("__import__('os')", "' belongs|\"'\" at character"),
        ("((W))", r"found '\(' where"),
        ("W + X", r"'\+' at character 3"),
        ("(" * 2000, "at most 256"),
        ("abs(" * 40 + "W" + ")" * 40, "nested at most 32"),
        ("add(" * 30 + "W" + ", add(add(W, W), add(W, W)))" * 30 * 2, "at most 256"),
    ],
)
def test_what_is_no_formula_is_one_sentence(text, sentence):
    with pytest.raises(ConfigError, match=sentence):
        parse_formula(text, "x.json")


def test_a_node_knows_how_many_arguments_it_takes():
    with pytest.raises(ConfigError, match="div takes 2 arguments, not 1"):
        node_of("div", (Node("W"),), "x")
