"""How many weights each layer loses: from a target sparsity per layer to exact counts on a budget.

Every target within the bounds is answered by a legal profile, so a search needs neither repair
operators nor constraints.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optishear.errors import ConfigError
from optishear.recipe.budget import NOISE, Grid, on_budget
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.pattern import Pattern
from optishear.recipe.patterns import Patterns


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


def uniform(layout: ModelLayout, given: Pattern | Patterns, sparsity: float) -> dict[str, int]:
    """The same sparsity in every layer, counted as the field's own code counts (Wanda:
    rows x int(inputs x sparsity)); never more than asked.

    Where roles have a pattern that fixes N, such as 2:4, their layers have that, and all others
    the same one that brings the whole to `sparsity`.
    """
    check_sparsity(sparsity)
    patterns = Patterns.over(given)
    share = {layer.name: patterns.fixed(layer) for layer in layout.layers}
    free = [layer for layer in layout.layers if share[layer.name] is None]
    if len(free) < len(layout.layers):
        sparsity = _of_the_rest(layout, free, share, sparsity)
    return {
        layer.name: patterns.at(layer).uniform(
            layer, sparsity if (own := share[layer.name]) is None else own
        )
        for layer in layout.layers
    }


def _of_the_rest(
    layout: ModelLayout, free: list[Layer], share: Mapping[str, float | None], sparsity: float
) -> float:
    """What the free layers have, so that the whole has `sparsity`."""
    fixed = sum((share[layer.name] or 0.0) * layer.size for layer in layout.layers)
    total, rest = layout.total, sum(layer.size for layer in free)
    least, most = fixed / total, (fixed + rest) / total
    if not least - NOISE <= sparsity <= most:
        raise ConfigError(
            f"A sparsity of {sparsity:.4g} cannot be met: the layers whose pattern fixes N leave "
            f"the whole between {least:.4g} and {most:.4g}. Change the target, or their pattern."
        )
    return max(0.0, (sparsity * total - fixed) / rest) if free else 0.0


def has_levels(layer: Layer, patterns: Patterns, bounds: Bounds) -> bool:
    """Whether the layer can lose a few counts only, by its pattern or the bounds' steps."""
    return bounds.steps is not None or patterns.at(layer).levels is not None


def grid_of(layers: Sequence[Layer], patterns: Patterns, bounds: Bounds) -> Grid:
    """Raises a `ConfigError` naming a layer that has no count within the bounds."""
    reach = [counts_within(layer, patterns, bounds) for layer in layers]
    step = np.array([counts.step for counts in reach], dtype=np.int64)
    low = np.array([counts[0] for counts in reach], dtype=np.int64) // step
    high = np.array([counts[-1] for counts in reach], dtype=np.int64) // step
    free = [not has_levels(layer, patterns, bounds) for layer in layers]
    return Grid(step, low, high, np.array(free))


def project(
    targets: Mapping[str, float],
    layout: ModelLayout,
    given: Pattern | Patterns,
    bounds: Bounds,
    budget: int | None,
) -> dict[str, int]:
    """The counts nearest to `targets` (a sparsity a layer; shifted by one constant, then clipped).

    - With a `budget` (weights to drop in all) the total is met to the weight, as long as some
      layers can lose any number and have room; where all have levels, as under N:M, or
      `bounds.steps`, it is met from below, so closely that no layer could lose one more step within
      it.
    - Without one (`None`) the targets are only clipped and rounded.
    - A layer whose role has a pattern that fixes N has that count; the others meet the rest.

    Rounding goes to the largest remainders, ties to the first layer.
    """
    patterns = Patterns.over(given)
    check_grid(layout, patterns, bounds)
    raw = np.array([targets[layer.name] for layer in layout.layers], dtype=float)
    if not np.isfinite(raw).all():
        raise ConfigError(f"A target sparsity is not a finite number: {dict(targets)}.")
    grid = grid_of(layout.layers, patterns, bounds)
    most = np.array([layer.size for layer in layout.layers]) // grid.step  # in steps
    if budget is None:
        wanted = np.rint(np.clip(raw, 0, 1) * most)
        steps = np.clip(wanted, grid.low, grid.high).astype(np.int64)
    else:
        # Profiles without steps keep the order that they had, so that journals mean the same.
        noise = 0.0 if bounds.steps is None else NOISE
        steps = on_budget(raw, most, grid, budget, noise)
    return dict(zip(layout.sizes, (steps * grid.step).tolist(), strict=True))


def step_of(layer: Layer, given: Pattern | Patterns, bounds: Bounds) -> int:
    """The layer only drops multiples of this many weights: the pattern's step, or the bounds'."""
    pattern = Patterns.over(given).at(layer)
    return pattern.step(layer) if bounds.steps is None else layer.size // bounds.steps


def counts_within(layer: Layer, given: Pattern | Patterns, bounds: Bounds) -> range:
    """All the counts that the layer may drop, the least first; where its pattern fixes N, one."""
    patterns, step = Patterns.over(given), step_of(layer, given, bounds)
    if (fixed := patterns.fixed(layer)) is not None:
        count = patterns.at(layer).uniform(layer, fixed)
        return range(count, count + step, step)
    low, high = _within(layer, patterns.at(layer), bounds, step)
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


def check_grid(layout: ModelLayout, given: Pattern | Patterns, bounds: Bounds) -> None:
    """Raises a `ConfigError` naming a layer that pattern or steps do not divide."""
    patterns = Patterns.over(given)
    for layer in layout.layers:
        patterns.at(layer).check(layer)
    steps = bounds.steps
    if steps is None:
        return
    for layer in layout.layers:
        pattern = patterns.at(layer)
        if pattern.levels is not None:
            raise ConfigError(
                f"sparsity.steps {steps}: under the pattern {pattern.text!r} every layer has "
                f"{pattern.levels} steps already. Leave steps out."
            )
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


@dataclass(frozen=True)
class Rule:
    """A published rule for layer sparsities as numbers: target = sparsity x factor + offset."""

    factor: Mapping[str, float]
    offset: Mapping[str, float]

    def targets(self, sparsity: float) -> dict[str, float]:
        return {name: sparsity * f + self.offset[name] for name, f in self.factor.items()}
