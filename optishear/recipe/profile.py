"""How many weights each layer loses: from a target sparsity per layer to exact counts on a budget.

Every target within the bounds is answered by a legal profile, so a search needs neither repair
operators nor constraints.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from optishear.errors import ConfigError
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.pattern import Pattern


NOISE = 1e-9  # of a step: remainders that are no further apart are equal but for rounding


@dataclass(frozen=True)
class Bounds:
    """What any layer may lose: a fraction in [floor, ceiling], 0 <= floor <= ceiling < 1.

    With `steps` only multiples of 1/steps of the layer itself, so that there are few levels to
    solve, as many for small layers as for large ones. (EvoPress, arXiv 2410.14649, steps by one
    number of weights for all layers, which leaves the small ones hardly any.)
    """

    floor: float = 0.0
    ceiling: float = 0.99
    steps: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= self.ceiling < 1:
            raise ConfigError(
                f"sparsity bounds [{self.floor}, {self.ceiling}]: each must lie in [0, 1), "
                f"the lower one first."
            )
        if self.steps is None:
            return
        if self.steps < 2:
            raise ConfigError(f"sparsity.steps is {self.steps}: a layer has at least 2.")
        low, high = self.of(self.steps)
        if low > high:
            raise ConfigError(
                f"sparsity.steps {self.steps}: no multiple of 1/{self.steps} lies in "
                f"[{self.floor:g}, {self.ceiling:g}]. Use more steps, or widen the bounds."
            )

    def of(self, most: int) -> tuple[int, int]:
        """Least and most steps that a layer of `most` may lose: never all, for ceiling < 1."""
        return math.ceil(self.floor * most - NOISE), math.floor(self.ceiling * most + NOISE)


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
    targets: Mapping[str, float],
    layout: ModelLayout,
    pattern: Pattern,
    bounds: Bounds,
    budget: int | None,
) -> dict[str, int]:
    """The counts nearest to `targets` (a sparsity a layer; shifted by one constant, then clipped).

    - With a `budget` (weights to drop in all) the total is met to the weight; under a pattern with
      levels, such as N:M, or with `bounds.steps` it is met from below, so closely that no layer
      could lose one more step within it.
    - Without one (`None`) the targets are only clipped and rounded.

    Rounding goes to the largest remainders, ties to the first layer.
    """
    check_grid(layout, pattern, bounds)
    raw = np.array([targets[layer.name] for layer in layout.layers], dtype=float)
    if not np.isfinite(raw).all():
        raise ConfigError(f"A target sparsity is not a finite number: {dict(targets)}.")
    step = np.array([step_of(layer, pattern, bounds) for layer in layout.layers])
    most = np.array([layer.size for layer in layout.layers]) // step  # in steps
    within = [_within(x, pattern, bounds, n) for x, n in zip(layout.layers, step.tolist())]
    low, high = np.array(within, dtype=np.int64).T
    if budget is None:
        steps = np.clip(np.rint(np.clip(raw, 0, 1) * most), low, high).astype(np.int64)
    else:
        # Profiles without steps keep the order that they had, so that journals mean the same.
        noise = 0.0 if bounds.steps is None else NOISE
        steps = _on_budget(raw, step, most, low, high, budget, noise)
    return dict(zip(layout.sizes, (steps * step).tolist(), strict=True))


def step_of(layer: Layer, pattern: Pattern, bounds: Bounds) -> int:
    """The layer only drops multiples of this many weights: the pattern's step, or the bounds'."""
    return pattern.step(layer) if bounds.steps is None else layer.size // bounds.steps


def counts_within(layer: Layer, pattern: Pattern, bounds: Bounds) -> range:
    """All the counts that the layer may drop, the least first."""
    step = step_of(layer, pattern, bounds)
    low, high = _within(layer, pattern, bounds, step)
    return range(low * step, (high + 1) * step, step)


def _within(layer: Layer, pattern: Pattern, bounds: Bounds, step: int) -> tuple[int, int]:
    """Least and most steps that the layer may lose: what the bounds and the pattern allow."""
    low, high = bounds.of(layer.size // step)
    high = min(high, pattern.most(layer) // step)
    if low > high:
        raise ConfigError(
            f"{layer.name}: no count of the pattern {pattern.text!r} (multiples of {step} of its "
            f"{layer.size} weights, {pattern.most(layer)} at most) has a sparsity in "
            f"[{bounds.floor:g}, {bounds.ceiling:g}]. Widen the bounds."
        )
    return low, high


def check_grid(layout: ModelLayout, pattern: Pattern, bounds: Bounds) -> None:
    """Raises a `ConfigError` naming a layer that pattern or steps do not divide."""
    for layer in layout.layers:
        pattern.check(layer)
    steps = bounds.steps
    if steps is None:
        return
    if pattern.levels is not None:
        raise ConfigError(
            f"sparsity.steps {steps}: under the pattern {pattern.text!r} every layer has "
            f"{pattern.levels} steps already. Leave steps out."
        )
    for layer in layout.layers:
        if layer.size % steps:
            raise ConfigError(
                f"sparsity.steps {steps}: {layer.name} has {layer.size:,} weights, which cannot be "
                f"divided into {steps} steps. {_other_steps(layout, steps)}"
            )


def _other_steps(layout: ModelLayout, steps: int) -> str:
    """The nearest numbers of steps, below and above, that divide every layer, as advice."""
    common = math.gcd(*layout.sizes.values())
    below = [n for n in range(2, steps) if common % n == 0][-1:]
    above = [n for n in range(steps + 1, 4 * steps) if common % n == 0][:1]
    found = " or ".join(map(str, below + above))
    return f"Choose {found}: all layers have them." if found else "Leave steps out."


def _on_budget(
    raw: np.ndarray,
    step: np.ndarray,
    most: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    budget: int,
    noise: float,
) -> np.ndarray:
    """Steps a layer; remainders whose difference is `noise` at most count as equal."""
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


@dataclass(frozen=True)
class Rule:
    """A published rule for layer sparsities as numbers: target = sparsity x factor + offset."""

    factor: Mapping[str, float]
    offset: Mapping[str, float]

    def targets(self, sparsity: float) -> dict[str, float]:
        return {name: sparsity * f + self.offset[name] for name, f in self.factor.items()}
