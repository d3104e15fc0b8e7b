"""Patterns that the package does not have, each in some ten lines: what they promise is enough."""

from contextlib import contextmanager
from dataclasses import dataclass

from optishear.recipe.groups import Tiling
from optishear.recipe.pattern import PATTERNS, Pattern


@dataclass(frozen=True)
class Odd(Pattern):
    """Only every second column may lose weights; those of a row compete."""

    name = "odd"
    rows_compete = False

    def parts(self, rows, columns):
        return (Tiling(range(rows), range(1, columns, 2), 1, columns // 2),)


@dataclass(frozen=True)
class Down(Pattern):
    """Of every `m` outputs that read one input, one above the other, equally many go."""

    m: int
    name = "down"

    @property
    def levels(self):
        return self.m

    def parts(self, rows, columns):
        return (Tiling(range(rows), range(columns), self.m, 1),)


@dataclass(frozen=True)
class Halves(Pattern):
    """Pairs of neighbouring weights compete in the left half, all weights in the right one."""

    name = "halves"

    def parts(self, rows, columns):
        half = columns // 4 * 2
        return (
            Tiling(range(rows), range(half), 1, 2),
            Tiling(range(rows), range(half, columns), rows, columns - half),
        )


MADE_UP = (Odd(), Down(2), Halves())


@contextmanager
def known(*patterns):
    """In the table, as long as it is open."""
    PATTERNS.update({pattern.name: type(pattern) for pattern in patterns})
    try:
        yield
    finally:
        for pattern in patterns:
            del PATTERNS[pattern.name]


def groups_of(pattern, rows, columns):
    """Each group's (row, column) in the order of its indices, spelled out for the made-up ones."""
    match pattern:
        case Odd():
            return [[(i, j) for j in range(1, columns, 2)] for i in range(rows)]
        case Down(m):
            return [
                [(i + k, j) for k in range(m)] for i in range(0, rows, m) for j in range(columns)
            ]
        case Halves():
            half = columns // 4 * 2
            pairs = [[(i, j), (i, j + 1)] for i in range(rows) for j in range(0, half, 2)]
            return [*pairs, [(i, j) for i in range(rows) for j in range(half, columns)]]
    raise AssertionError(pattern)
