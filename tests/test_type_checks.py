"""Wrong types and shapes are refused while tests run: arguments, results, fields of dataclasses."""

import importlib
import sys

import numpy as np
import pytest
import type_checks
from jaxtyping import install_import_hook


SOURCE = '''
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from nowhere import Unknown

Grid = Float[np.ndarray, "rows columns"]


@dataclass(frozen=True)
class Pair:
    one: Grid
    other: Grid
    name: str = "pair"

    @classmethod
    def of(cls, one: Grid) -> "Pair":
        return cls(one, one)

    @staticmethod
    def count(name: str) -> int:
        return len(name)

    @property
    def total(self) -> float:
        return str(self.name)


class Child(Pair):
    """Builds as its parent does."""


def added(one: Grid, other: Grid) -> Grid:
    return one + other


def flipped(one: Grid) -> Grid:
    return added(one.T, one.T).T[:, :1] if len(one) == 4 else added(one.T, one.T).T


def rows(one: Grid, other: Grid) -> Iterator[Float[np.ndarray, " columns"]]:
    yield from one


def outer(number: int) -> int:
    def inner(text: str) -> int:
        return len(text)

    return inner("x" if number else number)


def unseen(what: "Unknown", number: int) -> int:
    return number
'''


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    place = tmp_path_factory.mktemp("typed")
    (place / "made_up_typed.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        with install_import_hook("made_up_typed", "beartype.beartype"):
            yield importlib.import_module("made_up_typed")
    sys.modules.pop("made_up_typed")


A, B = np.ones((2, 3)), np.ones((4, 5))


def test_what_fits_goes_through(module):
    assert module.added(A, A).shape == module.flipped(A).shape == A.shape
    assert module.Pair.of(A).name == module.Child(A, A).name
    assert module.Pair.count("four") == 4
    assert [len(row) for row in module.rows(A, A)] == [3, 3]
    assert module.outer(1) == 1
    assert module.unseen(object(), 3) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        lambda m: m.added(A, B),
        lambda m: m.added(A, A.astype(int)),
        lambda m: m.added(A, "A"),
        lambda m: m.flipped(B),
        lambda m: m.Pair(A, B),
        lambda m: m.Pair(A, A, 3),
        lambda m: m.Child(A, B),
        lambda m: m.Pair.of(A[0]),
        lambda m: m.Pair.count(4),
        lambda m: m.Pair(A, A).total,
        lambda m: m.rows(A, B),
        lambda m: m.outer(0),
        lambda m: m.unseen(object(), "3"),
    ],
)
def test_what_does_not_is_refused_the_first_time_and_later(module, wrong):
    for _ in range(2):
        with pytest.raises(Exception, match=r"(?i)violates type hint|type-check error"):
            wrong(module)


def test_sizes_are_those_of_one_call(module):
    """A call from within, and after one that failed, begins with none."""
    assert module.flipped(A).shape == (2, 3)
    with pytest.raises(Exception, match="violates"):
        module.added(A, B)
    assert module.added(B, B).shape == (4, 5)


def test_a_test_checks_the_first_calls_and_the_next_one_does_again(module):
    for _ in range(type_checks.MOST):
        with pytest.raises(Exception, match="violates"):
            module.Pair.count(4)
    with pytest.raises(TypeError, match="has no len"):
        module.Pair.count(4)
    type_checks.begin_test()
    with pytest.raises(Exception, match="violates"):
        module.Pair.count(4)


def test_it_is_what_the_hook_takes():
    import jaxtyping

    assert jaxtyping.jaxtyped is type_checks.jaxtyped
