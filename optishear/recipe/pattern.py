"""Where a layer's count applies: in every row, the whole layer, a run of columns, groups of M."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

from optishear.errors import ConfigError
from optishear.recipe.layout import Layer


class Pattern(ABC):
    """Weights of a layer compete with each other only inside the groups that a pattern forms."""

    @property
    @abstractmethod
    def text(self) -> str:
        """How recipes and files write it; `parse_pattern(p.text) == p`."""

    @abstractmethod
    def step(self, layer: Layer) -> int:
        """A layer can only drop multiples of this many weights."""

    @abstractmethod
    def uniform(self, layer: Layer, sparsity: float) -> int:
        """How many weights the field's own code drops at this sparsity: never more than asked."""

    @abstractmethod
    def check(self, layer: Layer) -> None:
        """Raises a `ConfigError` where the pattern does not fit the layer's shape."""


@dataclass(frozen=True)
class Row(Pattern):
    """Every output row loses equally many; the first (drop mod rows) rows lose one more."""

    @property
    def text(self) -> str:
        return "row"

    def step(self, layer: Layer) -> int:
        return 1

    def uniform(self, layer: Layer, sparsity: float) -> int:
        return layer.out_features * int(layer.in_features * sparsity)

    def check(self, layer: Layer) -> None:
        return None


@dataclass(frozen=True)
class WholeLayer(Pattern):
    """All weights of the layer compete."""

    @property
    def text(self) -> str:
        return "layer"

    def step(self, layer: Layer) -> int:
        return 1

    def uniform(self, layer: Layer, sparsity: float) -> int:
        return int(layer.size * sparsity)

    def check(self, layer: Layer) -> None:
        return None


@dataclass(frozen=True)
class Block(Pattern):
    """The weights of every `columns` consecutive input columns compete, over all rows.

    Each block loses its share of the count by size, rounded to the largest remainders, ties to the
    first block. SparseGPT's own pattern, with 128 columns.
    """

    columns: int

    @property
    def text(self) -> str:
        return f"block:{self.columns}"

    def step(self, layer: Layer) -> int:
        return 1

    def uniform(self, layer: Layer, sparsity: float) -> int:
        return sum(
            int(layer.out_features * min(self.columns, layer.in_features - start) * sparsity)
            for start in range(0, layer.in_features, self.columns)
        )

    def check(self, layer: Layer) -> None:
        return None

    def shares(self, width: int, drop: int) -> list[int]:
        """How many weights each block loses, of `drop` in a layer so wide."""
        sizes = [min(self.columns, width - start) for start in range(0, width, self.columns)]
        shares = [drop * size // width for size in sizes]
        rest = sorted(range(len(sizes)), key=lambda i: -(drop * sizes[i] % width))
        for i in rest[: drop - sum(shares)]:
            shares[i] += 1
        return shares


@dataclass(frozen=True)
class NofM(Pattern):
    """N of every M consecutive inputs of a row are kept (N kept, as in ALPS; 2:4 reads the same
    either way). M is the pattern's, N is the layer's: it follows from how many weights it drops.
    """

    m: int

    @property
    def text(self) -> str:
        return f"n:{self.m}"

    def step(self, layer: Layer) -> int:
        return layer.size // self.m

    def uniform(self, layer: Layer, sparsity: float) -> int:
        return self.step(layer) * int(self.m * sparsity + 1e-9)

    def check(self, layer: Layer) -> None:
        if layer.in_features % self.m:
            raise ConfigError(
                f"{layer.name}: {layer.in_features} inputs cannot be divided into groups of "
                f"{self.m}. Choose an M that divides every layer, or the row pattern."
            )


def parse_pattern(text: str) -> Pattern:
    """`row`, `layer`, `block:B` or `n:M` -> the pattern. (`2:4` is read by `parse_n_of_m`.)"""
    if text == "row":
        return Row()
    if text == "layer":
        return WholeLayer()
    if match := re.fullmatch(r"block:(\d+)", text):
        columns = int(match[1])
        if columns < 1:
            raise ConfigError(f"pattern {text!r}: a block has at least one column.")
        return Block(columns)
    if match := re.fullmatch(r"n:(\d+)", text):
        m = int(match[1])
        if m < 2:
            raise ConfigError(f"pattern {text!r}: M must be at least 2.")
        return NofM(m)
    raise ConfigError(
        f"pattern {text!r} is unknown. There are: row, layer, block:128 (columns "
        f"in runs of 128), and N:M such as 2:4 (or n:4, where every layer has its own N)."
    )


def parse_n_of_m(text: str) -> tuple[int, NofM] | None:
    """`2:4` -> (2, NofM(4)): two kept of every four. None where the text is no N:M pattern."""
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match:
        return None
    n, m = int(match[1]), int(match[2])
    if not 1 <= n < m:
        raise ConfigError(f"pattern {text!r}: N kept of M needs 1 <= N < M.")
    return n, NofM(m)
