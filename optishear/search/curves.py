"""What each layer costs alone, by how much it loses, and what that makes of a search's genes."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from optishear.errors import ConfigError
from optishear.recipe.profile import counts_within, has_levels
from optishear.search.space import SearchSpace


@dataclass(frozen=True)
class Curves:
    """Values of one objective with one layer pruned and all others dense, layer by layer.

    `points`: by layer (weights dropped, value), rising in the count. At 0 dropped the value is 0,
    which is not listed.

    For small errors the objective of a whole recipe is about the sum over its layers: HIGGS's
    linearity theorem (Malinovskii et al. 2024, arXiv 2411.17525) shows it for perplexity.
    """

    points: Mapping[str, tuple[tuple[int, float], ...]]

    def __post_init__(self) -> None:
        for name, points in self.points.items():
            counts = [0, *(count for count, _ in points)]
            rising = all(a < b for a, b in pairwise(counts))
            if len(counts) < 2 or not rising or not all(math.isfinite(v) for _, v in points):
                raise ValueError(
                    f"{name}: a curve has one point or more, with finite values and counts that "
                    f"rise from 1, not {points!r:.80}."
                )

    def cost(self, layer_name: str, drop: int) -> float:
        """The objective's value with this layer alone losing `drop` weights.

        Log-linear in the count between measured ones: from u at a to v at b it is
        exp((1 - t) log u + t log v), t = (drop - a) / (b - a). Linear where u or v is not positive,
        as from 0 to the first point. Above the last point its last piece goes on.
        """
        if drop == 0:
            return 0.0
        if layer_name not in self.points:
            raise ConfigError(
                f"The curves have no point of the layer {layer_name}. Measure them on this model."
            )
        points = ((0, 0.0), *self.points[layer_name])
        right = bisect_left(points, drop, key=lambda point: point[0])
        right = min(max(right, 1), len(points) - 1)
        (a, u), (b, v) = points[right - 1], points[right]
        share = (drop - a) / (b - a)
        if share == 1 or u <= 0 or v <= 0:
            return v if share == 1 else u + (v - u) * share
        try:
            return math.exp((1 - share) * math.log(u) + share * math.log(v))
        except OverflowError:
            raise ConfigError(
                f"{layer_name}: its curve ends at {b} weights dropped and rises beyond all numbers "
                f"before {drop}. Measure it at more weights dropped, or lower the space's bounds."
            ) from None

    def total(self, drop: Mapping[str, int]) -> float:
        """What these counts cost together, were the layers' costs to add up."""
        return sum(self.cost(name, count) for name, count in drop.items())


def curves_of(
    entries: Iterable[Mapping[str, Any]], layers: Sequence[str], objective: str
) -> Curves:
    """The curves that a journal's entries are points of, in whatever order; what failed is left
    out. Each drops weights of one layer: a `ConfigError` for another."""
    points: dict[str, dict[int, float]] = {}
    for entry in entries:
        dropped = [(name, count) for name, count in zip(layers, entry["drop"]) if count]
        if len(dropped) != 1:
            raise ConfigError(
                f"{entry['key']}: drops weights of {len(dropped)} layers, and a point of a curve "
                f"drops those of one."
            )
        if entry["values"] is not None:
            [(name, count)] = dropped
            points.setdefault(name, {})[count] = entry["values"][objective]
    return Curves({name: tuple(sorted(found.items())) for name, found in points.items()})


@dataclass(frozen=True, eq=False)
class GeneCurve:
    """What a gene can choose, and what that costs: one option an entry, rising in its amount.

    - `codes`: of the gene. They fall where a code counts what is kept, as N of N:M does, and
      where the amount is of what is kept.
    - `amounts`: what an option takes of a budget: weights dropped, or bytes stored.
    - `costs`: in the objective's unit.
    - `slack`: how much of a budget an answer may leave, since the gene's layers can drop what lies
      between its options, too; 0 where they cannot.
    """

    codes: Float[np.ndarray, " options"]
    amounts: Int[np.ndarray, " options"]
    costs: Float[np.ndarray, " options"]
    slack: int = 0

    def __post_init__(self) -> None:
        lengths = {len(self.codes), len(self.amounts), len(self.costs)}
        finite = np.isfinite(self.codes).all() and np.isfinite(self.costs).all()
        if len(lengths) > 1 or 0 in lengths or not finite or (np.diff(self.amounts) <= 0).any():
            raise ValueError(
                "A gene's curve has one finite code and cost for each of the amounts, which rise."
            )


def gene_curves(space: SearchSpace, curves: Curves) -> tuple[GeneCurve | None, ...]:
    """For each gene of the space what it can drop and what that costs, summed over the layers that
    follow it; None for genes that say no block's or layer's sparsity.

    Of codes with one count only the first is listed. Where the layers have no levels `slack` is the
    widest step between options: their totals are many and uneven, so that the largest within a
    budget may be a poor choice's alone.
    """
    listed = space.layers.counts_by_code
    return tuple(
        _gene_curve(space, listed[gene.name], curves) if gene.name in listed else None
        for gene in space.genes
    )


def fixed_drop(space: SearchSpace) -> int:
    """Weights dropped by the layers that follow no gene, since their pattern fixes N."""
    layers = space.layers
    return sum(
        counts_within(layer, layers.patterns, layers.bounds)[0]
        for layer in layers.layout.layers
        if layers.patterns.fixed(layer) is not None
    )


def _gene_curve(
    space: SearchSpace, options: tuple[tuple[float, dict[str, int]], ...], curves: Curves
) -> GeneCurve:
    dropped, first = np.unique([sum(drop.values()) for _, drop in options], return_index=True)
    chosen = [options[index] for index in first]
    layers = space.layers
    followers = [layers.layout.by_name[name] for name in options[0][1]]
    leveled = any(has_levels(layer, layers.patterns, layers.bounds) for layer in followers)
    return GeneCurve(
        np.array([code for code, _ in chosen]),
        dropped.astype(np.int64),
        np.array([curves.total(drop) for _, drop in chosen]),
        0 if leveled else int(np.diff(dropped).max(initial=0)),
    )
