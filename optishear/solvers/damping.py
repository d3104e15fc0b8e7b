"""The damping that a layer does best with on calibration sequences that were held back from it.

Damping keeps the new weights from fitting the few tokens that the Hessian is of: with too little
the layer errs on all other tokens, with too much it hardly makes up for what is pruned. What is
best depends on how many tokens there are for so many inputs, and on the solver. So for every
damping of a grid the layer's solver is given the sequences that were not held back, and its error
is measured on those that were,

    e = E ||W' x' - W (x' + alpha (x - x'))||^2 / E ||W x'||^2,

alpha being the target shift, 0 in the plain method. The damping of the least error then solves the
layer with the statistics of all sequences.

What is solved for that are a few rows. A solver that ends in a refit chooses their mask once, at
the usual damping, and refits it at every other; SparseGPT, whose mask is as greedy as its weights,
is asked anew. With Wanda's mask in the place of their own both choose wrongly
(docs/kept_weights.md).
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from optishear.errors import NumericalError
from optishear.recipe.pattern import Pattern
from optishear.recipe.quadratic import DAMPINGS, USUAL_DAMPING
from optishear.solvers.base import LayerProblem, Solver
from optishear.solvers.quadratic import HeldBackError
from optishear.solvers.refit import Refit
from optishear.solvers.sparsegpt import SparseGPT


ROWS = 128  # of a layer, that speak for it


@dataclass(frozen=True, eq=False)
class HeldBack:
    """What the held-back sequences say of a layer, in sums over their tokens.

    - `dense`: the layer's own weight, or rows of it.
    - `gram`: of x' x'^T, x' being what the layer read.
    - `cross`: of (x - x') x'^T, x of the dense model; None where nothing is shifted.
    - `shift`: alpha.
    """

    dense: Float[Tensor, "rows in"]
    gram: Float[Tensor, "in in"]
    cross: Float[Tensor, "in in"] | None = None
    shift: float = 0.0

    def error(self, weight: Float[Tensor, "rows in"]) -> float:
        """e of this new weight, but for a term that is the same for all. Raises `NumericalError`
        where the dense one puts nothing out."""
        dense = self.dense.float()
        change = weight.float() - dense
        output = _inner(dense @ self.gram, dense)
        if not output > 0:
            raise NumericalError(
                f"Its output on the held-back calibration sequences is {output:g}, so that no "
                f"damping can be chosen by it. Use more of them, or a number for damping."
            )
        wrong = _inner(change @ self.gram, change)
        if self.cross is not None:
            wrong -= 2 * self.shift * _inner(dense @ self.cross, change)
        return wrong / output


def try_dampings(
    solver: Solver,
    pose: Callable[[float], LayerProblem],
    held_back: HeldBack,
    dampings: Iterable[float] = DAMPINGS,
) -> tuple[HeldBackError, ...]:
    """The error of each damping, in their order.

    - `pose`: the problem of a layer, or of `few_rows`, at a damping, without the held-back
      sequences. Where its Hessian could not be factored that counts which it was raised to.
    """
    given, found = None, []
    if _settles(solver):
        given = solver.solve(pose(USUAL_DAMPING)).keep
    for damping in dampings:
        problem = pose(damping)
        if given is not None:
            problem = replace(problem, given=given)
        solved = solver.solve(problem)
        error = held_back.error(solved.weight)
        found.append(HeldBackError(problem.quadratic.damping, error))
    return tuple(found)


def best(tried: Iterable[HeldBackError]) -> float:
    """The damping of the least error, in a tie the lowest."""
    return min(tried, key=lambda found: (found.error, found.damping)).damping


def few_rows(
    name: str, shape: tuple[int, int], drop: int, pattern: Pattern
) -> tuple[Int[Tensor, " rows"], int]:
    """(`ROWS` rows of the layer called `name`, how many of their weights go): drawn at random, the
    same ones for one name. All rows where there are no more, or the pattern does not fit fewer."""
    rows, width = shape
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
    drawn = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))[:ROWS]
    whole, part = pattern.groups(shape), pattern.groups((len(drawn), width))
    if len(drawn) == rows or not part.weights or not part.fits:
        return torch.arange(rows), drop
    step = 1 if pattern.levels is None else part.count
    return drawn.sort().values, drop * part.weights // (whole.weights * step) * step


def _settles(solver: Solver) -> bool:
    """Whether the mask is nearly the same at every damping."""
    if isinstance(solver, Refit):
        return _settles(solver.of)
    return not isinstance(solver, SparseGPT)


def _inner(one: Float[Tensor, "rows in"], other: Float[Tensor, "rows in"]) -> float:
    return (one * other).sum(dtype=torch.float64).item()
