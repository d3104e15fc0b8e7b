"""Expression trees as metrics, against the operators written once more in plain Python."""

import math

import pytest
import torch
from formulas import trees
from hypothesis import given, settings
from hypothesis import strategies as st

from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import InputSq, LayerStats
from optishear.errors import ConfigError
from optishear.metrics import make_metric
from optishear.metrics.classic import Magnitude, Wanda
from optishear.metrics.tree import OPERATORS, Tree
from optishear.recipe.formula import BINARY, UNARY, canonical_formula
from optishear.recipe.pattern import Row
from optishear.solvers.masks import keep_highest


OUT, IN, SAMPLES = 5, 7, 3


def layer(seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(OUT, IN, generator=generator)
    x = torch.randn(32, IN, generator=generator)
    stored = torch.randn(OUT, SAMPLES, IN, generator=generator).half()
    gradients = LayerGradients(stored, torch.tensor([0.5, 2.0, 1e-3]))
    return weight, LayerStats.of(32, 4, InputSq(x.square().sum(0)), gradients)


def flat(a):
    return [v for row in a for v in row]


def each(function):
    return lambda a: [[function(v) for v in row] for row in a]


def mms(a):
    low, high = min(flat(a)), max(flat(a))
    return each(lambda v: (v - low) / (high - low))(a)


def zsn(a):
    values = flat(a)
    mean = sum(values) / len(values)
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return each(lambda v: (v - mean) / std)(a)


def wide(a):
    return a * OUT if len(a) == 1 else a


def both(function):
    def combine(a, b):
        if len(a) != len(b):
            a, b = wide(a), wide(b)
        return [[function(x, y) for x, y in zip(r, s)] for r, s in zip(a, b)]

    return combine


def div(a, b):
    if len(a) != len(b):
        a, b = wide(a), wide(b)
    norm = math.sqrt(sum(v * v for v in flat(b)))
    return each(lambda v: v / norm)(a)


SLOW = {
    "abs": each(abs),
    "exp": each(lambda v: math.exp(min(v, 100))),
    "log": each(lambda v: math.log(abs(v) + 0.001)),
    "mms": mms,
    "neg": each(lambda v: -v),
    "pow": each(lambda v: v**2),
    "skp": lambda a: a,
    "sqr": each(lambda v: v * v),
    "sqrt": each(lambda v: math.sqrt(abs(v))),
    "tanh": each(math.tanh),
    "zsn": zsn,
    "add": both(lambda x, y: x + y),
    "sub": both(lambda x, y: x - y),
    "mul": both(lambda x, y: x * y),
    "div": div,
}


def slow(formula):
    """The formula's value by Python's own arithmetic; W, X and G from their definitions."""
    weight, stats = layer()
    g = stats[LayerGradients]
    leaves = {
        "W": weight.abs().double().tolist(),
        "X": [(stats[InputSq].total / 4).double().tolist()],
        "G": [
            [
                math.sqrt(
                    sum(
                        (100 * float(g.stored[i, s, j].float() * g.scale[s])) ** 2
                        for s in range(SAMPLES)
                    )
                )
                for j in range(IN)
            ]
            for i in range(OUT)
        ],
    }
    value = eval(formula, {"__builtins__": {}}, {**SLOW, **leaves})  # of formulas written here
    return torch.tensor(wide(value), dtype=torch.float64)


FORMULAS = [f"{u}({leaf})" for u in UNARY for leaf in "WGX"]
FORMULAS += [f"{b}({x}, {y})" for b in BINARY for x, y in ("WX", "XW", "WG", "XX")]
FORMULAS += [
    "mul(abs(mul(W, W)), mms(G))",
    "div(exp(zsn(W)), log(X))",
    "X",
    "sqrt(sub(G, tanh(W)))",
]


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_tree_is_its_formula_in_plain_python(formula):
    weight, stats = layer()
    torch.testing.assert_close(
        Tree(formula).score(weight, stats), slow(formula), rtol=1e-5, atol=1e-6
    )


def check_simplest(formula):
    weight, stats = layer()
    plain, simple = (
        Tree(text).score(weight, stats) for text in (formula, canonical_formula(formula))
    )
    torch.testing.assert_close(simple, plain, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("outer", UNARY)
@pytest.mark.parametrize("inner", UNARY)
def test_the_simplest_form_of_two_operators_has_the_same_values_bit_for_bit(outer, inner):
    check_simplest(f"{outer}({inner}(sub(W, zsn(X))))")


@settings(deadline=None)
@given(trees())
def test_the_simplest_form_has_the_same_values_bit_for_bit(tree):
    check_simplest(str(tree))


def test_every_word_has_an_operator():
    assert set(OPERATORS) == {*UNARY, *BINARY}


def test_known_metrics_are_trees():
    weight, stats = layer()
    for formula, metric in (("W", Magnitude()), ("mul(W, sqrt(X))", Wanda())):
        keeps = [keep_highest(m.score(weight, stats), 12, Row()) for m in (Tree(formula), metric)]
        assert torch.equal(*keeps)


@pytest.mark.parametrize(
    ("formula", "needs"),
    [
        ("W", set()),
        ("mul(W, X)", {InputSq}),
        ("mul(W, G)", {LayerGradients}),
        ("add(G, X)", {InputSq, LayerGradients}),
    ],
)
def test_a_tree_needs_what_its_leaves_read(formula, needs):
    assert Tree(formula).needs == needs


@pytest.mark.parametrize(
    "formula", ["mms(X)", "zsn(W)", "div(W, X)", "mms(sub(W, W))", "exp(exp(W))"]
)
def test_dead_layers_and_large_exponents_stay_finite(formula):
    weight, stats = torch.zeros(OUT, IN), LayerStats.of(8, 2, InputSq(torch.zeros(IN)))
    assert Tree(formula).score(weight, stats).isfinite().all()


def test_a_tree_takes_inputs_by_row_as_moonshot_hands_them():
    weight, stats = layer()
    rows = LayerStats.of(
        32, 4, InputSq(stats[InputSq].total.expand(OUT, IN) * torch.arange(1, OUT + 1)[:, None])
    )
    got = Tree("mul(W, X)").score(weight, rows)
    torch.testing.assert_close(got[2], 3 * Tree("mul(W, X)").score(weight, stats)[2])


def test_gradients_that_nobody_collected_are_not_read_unnoticed():
    with pytest.raises(LookupError, match="LayerGradients was read and not collected"):
        Tree("mul(W, G)").score(torch.ones(OUT, IN), LayerStats.of(8, 2, InputSq(torch.ones(IN))))


def test_a_formula_in_a_recipe_is_checked():
    with pytest.raises(ConfigError, match="Did you mean 'mul'"):
        make_metric({"name": "tree", "formula": "mull(W, X)"})
    with pytest.raises(ConfigError, match="expected a str"):
        make_metric({"name": "tree", "formula": 3})


@settings(deadline=None, max_examples=25)
@given(st.permutations(range(IN)))
def test_scores_follow_a_permutation_of_the_inputs(order):
    weight, stats = layer()
    moved = LayerStats.of(32, 4, InputSq(stats[InputSq].total[order]))
    formula = "add(mms(W), zsn(X))"
    plain = Tree(formula).score(weight, stats)[:, order]
    torch.testing.assert_close(Tree(formula).score(weight[:, order], moved), plain)
