"""An exact total of weights from a target for each layer: shifted alike, clipped, whole steps."""

from dataclasses import dataclass

import numpy as np

from optishear.errors import ConfigError


NOISE = 1e-9  # of a step: remainders that are no further apart are equal but for rounding


@dataclass(frozen=True)
class Grid:
    """What each layer may lose: multiples of `step` weights, `low` to `high` times.

    - `exact`: whether the layer can lose any number of weights, for it has no levels and no steps.
    """

    step: np.ndarray
    low: np.ndarray
    high: np.ndarray
    exact: np.ndarray

    def only(self, chosen: np.ndarray) -> "Grid":
        return Grid(self.step[chosen], self.low[chosen], self.high[chosen], self.exact[chosen])


def on_budget(
    raw: np.ndarray, most: np.ndarray, grid: Grid, budget: int, noise: float
) -> np.ndarray:
    """Steps a layer; remainders whose difference is `noise` at most count as equal."""
    step, low, high = grid.step, grid.low, grid.high
    total = int((step * most).sum())
    if not (step * low).sum() <= budget <= (step * high).sum():
        raise ConfigError(
            f"A sparsity of {budget / total:.4g} cannot be met: with these bounds and this pattern "
            f"it lies between {(step * low).sum() / total:.4g} and "
            f"{(step * high).sum() / total:.4g}. Widen the bounds or change the target."
        )

    def clipped(shift: float) -> np.ndarray:
        return np.clip((raw + shift) * most, low, high)

    below, above = -1.0 - float(raw.max()), 1.0 - float(raw.min())
    for _ in range(80):  # bisection on the shift; the total grows with it
        middle = (below + above) / 2
        if (clipped(middle) * step).sum() <= budget:
            below = middle
        else:
            above = middle
    wanted = clipped(below)
    if grid.exact.all() or not grid.exact.any():
        return _filled(wanted, grid, budget, noise)
    return _mixed(raw, most, wanted, grid, budget, noise)


def _mixed(
    raw: np.ndarray,
    most: np.ndarray,
    wanted: np.ndarray,
    grid: Grid,
    budget: int,
    noise: float,
) -> np.ndarray:
    """Where some layers have levels and some can lose any number of weights: the former come as
    near to what is wanted as they can, and the latter meet the rest to the weight.

    Where the latter have no room left, as many of the former as need be lose one more step.
    """
    fine, coarse = np.flatnonzero(grid.exact), np.flatnonzero(~grid.exact)
    levels, weights = grid.only(coarse), grid.only(fine)
    share = int(np.floor((wanted[coarse] * levels.step).sum() + NOISE))
    chosen = _filled(wanted[coarse], levels, share, noise)
    least, room = int((weights.step * weights.low).sum()), int((weights.step * weights.high).sum())
    rest = budget - int((chosen * levels.step).sum())
    order = _largest_first(wanted[coarse] - chosen, noise)
    while rest > room:
        fitting = [
            i for i in order if chosen[i] < levels.high[i] and rest - levels.step[i] >= least
        ]
        if not fitting:
            break
        for i in fitting:
            if rest > room and rest - levels.step[i] >= least:
                chosen[i] += 1
                rest -= int(levels.step[i])
    steps = np.zeros(len(raw), dtype=np.int64)
    steps[coarse] = chosen
    steps[fine] = on_budget(raw[fine], most[fine], weights, min(rest, room), noise)
    return steps


def _filled(wanted: np.ndarray, grid: Grid, budget: int, noise: float) -> np.ndarray:
    """Whole steps nearest to these: down, then up by the largest remainder while it fits."""
    step, high = grid.step, grid.high
    steps = np.floor(wanted + NOISE).astype(np.int64)
    order = _largest_first(wanted - steps, noise)
    left = budget - int((steps * step).sum())
    while left > 0:
        fitting = [i for i in order if steps[i] < high[i] and step[i] <= left]
        if not fitting:
            break
        for i in fitting:
            if step[i] <= left:
                steps[i] += 1
                left -= int(step[i])
    return steps


def _largest_first(remainders: np.ndarray, noise: float) -> np.ndarray:
    """Indices by falling remainder, equal ones by index.

    Neighbours in that order at most `noise` apart are equal. (Rounding to decimals would part two
    that lie on both sides of a boundary.)
    """
    order = np.argsort(-remainders, kind="stable")
    falls = np.diff(-remainders[order], prepend=-remainders[order[:1]]) > noise
    return order[np.lexsort((order, np.cumsum(falls)))]
