"""The best weights for a given mask: OPTIMA's problem, solved to its optimum for all rows at once.

Mozaffari et al. 2025 (arXiv 2512.13886) pose it as one quadratic programme a row,

    min over d_r of 1/2 d_r H_r d_r^T   with  (w_r + d_r) zero where the mask prunes,

and solve it by a first-order method. Since the constraints only fix coordinates it is a masked
system of linear equations, solved here by conjugate gradients. The preconditioner is the dense
inverse, masked: M = (H^-1)_TT for the kept set T (`quadratic.InverseOn`). It is never below the
inverse that is sought, M >= (H_TT)^-1, which makes the stopping rule a proof: 1/2 r M r^T of a
residual r bounds from above how far the cost still is from the optimum, whatever the scale. Since
then no eigenvalue of the preconditioned system is below 1, the steps themselves sharpen that bound
at no cost (Gauss-Radau quadrature; Meurant & Tichy 2013, Numer. Algorithms 62, with mu = 1).

On a GPU the products of a step may be less precise than fp32 (`products.PRECISION`). The residual,
which is carried from step to step, then drifts away from that of the weights. So every so often,
and whenever a bound claims that the end is reached, residual, cost and M times the residual are
made anew in fp32, and only a bound that such a residual gave ends the descent: the plain one, since
the sharpened one needs exact steps. Where the cost then has not fallen, H is worse conditioned than
that precision can hold, and the descent begins again in fp32.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from optishear.calibration.statistics import Gram, InputSq, Need
from optishear.kernels.use import usable
from optishear.recipe.solver_settings import SETTINGS
from optishear.solvers.base import LayerProblem, LayerSolution, Solver, solution
from optishear.solvers.products import PRECISION
from optishear.solvers.quadratic import Quadratic, QuadraticRows


# Of the cost: how far above the optimum a refit may stop.
TOLERANCE = float(SETTINGS["refit"]["tolerance"].usual)
MOST_ITERATIONS = 200
REPLACE = 10  # steps of less than fp32 from one residual made anew to the next
LEAST_EIGENVALUE = 0.999  # of the preconditioned system: 1, less what fp32 may round off
EXACT_BYTES = 2**28  # of one run of rows' systems in fp64
EXACT_WIDTH = 32  # up to here a Cholesky factor a row is the faster way (0.2 against 0.3 ms; 64
# inputs: 1.3 against 0.6 ms, and ever slower after that; 128 rows, one core)


@dataclass(frozen=True)
class Refit(Solver):
    """The mask of another solver, and for it the weights of least cost to the layer's target.

    A row keeps the other solver's weights, the dense ones or the target's, where those cost less
    after rounding to the layer's dtype, so the cost never rises.
    """

    of: Solver
    tolerance: float = TOLERANCE

    @property
    def needs(self) -> frozenset[Need]:
        return self.of.needs | {InputSq, Gram}

    def solve(self, problem: LayerProblem) -> LayerSolution:
        chosen = self.of.solve(problem)
        refitted = refit_choice(problem, chosen.keep, chosen.weight, self.tolerance)
        return refitted.with_notes(chosen.notes)


def refit_choice(
    problem: LayerProblem,
    keep: Bool[Tensor, "out in"],
    start: Float[Tensor, "out in"],
    tolerance: float = TOLERANCE,
) -> LayerSolution:
    """The answer for a mask, refitted from `start`; a row keeps `start`, or its weights as they
    were, where these cost less after rounding."""
    refitted = refit(problem.quadratic, problem.weight, keep, start, tolerance)
    others = [start, problem.weight]
    masked = [other.masked_fill(~keep, 0) for other in others]
    weight = cheapest(problem, [refitted.weight, *masked])
    return solution(problem, weight, keep).with_notes(refitted.notes)


@dataclass(frozen=True)
class Refitted:
    """`excess`: a bound on (cost - optimum) / optimum, from the last residual."""

    weight: Float[Tensor, "out in"]
    excess: float
    iterations: int
    tolerance: float = TOLERANCE

    @property
    def notes(self) -> tuple[str, ...]:
        if self.excess <= self.tolerance:
            return ()
        return (
            f"the refit stopped after {self.iterations} iterations up to {self.excess:.1e} above "
            f"the optimum",
        )


def refit(
    quadratic: Quadratic,
    target: Float[Tensor, "out in"],
    keep: Bool[Tensor, "out in"],
    start: Float[Tensor, "out in"] | None = None,
    tolerance: float = TOLERANCE,
    most_iterations: int = MOST_ITERATIONS,
    precision: str | None = None,
) -> Refitted:
    """Conjugate gradients on every row at once, from `start` (None: the target, masked).

    Stops once the cost is provably within `tolerance` (relative) of the optimum, in fp32. Its
    products are made in `precision`, or as `PRECISION` says of the device. Layers of at most
    `EXACT_WIDTH` inputs are solved exactly.
    """
    if target.shape[1] <= EXACT_WIDTH:
        return Refitted(exact_refit(quadratic, target, keep), 0.0, 0)
    start = target if start is None else start
    weight = torch.empty_like(target, dtype=torch.float32)
    precision = precision or PRECISION.get(target.device.type, "highest")
    bounds, costs, iterations = 0.0, 0.0, 0
    for part in quadratic.chunks(len(target)):
        rows = part.rows
        goal, kept = target[rows].float(), keep[rows]
        for used in dict.fromkeys((precision, "highest")):
            first = start[rows].float().masked_fill(~kept, 0)
            weight[rows], bound, cost, steps = _descend(
                part, goal, kept, first, tolerance, most_iterations, used
            )
            iterations = max(iterations, steps)
            if bound <= tolerance * (cost - bound):
                break
        bounds, costs = bounds + bound, costs + cost
    optimum = max(costs - bounds, 0.0)
    excess = 0.0 if bounds == 0 else bounds / optimum if optimum else float("inf")
    return Refitted(weight, excess, iterations, tolerance)


def _descend(
    part: QuadraticRows,
    target: Float[Tensor, "rows in"],
    keep: Bool[Tensor, "rows in"],
    weight: Float[Tensor, "rows in"],
    tolerance: float,
    most_iterations: int,
    precision: str,
) -> tuple[Float[Tensor, "rows in"], float, float, int]:
    """(weight, bound on cost above the optimum, cost, iterations) of some rows. May write into
    `weight`. With less than fp32 it gives up where the cost no longer falls."""
    kernels, rough = usable(weight), precision != "highest"
    move, turn_to = _steps(kernels)
    kept = keep.contiguous() if kernels else keep.float()
    weight = weight.contiguous() if kernels else weight
    inverse = part.inverse_on(keep, masked=not kernels)
    residual, cost = _residual(part, weight - target, kept)
    ahead, inner = inverse(residual)
    slope = (residual * ahead).sum(1)
    direction = ahead * kept if kernels else ahead
    sharpness = torch.full_like(slope, 1 / LEAST_EIGENVALUE)
    exact, least = True, float("inf")
    for iteration in range(most_iterations):
        bound = 0.5 * (sharpness * slope).sum(dtype=torch.float64).item()
        now = cost.sum().item()
        reached = bound <= tolerance * (now - bound)
        if exact and (reached or (rough and not now < least)):
            return weight, bound, now, iteration
        least = now if exact else least
        product = part.times(direction, None if rough else inner, precision)
        weight, residual, step = move(weight, residual, direction, product, kept, slope)
        cost -= 0.5 * (step * slope)
        due = reached or (iteration + 1) % REPLACE == 0 or iteration + 1 == most_iterations
        exact = due or not rough
        if exact and rough:
            residual, cost = _residual(part, weight - target, kept)
        ahead, inner_ahead = inverse(residual, "highest" if exact else precision)
        direction, slope, turn = turn_to(residual, ahead, direction, kept, slope)
        if rough:
            continue  # what follows holds for exact steps only
        if inner is not None and inner_ahead is not None:
            inner = inner_ahead + turn[:, None] * inner  # S times the direction, likewise
        sharpness = _sharpened(sharpness, step, turn)
    bound = 0.5 * (sharpness * slope).sum(dtype=torch.float64).item()
    return weight, bound, cost.sum().item(), most_iterations


def _residual(
    part: QuadraticRows, change: Float[Tensor, "rows in"], kept: Shaped[Tensor, "rows in"]
) -> tuple[Float[Tensor, "rows in"], Float[Tensor, " rows"]]:
    """(residual, cost) of each row where its weights have changed so, in fp32 and fp64."""
    product = part.times(change)
    return -product * kept, 0.5 * (product * change).sum(1, dtype=torch.float64)


Step = Callable[..., tuple[Tensor, Tensor, Tensor]]


def _steps(kernels: bool) -> tuple[Step, Step]:
    """What follows each of a step's two products: one kernel each on a GPU, else in torch."""
    if not kernels:
        return move_rows, turn_rows
    from optishear.kernels import refit_step  # triton comes with torch's builds for GPUs

    return refit_step.move_rows, refit_step.turn_rows


def move_rows(
    weight: Float[Tensor, "rows in"],
    residual: Float[Tensor, "rows in"],
    direction: Float[Tensor, "rows in"],
    product: Float[Tensor, "rows in"],
    kept: Float[Tensor, "rows in"],
    slope: Float[Tensor, " rows"],
) -> tuple[Float[Tensor, "rows in"], Float[Tensor, "rows in"], Float[Tensor, " rows"]]:
    """(weight, residual, step): each row goes along its direction to where that costs least."""
    product = product * kept
    curved = (direction * product).sum(1)
    step = torch.where(curved > 0, slope / curved, 0.0)
    return weight + step[:, None] * direction, residual - step[:, None] * product, step


def turn_rows(
    residual: Float[Tensor, "rows in"],
    ahead: Float[Tensor, "rows in"],
    direction: Float[Tensor, "rows in"],
    kept: Float[Tensor, "rows in"],
    before: Float[Tensor, " rows"],
) -> tuple[Float[Tensor, "rows in"], Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """(direction, slope, turn): each row's next direction, from M times its residual, `ahead`.
    Here that is masked already; a kernel masks it by `kept`."""
    slope = (residual * ahead).sum(1)
    turn = torch.where(before > 0, slope / before, 0.0)
    return ahead + turn[:, None] * direction, slope, turn


def _sharpened(
    sharpness: Float[Tensor, " rows"], step: Float[Tensor, " rows"], turn: Float[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """The factor of the Gauss-Radau bound after one more step; the plain one where rounding took
    the sense out of it."""
    gap = sharpness - step
    sharper = gap / (LEAST_EIGENVALUE * gap + turn)
    return torch.where((gap > 0) & (turn > 0), sharper, 1 / LEAST_EIGENVALUE)


def cheapest(
    problem: LayerProblem, candidates: list[Float[Tensor, "out in"]]
) -> Float[Tensor, "out in"]:
    """Row by row, the candidate of least cost after rounding to the layer's dtype."""
    dtype = problem.weight.dtype
    best = candidates[0].to(dtype)
    for part in problem.quadratic.chunks(len(best)):
        rows = part.rows
        target = problem.weight[rows].float()
        least = part.costs(best[rows].float() - target)
        for other in candidates[1:]:
            cost = part.costs(other[rows].to(dtype).float() - target)
            better = cost < least
            least = torch.where(better, cost, least)
            best[rows] = torch.where(better[:, None], other[rows].to(dtype), best[rows])
    return best


def exact_refit(
    quadratic: Quadratic, target: Float[Tensor, "out in"], keep: Bool[Tensor, "out in"]
) -> Float[Tensor, "out in"]:
    """The optimum by a Cholesky factorisation of every row's own system, in fp64: the reference."""
    weight = torch.zeros_like(target, dtype=torch.float64)
    most = int(keep.sum(1).max())
    size = max(1, EXACT_BYTES // (8 * max(most, 1) ** 2))
    for part in quadratic.chunks(len(target), size):
        rows, shared = part.rows, part.shared.matrix.double()
        kept, padding = _kept_columns(keep[rows], most)
        system = shared[kept[:, :, None], kept[:, None, :]]
        goal = target[rows].double()
        aim = goal @ shared
        if part.term is not None:
            term = part.term.double()
            inner = torch.gather(term, 2, kept[:, None, :].expand(-1, term.shape[1], -1))
            system += inner.mT @ inner
            aim += (torch.bmm(term, goal[:, :, None]).mT @ term)[:, 0]
        # Where a row keeps fewer columns than the fullest one: 1 on the diagonal, 0 to solve for.
        system.masked_fill_(padding[:, :, None] | padding[:, None, :], 0)
        system.diagonal(dim1=1, dim2=2).add_(padding.double())
        right = aim.gather(1, kept).masked_fill(padding, 0)
        solved = torch.cholesky_solve(right[:, :, None], torch.linalg.cholesky(system))[:, :, 0]
        weight[rows] = weight[rows].scatter(1, kept, solved.masked_fill(padding, 0))
    return weight.masked_fill(~keep, 0).float()


def _kept_columns(
    keep: Bool[Tensor, "rows in"], most: int
) -> tuple[Int[Tensor, "rows most"], Bool[Tensor, "rows most"]]:
    """Indices of each row's kept columns, and which of them only fill the row up."""
    order = keep.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return order, ~keep.gather(1, order)
