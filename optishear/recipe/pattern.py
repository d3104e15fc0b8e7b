"""Where a layer's count applies: in every row, the whole layer, a run of columns, groups of M.

All that depends on a pattern is asked of it here; what it answers are numbers and shapes, from
which masks, ranks, solvers, checks and exports work for whatever pattern there is.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import ClassVar

from optishear.errors import ConfigError
from optishear.recipe.groups import Cut, Grouping, Tiling, cuts_of, shares
from optishear.recipe.layout import Layer


NOISE = 1e-9  # of a weight: what 1 - N/M may lack


@dataclass(frozen=True)
class Pattern(ABC):
    """Weights of a layer compete with each other only inside the groups that a pattern forms.

    Every group loses its share of the count by size, rounded to the largest remainders, ties to the
    first group; a weight in no group is never dropped. Concrete patterns are frozen dataclasses of
    whole numbers: recipes write the name and these, `block:128`.

    - `example`: how to write it, for whoever wrote another thing; empty: the name and its numbers.
    - `rows_compete`: whether a group may hold weights of several rows, so that a row's own factor
      in a metric counts.
    - `levels`: the number of weights of every group, where all groups of a layer lose equally many:
      then each layer has so many steps, and searches have a gene that counts them. Else None.
    - `window`: every group lies in one of the runs of so many columns, from the first column on;
      None where a group may reach across the layer.
    """

    name: ClassVar[str]
    example: ClassVar[str] = ""
    rows_compete: ClassVar[bool] = True
    levels: ClassVar[int | None] = None
    window: ClassVar[int | None] = None

    @abstractmethod
    def parts(self, rows: int, columns: int) -> tuple[Tiling, ...]:
        """The groups of a layer so large; no weight is in two. They need not fit: others check."""

    @property
    def text(self) -> str:
        """How recipes and files write it; `parse_pattern(p.text) == p`."""
        return ":".join([self.name, *(str(getattr(self, x.name)) for x in fields(self))])

    def step(self, layer: Layer) -> int:
        """A layer can only drop multiples of this many weights."""
        return 1 if self.levels is None else self._of(layer).count

    def most(self, layer: Layer) -> int:
        """How many weights of the layer are in groups, and so can be dropped."""
        return self._of(layer).weights

    def uniform(self, layer: Layer, sparsity: float) -> int:
        """How many weights the field's own code drops at this sparsity: never more than asked."""
        self.check(layer)
        most, noise = self.most(layer), 0.0 if self.levels is None else NOISE
        if (sparsity := sparsity * (layer.size / most)) > 1:
            raise ConfigError(
                f"{layer.name}: the pattern {self.text!r} can drop {most} of its {layer.size} "
                f"weights at most. Lower the sparsity, or choose another pattern."
            )
        return sum(
            part.groups * int(part.size * sparsity + noise) for part in self._of(layer).parts
        )

    def check(self, layer: Layer) -> None:
        """Raises a `ConfigError` where the pattern does not fit the layer's shape."""
        found = self._of(layer)
        if not found.weights:
            raise ConfigError(
                f"{layer.name}: the pattern {self.text!r} leaves nothing of its "
                f"{layer.out_features} x {layer.in_features} weights to drop. Choose another."
            )
        for part in () if found.fits else found.parts:
            if not part.fits:
                rows = f"{len(part.rows)} outputs and " if part.height > 1 else ""
                tile = f"{part.height} x {part.width}" if part.height > 1 else f"{part.width}"
                raise ConfigError(
                    f"{layer.name}: {rows}{len(part.columns)} inputs cannot be divided into groups "
                    f"of {tile}. Choose a pattern that divides every layer, such as row."
                )

    def cuts(self, shape: tuple[int, ...], drop: int) -> tuple[Cut, ...]:
        """What each group of a layer so large loses, of `drop` weights in all, in rectangles.

        Raises `ValueError` for an impossible count.
        """
        rows, columns = shape
        return _cuts(self, rows, columns, drop)

    def groups(self, shape: tuple[int, ...]) -> Grouping:
        """The `parts` of a layer so large that hold a weight, checked."""
        rows, columns = shape
        return _grouping(self, rows, columns)

    def covers(self, shape: tuple[int, ...]) -> bool:
        """Whether every weight of a layer so large is in a group."""
        return self.groups(shape).weights == shape[0] * shape[1]

    def whole(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """(height, width) of the groups, where tiles of one size make up a layer so large."""
        (rows, columns), parts = shape, self.groups(shape).parts
        if len(parts) != 1 or (parts[0].rows, parts[0].columns) != (range(rows), range(columns)):
            return None
        return parts[0].height, parts[0].width

    def m_of(self, shape: tuple[int, ...]) -> int | None:
        """M, where the pattern is N:M on a layer so large: of every M consecutive inputs of a row
        equally many go. None for any other."""
        return self.levels if self.whole(shape) == (1, self.levels) else None

    def spelt(self, layer: Layer, drop: int) -> str:
        """As `text`, with the number that a group keeps where all keep equally many: `2:4`."""
        if self.levels is None:
            return self.text
        kept = self.levels - drop // self.step(layer)
        m = self.m_of((layer.out_features, layer.in_features))
        return f"{kept} of {self.text}" if m is None else f"{kept}:{m}"

    def _of(self, layer: Layer) -> Grouping:
        return _grouping(self, layer.out_features, layer.in_features)


@lru_cache(maxsize=4096)
def _grouping(pattern: Pattern, rows: int, columns: int) -> Grouping:
    """A part that belies what the pattern says of itself is a mistake in the pattern, which no user
    can put right."""
    found = tuple(part for part in pattern.parts(rows, columns) if part.weights)
    for part in found:
        inside = part.rows[-1] < rows and part.columns[-1] < columns
        forward = part.rows.step > 0 and part.columns.step > 0
        crosses = pattern.window is not None and any(
            strip.columns[0] // pattern.window != strip.columns[-1] // pattern.window
            for strip in part.strips
        )
        alike = pattern.levels in (None, part.size)
        rows_alone = part.height == 1 or pattern.rows_compete
        if not (inside and forward and alike and rows_alone) or crosses:
            raise TypeError(f"{type(pattern).__name__}: {part} is not what the pattern promises.")
    return Grouping(found)


@lru_cache(maxsize=4096)
def _cuts(pattern: Pattern, rows: int, columns: int, drop: int) -> tuple[Cut, ...]:
    found = _grouping(pattern, rows, columns)
    parts = found.parts
    if not 0 <= drop <= found.weights:
        raise ValueError(f"Cannot drop {drop} of {found.weights} weights.")
    counts = shares(parts, drop) if found.fits else None
    if counts is None or (pattern.levels is not None and any(more for _, more in counts)):
        groups = " and ".join(dict.fromkeys(str(part.size) for part in parts))
        raise ValueError(f"{drop} of {rows}x{columns} weights do not fit groups of {groups}.")
    return tuple(cut for part, (n, more) in zip(parts, counts) for cut in cuts_of(part, n, more))


@dataclass(frozen=True)
class Row(Pattern):
    """Every output row loses equally many; the first (drop mod rows) rows lose one more."""

    name = "row"
    rows_compete = False

    def parts(self, rows: int, columns: int) -> tuple[Tiling, ...]:
        return (Tiling(range(rows), range(columns), 1, columns),)


@dataclass(frozen=True)
class WholeLayer(Pattern):
    """All weights of the layer compete."""

    name = "layer"

    def parts(self, rows: int, columns: int) -> tuple[Tiling, ...]:
        return (Tiling(range(rows), range(columns), rows, columns),)


@dataclass(frozen=True)
class Block(Pattern):
    """The weights of every `columns` consecutive input columns compete, over all rows.

    SparseGPT's own pattern, with 128 columns.
    """

    columns: int
    name = "block"
    example = "block:128 (columns in runs of 128)"

    def __post_init__(self) -> None:
        if self.columns < 1:
            raise ConfigError(f"pattern {self.text!r}: a block has at least one column.")

    @property
    def window(self) -> int:  # type: ignore[override]
        return self.columns

    def parts(self, rows: int, columns: int) -> tuple[Tiling, ...]:
        starts = range(0, columns, self.columns)
        runs = [range(start, min(start + self.columns, columns)) for start in starts]
        return tuple(Tiling(range(rows), run, rows, len(run)) for run in runs)


@dataclass(frozen=True)
class NofM(Pattern):
    """N of every M consecutive inputs of a row are kept (N kept, as in ALPS; 2:4 reads the same
    either way). M is the pattern's, N is the layer's: it follows from how many weights it drops.
    """

    m: int
    name = "n"
    example = "N:M such as 2:4 (or n:4, where every layer has its own N)"
    rows_compete = False

    def __post_init__(self) -> None:
        if self.m < 2:
            raise ConfigError(f"pattern {self.text!r}: M must be at least 2.")

    @property
    def levels(self) -> int:  # type: ignore[override]
        return self.m

    @property
    def window(self) -> int:  # type: ignore[override]
        return self.m

    def parts(self, rows: int, columns: int) -> tuple[Tiling, ...]:
        return (Tiling(range(rows), range(columns), 1, self.m),)


PATTERNS: dict[str, type[Pattern]] = {kind.name: kind for kind in (Row, WholeLayer, Block, NofM)}


def parse_pattern(text: str) -> Pattern:
    """`row`, `layer`, `block:B` or `n:M` -> the pattern. (`2:4` is read by `parse_asked`.)"""
    name, *numbers = text.split(":")
    kind = PATTERNS.get(name)
    known = kind is not None and len(numbers) == len(fields(kind))
    if kind is None or not known or not all(re.fullmatch("[0-9]+", number) for number in numbers):
        written = [kind.example or _written(kind) for kind in PATTERNS.values()]
        raise ConfigError(f"pattern {text!r} is unknown. There are: {', '.join(written)}.")
    return kind(*map(int, numbers))


def _written(kind: type[Pattern]) -> str:
    return ":".join([kind.name, *(field.name.upper() for field in fields(kind))])


def parse_asked(text: str) -> tuple[Pattern, float | None]:
    """What a user writes -> the pattern, and the sparsity of every layer where the text fixes it:
    `2:4` is n:4 with two kept of every four."""
    match = re.fullmatch("([0-9]+):([0-9]+)", text)
    if not match:
        return parse_pattern(text), None
    n, m = int(match[1]), int(match[2])
    if not 1 <= n < m:
        raise ConfigError(f"pattern {text!r}: N kept of M needs 1 <= N < M.")
    return NofM(m), 1 - n / m
