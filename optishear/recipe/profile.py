"""How many weights each layer loses: from a wish per layer to exact counts on a budget.

Every wish within the bounds is answered by a legal profile, so a search needs neither repair
operators nor constraints.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from optishear.errors import ConfigError
from optishear.recipe.layout import ModelLayout
from optishear.recipe.pattern import Pattern


@dataclass(frozen=True)
class Bounds:
    """The least and the greatest fraction that any layer may lose, 0 <= floor <= ceiling < 1."""

    floor: float = 0.0
    ceiling: float = 0.99

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= self.ceiling < 1:
            raise ConfigError(
                f"sparsity bounds [{self.floor}, {self.ceiling}]: each must lie in [0, 1), "
                f"the lower one first."
            )


def check_sparsity(sparsity: float, where: str = "sparsity") -> float:
    """The same number, if it is a fraction in [0, 1)."""
    if not 0 <= sparsity < 1:
        hint = f" Did you mean {sparsity / 100:g}?" if 1 < sparsity < 100 else ""
        raise ConfigError(
            f"{where}: {sparsity:g} is not in [0, 1): it is the fraction of weights to drop.{hint}"
        )
    return sparsity


def uniform(layout: ModelLayout, pattern: Pattern, sparsity: float) -> dict[str, int]:
    """The same sparsity in every layer, counted as the field's own code counts (Wanda:
    rows x int(inputs x sparsity)); never more than asked."""
    check_sparsity(sparsity)
    return {layer.name: pattern.uniform(layer, sparsity) for layer in layout.layers}


def project(
    wish: Mapping[str, float],
    layout: ModelLayout,
    pattern: Pattern,
    bounds: Bounds,
    budget: int | None,
) -> dict[str, int]:
    """The counts nearest to `wish` (a sparsity a layer; shifted by one constant, then clipped).

    - With a `budget` (weights to drop in all) the total is met to the weight; under an N:M pattern
      it is met from below, so closely that no layer could lose one more of M within it.
    - Without one (`None`) the wishes are only clipped and rounded.

    Rounding goes to the largest remainders, ties to the first layer.
    """
    for layer in layout.layers:
        pattern.check(layer)
    raw = np.array([wish[layer.name] for layer in layout.layers], dtype=float)
    if not np.isfinite(raw).all():
        raise ConfigError(f"A wished sparsity is not a finite number: {dict(wish)}.")
    step = np.array([pattern.step(layer) for layer in layout.layers])
    most = np.array([layer.size for layer in layout.layers]) // step  # in steps
    low, high = _step_bounds(bounds, most)
    if budget is None:
        steps = np.clip(np.rint(np.clip(raw, 0, 1) * most), low, high).astype(np.int64)
    else:
        steps = _on_budget(raw, step, most, low, high, budget)
    return dict(zip(layout.sizes, (steps * step).tolist(), strict=True))


def _step_bounds(bounds: Bounds, most: np.ndarray) -> tuple[np.ndarray, ...]:
    """Least and most steps a layer may lose. The ceiling is below 1, so it never loses all."""
    low = np.ceil(bounds.floor * most - 1e-9).astype(np.int64)
    high = np.floor(bounds.ceiling * most + 1e-9).astype(np.int64)
    if (low > high).any():
        raise ConfigError(
            f"No N:{most[0]} pattern has a sparsity in [{bounds.floor}, {bounds.ceiling}]. "
            f"Widen the bounds."
        )
    return low, high


def _on_budget(
    raw: np.ndarray,
    step: np.ndarray,
    most: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    budget: int,
) -> np.ndarray:
    total = int((step * most).sum())
    if not (step * low).sum() <= budget <= (step * high).sum():
        raise ConfigError(
            f"A sparsity of {budget / total:.4g} cannot be met: with these bounds and this pattern "
            f"it lies between {(step * low).sum() / total:.4g} and "
            f"{(step * high).sum() / total:.4g}. Widen the bounds or change the target."
        )

    def exact(shift: float) -> np.ndarray:
        return np.clip((raw + shift) * most, low, high)

    below, above = -1.0 - float(raw.max()), 1.0 - float(raw.min())
    for _ in range(80):  # bisection on the shift; the total grows with it
        middle = (below + above) / 2
        if (exact(middle) * step).sum() <= budget:
            below = middle
        else:
            above = middle
    wanted = exact(below)
    steps = np.floor(wanted + 1e-9).astype(np.int64)
    order = np.argsort(steps - wanted, kind="stable")  # largest remainder first
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


@dataclass(frozen=True)
class Rule:
    """A published rule for layer sparsities as plain numbers: wish = sparsity x factor + offset."""

    factor: Mapping[str, float]
    offset: Mapping[str, float]

    def wishes(self, sparsity: float) -> dict[str, float]:
        return {name: sparsity * f + self.offset[name] for name, f in self.factor.items()}
