"""Which weights of a matrix compete, as plain shapes: tiles of it, and how many each of them loses.

No tensors: what cuts them reads these numbers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple


@dataclass(frozen=True)
class Tiling:
    """Groups of one shape: the weights at `rows` x `columns`, cut into tiles of `height` x `width`.

    Each tile is a group, in the order of rows and then of columns. Ranges may have steps, so that a
    group need not lie together.
    """

    rows: range
    columns: range
    height: int
    width: int

    @cached_property
    def size(self) -> int:
        """Weights of one group."""
        return self.height * self.width

    @cached_property
    def weights(self) -> int:
        """Of all its groups."""
        return len(self.rows) * len(self.columns)

    @cached_property
    def groups(self) -> int:
        return self.weights // self.size

    @property
    def fits(self) -> bool:
        """Whether tiles make it up."""
        return not len(self.rows) % self.height and not len(self.columns) % self.width

    @property
    def across(self) -> int:
        """Groups side by side."""
        return len(self.columns) // self.width

    @property
    def strips(self) -> Iterator["Tiling"]:
        """The same groups, those on top of each other as one part."""
        for start in range(0, len(self.columns), self.width):
            yield Tiling(
                self.rows, self.columns[start : start + self.width], self.height, self.width
            )


@dataclass(frozen=True)
class Grouping:
    """All groups of one matrix; what is asked of it for every candidate is counted once."""

    parts: tuple[Tiling, ...]

    @cached_property
    def weights(self) -> int:
        """How many are in groups."""
        return sum(part.weights for part in self.parts)

    @cached_property
    def count(self) -> int:
        return sum(part.groups for part in self.parts)

    @cached_property
    def largest(self) -> int:
        """Weights of the largest group."""
        return max((part.size for part in self.parts), default=0)

    @cached_property
    def fits(self) -> bool:
        return all(part.fits for part in self.parts)


class Cut(NamedTuple):
    """Every group of matrix[rows, columns], a tile of `height` x `width`, loses `count` weights."""

    rows: slice
    columns: slice
    height: int
    width: int
    count: int


def shares(parts: Sequence[Tiling], drop: int) -> list[tuple[int, int]]:
    """By part (what each of its groups loses, how many of the first lose one more), `drop` in all.

    By size, rounded to the largest remainders, ties to the first group.
    """
    total = sum(part.weights for part in parts)
    each = [drop * part.size // total for part in parts]
    left = drop - sum(count * part.groups for count, part in zip(each, parts))
    more = [0] * len(parts)
    for i in sorted(range(len(parts)), key=lambda i: -(drop * parts[i].size % total)):
        more[i] = min(left, parts[i].groups)
        left -= more[i]
    return list(zip(each, more))


def cuts_of(part: Tiling, count: int, more: int) -> Iterator[Cut]:
    """Rectangles whose groups lose alike: `count`, and one more in the first `more` groups."""
    full, rest = divmod(more, part.across)  # rows of groups that lose one more, and groups beyond
    bands = len(part.rows) // part.height
    yield from _cut(part, (0, full), (0, part.across), count + 1)
    if rest:
        yield from _cut(part, (full, full + 1), (0, rest), count + 1)
        yield from _cut(part, (full, full + 1), (rest, part.across), count)
    yield from _cut(part, (full + bool(rest), bands), (0, part.across), count)


def _cut(
    part: Tiling, bands: tuple[int, int], across: tuple[int, int], count: int
) -> Iterator[Cut]:
    rows = part.rows[bands[0] * part.height : bands[1] * part.height]
    columns = part.columns[across[0] * part.width : across[1] * part.width]
    if rows and columns:
        yield Cut(_slice(rows), _slice(columns), part.height, part.width, count)


def _slice(indices: range) -> slice:
    return slice(indices.start, indices.stop, indices.step)
