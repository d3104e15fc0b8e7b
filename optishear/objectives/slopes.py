"""Slopes of an objective: how fast it changes with each layer's sparsity, by one backward pass."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.errors import NumericalError
from optishear.objectives.base import Objective, Reference, Summed
from optishear.objectives.likelihood import Perplexity
from optishear.pruning.slopes import Directions


@dataclass(frozen=True)
class SlopePart:
    """What one batch says. Sums, so that batches may be looked at anywhere and be added up.

    - `total`, `counted`: what the objective sums up, and of how many rows.
    - `slopes`: d total / d sparsity by layer.
    """

    total: float
    counted: int
    slopes: Mapping[str, float]


def can_be_split(objective: Objective) -> bool:
    """Whether it is smooth in what the model makes, and 0 of the dense model, so that layers have
    slopes of it and shares in it. A perplexity is not 0."""
    return isinstance(objective, Summed) and not isinstance(objective, Perplexity)


def slope_part(
    objective: Summed,
    forward: Callable[[], Float[Tensor, "*rows hidden"]],
    references: Sequence[Reference],
    directions: Directions,
) -> SlopePart:
    """Of one batch, run by `forward` with the recipe's weights; `references` are its dense sides.

    The logits of one reference exist at a time; memory beside these is what `forward` keeps of the
    batch for the backward pass.
    """
    with torch.enable_grad(), directions.recorded() as found:
        hidden = forward().flatten(0, -2)
        total, counted, upstream = summed_upstream(objective, hidden, references)
        parameters = directions.parameters
        if parameters:
            torch.autograd.backward(hidden, upstream, inputs=parameters)
    return SlopePart(total, counted, {name: slope.item() for name, slope in found.items()})


@torch.enable_grad()
def summed_upstream(
    objective: Summed, hidden: Float[Tensor, "rows hidden"], references: Sequence[Reference]
) -> tuple[float, int, Float[Tensor, "rows hidden"]]:
    """The objective's sum over these rows, how many of them count, and d sum / d hidden; the logits
    of one reference exist at a time, and nothing is kept of them."""
    total, counted, upstream = 0.0, 0, []
    pieces = hidden.detach().split([len(reference.targets) for reference in references])
    for piece, reference in zip(pieces, references, strict=True):
        leaf = piece.clone().requires_grad_()
        added, rows = objective.summand(leaf, reference)
        upstream.append(torch.autograd.grad(added, leaf)[0])
        total, counted = total + added.item(), counted + rows
    return total, counted, torch.cat(upstream)


def slopes_of(
    objective: Summed, parts: Sequence[SlopePart], layers: Sequence[str]
) -> tuple[float, dict[str, float]]:
    """The objective's value, and d value / d sparsity of each of these layers, 0 where it cannot
    move; the same whoever looked at which part. Raises `NumericalError` where one is not finite."""
    total = math.fsum(part.total for part in parts)
    counted = sum(part.counted for part in parts)
    factor = objective.derivative(total, counted)
    found = {
        name: factor * math.fsum(part.slopes.get(name, 0.0) for part in parts) for name in layers
    }
    if bad := [name for name, slope in found.items() if not math.isfinite(slope)]:
        raise NumericalError(f"{bad[0]}: its slope is {found[bad[0]]}, which says nothing.")
    return objective.valued(total, counted), found
