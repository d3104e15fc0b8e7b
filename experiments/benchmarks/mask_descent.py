"""Sparsities of layers and of single rows that go down the slopes of the KL, one backward pass a
step, under one exact budget for the whole model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from masked_model import MaskedModel
from torch import Tensor

from optishear.recipe.budget import NOISE, Grid, on_budget
from optishear.recipe.layout import ModelLayout
from optishear.recipe.pattern import Row
from optishear.recipe.profile import Bounds, project
from optishear.search.gradient_driver import BETAS, ROUNDS, SLOWER, STEP, TINY
from optishear.search.slopes import WINDOW
from optishear.solvers.masks import keep_counts, stable_order


LAYER_BOUNDS = (0.2, 0.9)  # as in bench_allocation.py
ROW_BOUNDS = (0.0, 1.0)  # a whole row may go
LAYER_STEP = STEP * (LAYER_BOUNDS[1] - LAYER_BOUNDS[0])  # the gradient driver's, as a sparsity
OWN, LAYER = "row", "layer"  # whose slopes a row's step is measured by

RowVector = Float[np.ndarray, " rows"]


def row_slopes(
    gradient: Float[Tensor, "out in"],
    dense: Float[Tensor, "out in"],
    order: Int[Tensor, "out in"],
    counts: Int[Tensor, " out"],
) -> Float[Tensor, " out"]:
    """d L / d s of every row of a layer, s being the part of the row that is dropped:

        < d L / d W_r, W_r(c+) - W_r(c-) > / ((c+ - c-) / n)

    with W_r(c) the row of n weights without its c lowest scores, and c+ and c- a `WINDOW`-th of the
    row to either side of its count, within the row. What `optishear.pruning.slopes` does for a
    layer. `order`: each row's indices by rising score.
    """
    width = dense.shape[1]
    away = max(1, width // WINDOW)
    fewer, more = (counts - away).clamp_min(0), (counts + away).clamp_max(width)
    change = (-gradient * dense).gather(1, order).double()  # of L, as each weight goes
    until = F.pad(change.cumsum(1), (1, 0))
    between = until.gather(1, more[:, None]) - until.gather(1, fewer[:, None])
    return between[:, 0] * width / (more - fewer)


class Rows:
    """The rows of all layers, one after the other, as vectors."""

    def __init__(self, layout: ModelLayout) -> None:
        self.layout = layout
        tall = [layer.out_features for layer in layout.layers]
        self.layer = np.repeat(np.arange(len(tall)), tall)
        self.width = np.repeat([layer.in_features for layer in layout.layers], tall)
        self.sizes = np.array([layer.size for layer in layout.layers])
        self._cuts = np.cumsum(tall)[:-1]

    def split(self, values: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.layout.sizes, np.split(values, self._cuts), strict=True))

    def by_layer(self, values: RowVector) -> Float[np.ndarray, " layers"]:
        return np.bincount(self.layer, values, len(self.sizes))

    def mean(self, values: RowVector) -> Float[np.ndarray, " layers"]:
        """Over the rows of each layer, which are equally wide."""
        return self.by_layer(values) / np.bincount(self.layer)

    def even(self, sparsity: float) -> RowVector:
        return np.full(len(self.width), sparsity)

    def counts(self, targets: RowVector, budget: int) -> Int[np.ndarray, " rows"]:
        """Of each row, `budget` in all: exact for the layers first, then for the rows of each, by
        largest remainders; of equal rows the first lose one more."""
        wanted = dict(zip(self.layout.sizes, self.mean(targets).tolist(), strict=True))
        drop = project(wanted, self.layout, Row(), Bounds(), budget)
        found = []
        for layer, own in zip(self.layout.layers, self.split(targets).values(), strict=True):
            one, most = np.ones(len(own), np.int64), np.full(len(own), layer.in_features)
            grid = Grid(one, 0 * one, most, one > 0)
            found.append(on_budget(own, most, grid, drop[layer.name], NOISE))
        return np.concatenate(found)


class Adam:
    """The gradient driver's: the first step is `step`, and they fall as 1 / (1 + t / SLOWER).

    `together`: what each number belongs to; squares of slopes are then means over these.
    """

    def __init__(self, step: float, together: Int[np.ndarray, " numbers"] | None = None) -> None:
        self._step, self._together = step, together
        self._mean, self._square, self._steps = np.zeros(1), np.zeros(1), 0

    def __call__(self, slopes: Float[np.ndarray, " numbers"]) -> Float[np.ndarray, " numbers"]:
        b1, b2 = BETAS
        squares = slopes**2
        if self._together is not None:
            sums, members = (np.bincount(self._together, x) for x in (squares, 0 * squares + 1))
            squares = (sums / members)[self._together]
        self._mean = b1 * self._mean + (1 - b1) * slopes
        self._square = b2 * self._square + (1 - b2) * squares
        self._steps += 1
        mean = self._mean / (1 - b1**self._steps)
        size = np.sqrt(self._square / (1 - b2**self._steps))
        return -self._step / (1 + (self._steps - 1) / SLOWER) * mean / (size + TINY)


class Moves(ABC):
    """From the slopes of all rows to how far each of them moves; anew for each descent."""

    bounds: tuple[float, float]

    @abstractmethod
    def __call__(self, slopes: RowVector) -> RowVector: ...


class LayerMoves(Moves):
    """All rows of a layer alike, by the sum of their slopes."""

    bounds = LAYER_BOUNDS

    def __init__(self, rows: Rows, step: float = LAYER_STEP) -> None:
        self._rows, self._adam = rows, Adam(step)

    def __call__(self, slopes: RowVector) -> RowVector:
        own, sizes = self._rows.by_layer(slopes), self._rows.sizes
        return self._adam(own - sizes * (own.sum() / sizes.sum()))[self._rows.layer]


class RowMoves(Moves):
    """Every row by its own slope. `scale`: what a slope is large or small beside, the row's own
    ones so far or those of its layer's rows."""

    bounds = ROW_BOUNDS

    def __init__(self, rows: Rows, step: float, scale: str) -> None:
        self._rows, self._adam = rows, Adam(step, rows.layer if scale == LAYER else None)

    def __call__(self, slopes: RowVector) -> RowVector:
        width = self._rows.width
        return self._adam(slopes - width * (slopes.sum() / width.sum()))


class BothMoves(Moves):
    """Layers as `LayerMoves`, and rows beside the mean of their layer, from the same slopes."""

    bounds = ROW_BOUNDS

    def __init__(self, rows: Rows, step: float, scale: str) -> None:
        self._rows, self._layers = rows, LayerMoves(rows)
        self._adam = Adam(step, rows.layer if scale == LAYER else None)

    def __call__(self, slopes: RowVector) -> RowVector:
        own = self._adam(slopes - self._rows.mean(slopes)[self._rows.layer])
        return self._layers(slopes) + own - self._rows.mean(own)[self._rows.layer]


@dataclass(frozen=True, eq=False)
class Point:
    """Where a descent was: what it wanted of each row, so many weights dropped, the KL there."""

    targets: RowVector
    counts: Int[np.ndarray, " rows"]
    kl: float


class RowMasks:
    """A model whose rows lose their lowest scores, as many as asked."""

    def __init__(self, masked: MaskedModel, scores: Mapping[str, Float[Tensor, "out in"]]) -> None:
        self.masked, self.scores = masked, scores
        self.rows = Rows(masked.layout)
        # 32 bits: at 64 all layers' orders are twice the model.
        self._order = {name: stable_order(score).int() for name, score in scores.items()}

    def keep(self, counts: Int[np.ndarray, " rows"]) -> dict[str, Bool[Tensor, "out in"]]:
        return {
            name: keep_counts(self.scores[name], torch.from_numpy(own))
            for name, own in self.rows.split(counts).items()
        }

    def kl_and_slopes(self, counts: Int[np.ndarray, " rows"]) -> tuple[float, RowVector]:
        self.masked.write(self.keep(counts))
        kl, gradients = self.masked.kl_and_gradients()
        slopes = [
            row_slopes(
                gradients[name],
                self.masked.dense(name),
                self._order[name].long(),
                torch.from_numpy(own),
            )
            for name, own in self.rows.split(counts).items()
        ]
        return kl, torch.cat(slopes).numpy()


def descend(
    masks: RowMasks, start: RowVector, moves: Moves, steps: int, budget: int
) -> list[Point]:
    """So many points from the start on, a step apart."""
    at, path = start, []
    for _ in range(steps):
        counts = masks.rows.counts(at, budget)
        kl, slopes = masks.kl_and_slopes(counts)
        path.append(Point(at, counts, kl))
        at = restored(at + moves(slopes), masks.rows.width, budget, moves.bounds)
    return path


def restored(
    targets: RowVector, width: Int[np.ndarray, " rows"], budget: int, bounds: tuple[float, float]
) -> RowVector:
    """Within the bounds and on the budget, by one shift of all that have room."""
    targets = np.clip(targets, *bounds)
    for _ in range(ROUNDS):
        missing = budget - width @ targets
        room = (targets < bounds[1]) if missing > 0 else (targets > bounds[0])
        if not room.any():
            break
        targets = np.clip(np.where(room, targets + missing / width[room].sum(), targets), *bounds)
    return targets


def best(path: Sequence[Point]) -> Point:
    return min(path, key=lambda point: point.kl)
