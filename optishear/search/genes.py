"""The typed genes of a flat genome: one float each, whatever the type."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Choice:
    """A gene with unordered options, stored as the option's index."""

    name: str
    options: tuple[Any, ...]

    @property
    def low(self) -> float:
        return 0.0

    @property
    def high(self) -> float:
        return len(self.options) - 1.0

    def clean(self, code: float) -> float:
        return float(min(max(round(code), 0), len(self.options) - 1))

    def value(self, code: float) -> Any:
        return self.options[int(self.clean(code))]


@dataclass(frozen=True)
class Integer:
    """A whole number in [low, high], both included."""

    name: str
    low: int
    high: int

    def clean(self, code: float) -> float:
        return float(min(max(round(code), self.low), self.high))

    def value(self, code: float) -> int:
        return int(self.clean(code))


@dataclass(frozen=True)
class Real:
    """A number in [low, high]."""

    name: str
    low: float
    high: float

    def clean(self, code: float) -> float:
        return float(min(max(code, self.low), self.high))

    def value(self, code: float) -> float:
        return self.clean(code)


Gene = Choice | Integer | Real


def values_of(value: Any) -> tuple[Any, ...]:
    """All options of a gene, or both its ends; or the one value that is no gene."""
    match value:
        case Choice(_, options):
            return options
        case Real(_, low, high) | Integer(_, low, high):
            return low, high
        case _:
            return (value,)


def cleaned(
    genes: Sequence[Gene], genome: Float[np.ndarray, " genes"]
) -> Float[np.ndarray, " genes"]:
    """The same genome with every gene inside its bounds and every code on its grid."""
    return np.array([gene.clean(code) for gene, code in zip(genes, genome, strict=True)])
