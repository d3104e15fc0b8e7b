"""The front in numbers: what is non-dominated, its knee and how much it dominates.

All values are minimised. Each function is a pure function of arrays and refuses non-finite values.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


Points = Float[np.ndarray, "n objectives"]


def non_dominated(values: Points) -> list[int]:
    """The indices, ascending, of the points no other point dominates; of equal points the first.

    A sweep in lexicographic order, in which nothing is dominated by what comes after it. Exact.
    """
    _refuse_non_finite(values)
    order = np.lexsort(values.T[::-1]) if len(values) else np.empty(0, dtype=int)
    front: list[int] = []
    for index in order.tolist():
        if not (values[front] <= values[index]).all(axis=1).any():
            front.append(index)
    return sorted(front)


def knee(values: Points) -> int:
    """The index of the front's best compromise: the least sum of normalised objectives.

    Each objective is brought to [0, 1] over the non-dominated points (an objective in which they
    all agree counts nothing). The corners, best in one objective and worst in the others, span a
    plane of constant sum, and the knee is the point furthest below it. Sums are compared to 12
    decimals; a tie goes to the lowest index: of two points the first is the knee.
    """
    front = non_dominated(values)
    if not front:
        raise ValueError("An empty front has no knee.")
    # Halves, so that the range of the largest floats is one, too.
    halves = values[front] / 2
    low, span = halves.min(axis=0), np.ptp(halves, axis=0)
    moving = span > 0
    shares = (halves - low)[:, moving] / span[moving]
    return front[int(np.argmin(np.round(shares.sum(axis=1), 12)))]


def hypervolume(values: Points, reference: Float[np.ndarray, " objectives"]) -> float:
    """The volume dominated by the points and bounded by `reference` (moocore, through pymoo).

    A point that is not better than the reference in every objective counts nothing.
    """
    from pymoo.indicators.hv import HV

    _refuse_non_finite(values)
    inside = values[(values < reference).all(axis=1)]
    if not len(inside):
        return 0.0
    volume = HV(ref_point=reference.astype(np.float64))(inside[non_dominated(inside)])
    return float(np.asarray(volume))


def hypervolume_history(
    values_in_order: Points | Sequence[tuple[float, ...] | None],
    reference: Float[np.ndarray, " objectives"],
) -> Float[np.ndarray, " n"]:
    """The hypervolume after each evaluation, in the order made. A failure (None) adds nothing."""
    history = np.zeros(len(values_in_order))
    front = np.empty((0, len(reference)))
    volume = 0.0
    for index, value in enumerate(values_in_order):
        if value is not None:
            point = np.asarray(value, dtype=np.float64)
            _refuse_non_finite(point)
            if (point < reference).all() and not (front <= point).all(axis=1).any():
                front = np.vstack([front[~(point <= front).all(axis=1)], point])
                volume = hypervolume(front, reference)
        history[index] = volume
    return history


def _refuse_non_finite(values: Float[np.ndarray, "*shape"]) -> None:
    if not np.isfinite(values).all():
        raise ValueError("A front is made of finite values; failed evaluations have none.")
