"""ALPS: choose by ADMM, where the weights that stay move as others go, then refit what is kept.

Meng et al. 2024 (NeurIPS, https://openreview.net/forum?id=0lBx844upd) split

    min over B, D of  sum_r 1/2 (b_r - w_r) A_r (b_r - w_r)^T   with  B = D,  D sparse enough

in coordinates scaled by d, the root of the Hessian's diagonal: w_r is the target's row times d, and
A_r = H_r / (d d^T). With V the dual of B = D, each iteration is

    b_r <- (w_r A_r - v_r + rho d_r) (A_r + rho I)^-1
    D   <- the largest entries of B + V / rho by magnitude, as many as are kept
    V   <- V + rho (B - D)

Here U = V / rho is carried, and the first line is

    b_r <- w_r + (d_r - u_r - w_r) rho (A_r + rho I)^-1,

the same in exact arithmetic, but nothing is divided by a small rho, and what is rounded is the
change of a weight. Where H_r = H is shared, A = Q diag(l) Q^T gives the inverse for every rho, at
two matrix products an iteration.

Under MOONSHOT A_r = A + s_r^T s_r, with n rows in s_r = S_r / d. With t_r = s_r Q and
g = 1 / (l + rho), Woodbury's identity in the basis of Q reads

    (A_r + rho I)^-1 = Q (diag(g) - diag(g) t_r^T K_r^-1 t_r diag(g)) Q^T,
    K_r = I + t_r diag(g) t_r^T.

t is made once and the factors of K_r once for each rho, so an iteration costs the same two products
and O(n in) more for each row. The row terms of the whole layer are in memory at once, 4 n bytes a
weight: under most patterns the rows compete, so every iteration needs all of them. d is the root of
the shared diagonal alone. That of all H_r in the mean ended 7 % higher at a lambda of 0.5 and 50 %
higher at 0, on small correlated layers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from optishear.calibration.statistics import Gram, InputSq, Need
from optishear.errors import NumericalError
from optishear.recipe.solver_settings import SETTINGS
from optishear.solvers.base import LayerProblem, LayerSolution, Solver, solution
from optishear.solvers.hessian import Hessian
from optishear.solvers.masks import keep_highest
from optishear.solvers.quadratic import Quadratic, along, weighted
from optishear.solvers.refit import TOLERANCE, refit_choice


# All as in the authors' code.
RHO, MOST_RHO = 0.1, 1e6
MOST_ITERATIONS = int(SETTINGS["alps"]["iterations"].usual)
EVERY = 3  # iterations from one look at the support, and perhaps another rho, to the next
RAISES = ((0.1, 1.3), (0.005, 1.2))  # (where more of the kept changed than this, rho is times)
SLOW_RAISE = 1.1  # where fewer changed
LOWERING = 1 / 5  # instead, as long as rho was never raised: it began too high to move anything
LEAST_ITERATIONS, SETTLED = 30, 3e-4  # after the one, a change below the other is the end


@dataclass(frozen=True)
class ALPS(Solver):
    """ADMM for the mask, conjugate gradients for its weights.

    Departures from the authors' code: the refit runs to within 1e-4 of the optimal cost with a
    preconditioner, where theirs makes 10 plain iterations; a row keeps what ADMM left, or its dense
    weights, where those cost less in the layer's dtype; every pattern is allowed, counts are exact
    and the support is a mask, so that a kept weight of exactly zero counts as kept.

    A given mask leaves nothing to choose, so it is only refitted.
    """

    iterations: int = MOST_ITERATIONS
    tolerance: float = TOLERANCE

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({InputSq, Gram})

    def solve(self, problem: LayerProblem) -> LayerSolution:
        weight, keep = problem.weight, problem.given
        if keep is None and problem.drop == 0:
            keep, rounded = (
                torch.ones_like(weight, dtype=torch.bool),
                weight.to(problem.weight.dtype),
            )
            if torch.equal(rounded.to(weight.dtype), weight):
                return LayerSolution(rounded.clone(), keep, 0.0)
            return solution(problem, weight, keep)
        if keep is None and problem.drop == weight.numel():
            keep = torch.zeros_like(weight, dtype=torch.bool)
        if keep is not None:
            return refit_choice(problem, keep, weight, self.tolerance)
        chosen = admm(problem, self.iterations)
        refitted = refit_choice(problem, chosen.keep, chosen.weight, self.tolerance)
        return refitted.with_notes(chosen.notes)


@dataclass(frozen=True)
class Chosen:
    """Where ADMM ended: its mask, the weights it left there, and how it came to stop.

    - `changed`: how much of the mask the last look found changed, as a share of the kept weights;
      a swap counts twice, as it does for the authors.
    - `most`: how many iterations it was allowed.
    """

    keep: Bool[Tensor, "out in"]
    weight: Float[Tensor, "out in"]
    iterations: int
    rho: float
    changed: float
    most: int = MOST_ITERATIONS

    @property
    def notes(self) -> tuple[str, ...]:
        if self.iterations < self.most or self.changed < SETTLED:
            return ()
        return (
            f"ALPS stopped after {self.iterations} iterations, while its mask still changed by "
            f"{self.changed:.1e} of the kept weights",
        )


def admm(problem: LayerProblem, most_iterations: int = MOST_ITERATIONS) -> Chosen:
    """The mask that ADMM settles on, at the authors' schedule of rho."""
    weight, drop = problem.weight.float(), problem.drop
    step = _Step(problem.quadratic, len(weight))
    goal = weight * step.scale

    def largest(x: Float[Tensor, "out in"]) -> Bool[Tensor, "out in"]:
        return keep_highest(x.abs(), drop, problem.pattern)

    before = largest(goal)
    free, first = goal, goal.masked_fill(~before, 0)
    sparse, dual = first, torch.zeros_like(goal)  # D and U; `free` is B
    rho, raised, changed, iteration = RHO, False, 0.0, 0
    solve = step.at(rho)
    for iteration in range(1, most_iterations + 1):
        free = goal + solve(sparse - dual - goal)
        pushed = free + dual
        keep = largest(pushed)
        sparse, dual = pushed.masked_fill(~keep, 0), pushed.masked_fill(keep, 0)
        if iteration % EVERY:
            continue
        changed, before = int((keep != before).sum()) / (weight.numel() - drop), keep
        if (raised and changed == 0) or (iteration > LEAST_ITERATIONS and changed < SETTLED):
            break
        little = SLOW_RAISE if raised else LOWERING
        by = next((by for above, by in RAISES if changed > above), little)
        raised = raised or by > 1
        if by < 1 and changed > 0:
            sparse, dual = first, torch.zeros_like(goal)
        last, rho = rho, min(rho * by, MOST_RHO)
        dual = dual * (last / rho)  # so that V stays what it was
        solve = step.at(rho)
    keep = largest(free)
    weight = free.masked_fill(~keep, 0) / step.scale
    return Chosen(keep, weight, iteration, rho, changed, most_iterations)


class _Step:
    """x_r -> x_r rho (A_r + rho I)^-1 for all rows, with what does not depend on rho made once.

    - `scale`: d of every row where row groups have Hessians of their own, else of all.
    """

    def __init__(self, quadratic: Quadratic, rows: int):
        self.groups = [
            (run, _GroupStep(hessian, quadratic, rows)) for run, hessian in quadratic.groups(rows)
        ]
        self.scale = self.groups[0][1].scale
        if len(self.groups) > 1:
            scales = [step.scale.expand(run.stop - run.start, -1) for run, step in self.groups]
            self.scale = torch.cat(scales)

    def at(self, rho: float) -> Callable[[Float[Tensor, "rows in"]], Float[Tensor, "rows in"]]:
        solves = [(run, step.at(rho)) for run, step in self.groups]
        if len(solves) == 1:
            return solves[0][1]
        return lambda x: torch.cat([solve(x[run]) for run, solve in solves])


class _GroupStep:
    """The same for rows that have one Hessian in common."""

    def __init__(self, hessian: Hessian, quadratic: Quadratic, rows: int):
        self.scale, values, self.vectors = hessian.scaled_eigen
        self.values = values.clamp_min(0)  # rounding may leave the least below zero
        self.term, self.parts = None, []
        if quadratic.row_term is not None:
            shape = (rows, quadratic.row_term.gradients.samples, len(values))
            self.term = values.new_empty(shape)
            for part in quadratic.chunks(rows):
                assert part.term is not None
                self.parts.append(part.rows)
                torch.matmul(part.term / self.scale, self.vectors, out=self.term[part.rows])

    def at(self, rho: float) -> Callable[[Float[Tensor, "rows in"]], Float[Tensor, "rows in"]]:
        gain = 1 / (self.values + rho)
        lower = None if self.term is None else self._factors(self.term, gain, rho)

        def solve(x: Float[Tensor, "rows in"]) -> Float[Tensor, "rows in"]:
            ahead = (x @ self.vectors) * (rho * gain)
            if self.term is not None and lower is not None:
                inner = torch.cholesky_solve(along(ahead, self.term)[:, :, None], lower)[:, :, 0]
                ahead = ahead - weighted(inner, self.term) * gain
            return ahead @ self.vectors.T

        return solve

    def _factors(
        self, term: Float[Tensor, "rows n in"], gain: Float[Tensor, " in"], rho: float
    ) -> Float[Tensor, "rows n n"]:
        """The Cholesky factor of every K_r, in chunks, since each makes a copy of its term."""
        lower = term.new_empty(len(term), term.shape[1], term.shape[1])
        for rows in self.parts:
            inner = torch.bmm(term[rows] * gain, term[rows].mT)
            inner.diagonal(dim1=1, dim2=2).add_(1)
            lower[rows], failed = torch.linalg.cholesky_ex(inner)
            if bool(failed.any()):
                row = rows.start + int(failed.nonzero()[0])
                raise NumericalError(
                    f"Row {row}: its gradients outweigh the damped Hessian by more than fp32 can "
                    f"hold (leading minor {int(failed[failed > 0][0])}, rho {rho:g}). Use a larger "
                    f"lambda or damping."
                )
        return lower
