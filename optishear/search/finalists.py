"""Finalists of a search: its best recipes, measured one-shot and again block by block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optishear.recipe.recipe import Recipe


LEAST = 3  # of two, ranks agree wholly or not at all


@dataclass(frozen=True)
class Finalist:
    """One recipe with its values by quantity, on all search samples in both modes.

    - `by_block`: None where it failed, for a `reason`.
    """

    recipe: Recipe
    one_shot: Mapping[str, float]
    by_block: Mapping[str, float] | None
    reason: str = ""


@dataclass(frozen=True)
class Finalists:
    """Those of one search, in the order in which its pick takes them one-shot.

    - `quantity`: what the two modes are compared in.
    - `picked`: the key of the one that the pick takes block by block.
    """

    quantity: str
    entries: tuple[Finalist, ...]
    picked: str

    @property
    def measured(self) -> list[tuple[Finalist, Mapping[str, float]]]:
        """Those that did not fail, each with its values block by block."""
        return [(one, one.by_block) for one in self.entries if one.by_block is not None]

    @property
    def place(self) -> int:
        """Which of them the picked one was one-shot, counted from 1."""
        return [one.recipe.key for one in self.entries].index(self.picked) + 1

    @property
    def final(self) -> Finalist:
        """The picked one."""
        return self.entries[self.place - 1]

    @property
    def correlation(self) -> float | None:
        """Of the ranks by `quantity` in the two modes; None for fewer than `LEAST`, and where a
        mode tells none of them apart."""
        values = [(one.one_shot[self.quantity], own[self.quantity]) for one, own in self.measured]
        return rank_correlation(*zip(*values, strict=True)) if len(values) >= LEAST else None

    def to_json(self) -> dict[str, Any]:
        """With the correlation and how many it is of, for those who read the file alone."""
        return {
            "quantity": self.quantity,
            "correlation": self.correlation,
            "measured": len(self.measured),
            "picked": self.picked,
            "entries": [
                {
                    "key": one.recipe.key,
                    "one_shot": dict(one.one_shot),
                    "block_by_block": None if one.by_block is None else dict(one.by_block),
                    "reason": one.reason,
                    "recipe": one.recipe.to_json(),
                }
                for one in self.entries
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Finalists":
        """Of what `records.run_files.read_front` has checked."""
        entries = tuple(
            Finalist(
                Recipe.from_json(entry["recipe"], entry["key"]),
                entry["one_shot"],
                entry["block_by_block"],
                entry["reason"],
            )
            for entry in data["entries"]
        )
        return cls(data["quantity"], entries, data["picked"])


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's: Pearson's of the ranks, equal values sharing the mean of theirs; None where all
    values are equal."""
    x, y = (_ranks(values) - (len(values) + 1) / 2 for values in (one, other))
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size else None


def _ranks(values: Sequence[float]) -> np.ndarray:
    column = np.asarray(values, dtype=np.float64)[:, None]
    return (column > column.T).sum(axis=1) + ((column == column.T).sum(axis=1) + 1) / 2
