"""What every pattern promises, and that nobody but its module looks at which one it is."""

import ast
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
from made_up_patterns import MADE_UP, Down, Halves, Odd, groups_of, known

import optishear
from optishear.errors import ConfigError
from optishear.recipe import pattern as module
from optishear.recipe.groups import Tiling
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.metric_forms import canonical_metric
from optishear.recipe.pattern import PATTERNS, Block, NofM, Pattern, Row, WholeLayer, parse_pattern
from optishear.recipe.profile import Bounds, counts_within, project, uniform
from optishear.recipe.recipe import Recipe


EVERY = (Row(), WholeLayer(), Block(5), Block(64), NofM(2), NofM(4), *MADE_UP)
SHAPES = [(6, 8), (2, 12), (10, 4)]


def layer_of(rows, columns, name="l"):
    return Layer(name, 0, "l", rows, columns, name)


def test_every_pattern_of_the_table_is_held_to_the_contract():
    assert {type(pattern) for pattern in EVERY} >= set(PATTERNS.values())


def test_nobody_but_its_module_asks_which_pattern_it_is():
    """A pattern that is matched elsewhere would fall through there when another one comes."""
    package = Path(optishear.__file__).parent
    kinds = {"Pattern", *(kind.__name__ for kind in PATTERNS.values())}
    found = []
    for path in package.rglob("*.py"):
        if path == Path(module.__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            asked = []
            if isinstance(node, ast.MatchClass):
                asked = [node.cls]
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "isinstance",
                "issubclass",
                "type",
            ):
                asked = node.args
            if isinstance(node, ast.Compare) and isinstance(
                node.ops[0], ast.Is | ast.IsNot | ast.In
            ):
                asked = node.comparators
            names = {ast.unparse(name) for ask in asked for name in ast.walk(ask)}
            text = isinstance(node, ast.Constant) and node.value in ("n:", "block:")
            if names & kinds or text:
                found.append(f"{path.relative_to(package)}:{node.lineno}")
    assert not found


@pytest.mark.parametrize("pattern", EVERY, ids=lambda p: p.text)
@pytest.mark.parametrize("shape", SHAPES)
class TestEveryPattern:
    def test_no_weight_is_in_two_groups_and_counts_add_up(self, pattern, shape):
        rows, columns = shape
        layer = layer_of(*shape)
        step, most = pattern.step(layer), pattern.most(layer)
        for drop in range(0, most + 1, step):
            seen, lost, shares = set(), 0, []
            for cut in pattern.cuts(shape, drop):
                inside = [
                    (i, j) for i in range(rows)[cut.rows] for j in range(columns)[cut.columns]
                ]
                assert not seen & set(inside)
                seen |= set(inside)
                size = cut.height * cut.width
                lost += cut.count * (len(inside) // size)
                shares.append(cut.count - drop * size / most)
            assert lost == drop
            assert len(seen) == most
            assert all(abs(share) < 1 for share in shares)
            if pattern.levels is not None:
                assert max(map(abs, shares)) < 1e-9

    def test_counts_that_cannot_be_are_refused(self, pattern, shape):
        most, step = pattern.most(layer_of(*shape)), pattern.step(layer_of(*shape))
        for drop in {-1, most + 1, *([step + 1] if step > 1 else [])}:
            with pytest.raises(ValueError, match=r"Cannot drop|do not fit"):
                pattern.cuts(shape, drop)

    def test_uniform_is_never_more_than_asked_and_can_be_dropped(self, pattern, shape):
        layer = layer_of(*shape)
        for share in (0, 0.3, 0.5, 0.9, 1):
            part = share * pattern.most(layer) / layer.size
            drop = pattern.uniform(layer, part)
            assert drop <= part * layer.size + 1e-6
            assert sum(
                cut.count * len(range(shape[0])[cut.rows]) * len(range(shape[1])[cut.columns])
                // (cut.height * cut.width)
                for cut in pattern.cuts(shape, drop)
            ) == drop  # fmt: skip


@pytest.mark.parametrize("pattern", MADE_UP, ids=lambda p: p.text)
def test_a_made_up_pattern_has_the_groups_that_it_says(pattern):
    for rows, columns in SHAPES:
        groups = [
            list(product(part.rows[i : i + part.height], part.columns[j : j + part.width]))
            for part in pattern.groups((rows, columns)).parts
            for i in range(0, len(part.rows), part.height)
            for j in range(0, len(part.columns), part.width)
        ]
        assert groups == groups_of(pattern, rows, columns)


def test_a_pattern_in_the_table_is_read_as_it_is_written():
    for pattern in MADE_UP:
        with pytest.raises(ConfigError, match="is unknown"):
            parse_pattern(pattern.text)
        with known(pattern):
            assert parse_pattern(pattern.text) == pattern
            with pytest.raises(ConfigError, match=f"There are: .*, {pattern.name}"):
                parse_pattern("odds")
    for text in ("row:3", "block", "block:x", "n:4:2", "n:-4", "n: 4", ""):
        with pytest.raises(ConfigError, match="is unknown"):
            parse_pattern(text)


@pytest.mark.parametrize(
    ("pattern", "forms"),
    [
        (Row(), "wanda"),
        (NofM(4), "wanda"),
        (Odd(), "wanda"),
        *((other, "power") for other in (WholeLayer(), Block(4), Down(2), Halves())),
    ],
)
def test_a_row_s_factor_is_left_out_only_where_no_rows_compete(pattern, forms):
    metric = {"name": "power", "alpha": 1.0, "beta": 0.5, "delta": 1.0, "mix": 0.0}
    assert canonical_metric(metric, pattern)["name"] == forms


def test_a_budget_keeps_to_what_the_pattern_can_drop():
    layout = ModelLayout((layer_of(6, 8, "a"), layer_of(5, 12, "b")))
    assert [counts_within(layer, Odd(), Bounds()).stop - 1 for layer in layout.layers] == [24, 30]
    assert project({"a": 0.9, "b": 0.1}, layout, Odd(), Bounds(), 30) == {"a": 24, "b": 6}
    assert project({"a": 0.9, "b": 0.1}, layout, Odd(), Bounds(), None) == {"a": 24, "b": 6}
    with pytest.raises(ConfigError, match=r"lies between 0 and 0\.5"):
        project({"a": 0.9, "b": 0.9}, layout, Odd(), Bounds(), 60)
    with pytest.raises(ConfigError, match=r"a: no count of the pattern 'odd' .* 24 at most"):
        project({"a": 0.9, "b": 0.9}, layout, Odd(), Bounds(0.6, 0.9), None)
    assert uniform(layout, Odd(), 0.25) == {"a": 12, "b": 15}
    with pytest.raises(ConfigError, match="'odd' can drop 24 of its 48 weights at most"):
        uniform(layout, Odd(), 0.6)
    with known(Odd()), pytest.raises(ConfigError, match="25 of 48 weights cannot be dropped"):
        Recipe.of({"name": "wanda"}, {"a": 25, "b": 0}, "odd").check(layout)


def test_a_layer_that_a_pattern_does_not_fit_is_a_sentence():
    with pytest.raises(ConfigError, match=r"3 outputs and 4 inputs cannot be divided .* of 2 x 1"):
        Down(2).check(layer_of(3, 4))
    with pytest.raises(ConfigError, match="leaves nothing of its 3 x 1 weights to drop"):
        Odd().check(layer_of(3, 1))


def test_a_pattern_that_belies_itself_is_an_error_and_no_other_mask():
    @dataclass(frozen=True)
    class Liar(Pattern):
        name = "liar"
        rows_compete = False

        def parts(self, rows, columns):
            return (Tiling(range(rows), range(columns), rows, columns),)

    with pytest.raises(TypeError, match="not what the pattern promises"):
        Liar().check(layer_of(3, 4))
