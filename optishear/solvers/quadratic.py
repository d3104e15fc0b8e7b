"""The quadratic: what a change of a layer's weights costs, one a row, which solvers minimise.

Plain reconstruction has one Hessian for all rows, a guided quadratic one for each group of rows.
MOONSHOT adds a term of low rank for each row, from per-sequence gradients; solvers read them all
through the same few operations.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from optishear.calibration.gradients import LayerGradients
from optishear.errors import NumericalError
from optishear.solvers.hessian import Hessian
from optishear.solvers.products import product


# Of one chunk's row terms in fp32. On a CPU they then stay in the cache from one iteration to the
# next; a GPU wants long runs.
ROW_TERM_BYTES = {"cpu": 2**22, "cuda": 2**28}


RUNS = 4  # of columns, in which a cost is summed: 5/8 of the operations of the whole product


@dataclass(frozen=True, eq=False)
class RowTerm:
    """The low-rank part S_r^T S_r of each row's Hessian, with S_r = sqrt(factor) G_r.

    G_r are the n gradients of row r, read chunk by chunk from where they are stored.
    """

    gradients: LayerGradients
    factor: float

    def rows(self, rows: slice, device: torch.device) -> Float[Tensor, "rows samples in"]:
        return self.gradients.rows(rows, device) * self.factor**0.5


@dataclass(frozen=True)
class HeldBackError:
    """A damping that was tried, and the share of its held-back output that the layer then had
    wrong."""

    damping: float
    error: float


@dataclass(frozen=True, eq=False)
class Quadratic:
    """cost(D) = 1/2 sum_r d_r H_r d_r^T with H_r = H + S_r^T S_r; D = new weight - target.

    In units of the reconstruction error per token, 1/2 ||D X||_F^2 / tokens, damping included.

    - `shared`: H of all rows, or of those up to the first that `beyond` names.
    - `beyond`: (first row, H) of the other groups of rows, in their order.
    - `tried`: by what its damping was chosen, if it was.
    """

    shared: Hessian
    row_term: RowTerm | None = None
    beyond: tuple[tuple[int, Hessian], ...] = ()
    tried: tuple[HeldBackError, ...] = ()

    def groups(self, rows: int) -> list[tuple[slice, Hessian]]:
        """The runs of rows that have one H in common."""
        firsts = [0, *(first for first, _ in self.beyond), rows]
        runs = [slice(begin, end) for begin, end in pairwise(firsts)]
        return list(zip(runs, self.hessians, strict=True))

    @property
    def hessians(self) -> tuple[Hessian, ...]:
        return self.shared, *(hessian for _, hessian in self.beyond)

    @property
    def damping(self) -> float:
        """The largest relative damping that was used."""
        return max(hessian.damping for hessian in self.hessians)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(note for hessian in self.hessians for note in hessian.notes))

    def chunks(self, rows: int, most: int | None = None) -> Iterator["QuadraticRows"]:
        """The rows in runs of one H, of at most so many. None: as many as have room in memory for
        their row terms, all of an H at once where there are none."""
        size = max(1, rows) if most is None else most
        if most is None and self.row_term is not None:
            a_row = 4 * self.row_term.gradients.samples * len(self.shared.matrix)
            size = max(1, ROW_TERM_BYTES[self.shared.matrix.device.type] // a_row)
        for run, _ in self.groups(rows):
            for start in range(run.start, run.stop, size):
                yield self.part(slice(start, min(start + size, run.stop)))

    def part(self, rows: slice) -> "QuadraticRows":
        """Some rows that have one H, with their row terms in memory."""
        group = sum(first <= rows.start for first, _ in self.beyond)
        hessian = self.hessians[group]
        device = hessian.matrix.device
        term = None if self.row_term is None else self.row_term.rows(rows, device)
        return QuadraticRows(rows, hessian, term, group)

    def cost(self, change: Float[Tensor, "out in"]) -> float:
        """The cost of a change of the whole layer, summed in fp64."""
        return sum(
            part.costs(change[part.rows].float()).sum().item() for part in self.chunks(len(change))
        )


@dataclass(frozen=True, eq=False)
class QuadraticRows:
    """Rows of a layer and their quadratics, with their row terms in memory.

    - `group`: of rows, which they are of.
    """

    rows: slice
    shared: Hessian
    term: Float[Tensor, "rows samples in"] | None
    group: int = 0

    def times(
        self,
        x: Float[Tensor, "rows in"],
        inner: Float[Tensor, "rows samples"] | None = None,
        precision: str = "highest",
    ) -> Float[Tensor, "rows in"]:
        """H_r x_r for every row r; `inner` is S_r x_r where that is known already."""
        times = product(x, self.shared.matrix, precision)
        if self.term is None:
            return times
        inner = along(x, self.term) if inner is None else inner
        return times + weighted(inner, self.term)

    def inverse_on(self, keep: Bool[Tensor, "rows in"], masked: bool = True) -> "InverseOn":
        """An upper bound of each row's inverse on the weights it keeps."""
        return InverseOn(self, keep, masked)

    def costs(self, change: Float[Tensor, "rows in"]) -> Float[Tensor, " rows"]:
        """1/2 d_r H_r d_r^T of each row, summed in fp64."""
        # With H = L + diagonal + L^T it is d_r (L + diagonal / 2) d_r^T: of the product's columns,
        # each run needs only what lies on the diagonal and below.
        matrix, width = self.shared.matrix, change.shape[1]
        total = change.new_zeros(len(change), dtype=torch.float64)
        step = -(-width // RUNS) or 1
        for start in range(0, width, step):
            run, below = slice(start, start + step), slice(start + step, None)
            inside = change[:, run]
            times = product(inside, matrix[run, run]).mul_(0.5)
            times += product(change[:, below], matrix[below, run])
            total += (times * inside).sum(1, dtype=torch.float64)
        if self.term is not None:
            total += 0.5 * along(change, self.term).square().sum(1, dtype=torch.float64)
        return total


class InverseOn:
    """x_r -> M_r x_r on each row's kept weights T, with M_r >= (H_r,TT)^-1: a preconditioner whose
    residual norms bound how far a cost is above its optimum.

    Without row terms M = (H^-1)_TT, which is never below (H_TT)^-1. With them, from M^-1 <= H_TT,
    (M^-1 + S_T^T S_T)^-1 = M - M S_T^T (I + S_T M S_T^T)^-1 S_T M, S_T the kept columns of S_r.
    (Woodbury for the whole row and the mask afterwards would bound as well, but takes 22 steps
    where this takes 8: what a row term makes stiff, the mask then makes loose again.)

    Without `masked` it may leave the last mask, on what it returns, to the caller.
    """

    def __init__(self, part: QuadraticRows, keep: Bool[Tensor, "rows in"], masked: bool = True):
        self.kept, self.inverse = keep.float(), part.shared.inverse
        self.masked, self.solved = masked, None
        if part.term is not None:
            inside = part.term * self.kept[:, None, :]
            self.solved = (inside @ self.inverse).mul_(self.kept[:, None, :])
            inner = torch.bmm(self.solved, inside.mT)
            inner.diagonal(dim1=1, dim2=2).add_(1)
            self.lower, failed = torch.linalg.cholesky_ex(inner)
            if bool(failed.any()):
                raise NumericalError(
                    f"The gradients of {int((failed > 0).sum())} rows outweigh the damped Hessian "
                    f"by more than fp32 can hold. Use a larger lambda or damping."
                )

    def __call__(
        self, x: Float[Tensor, "rows in"], precision: str = "highest"
    ) -> tuple[Float[Tensor, "rows in"], Float[Tensor, "rows samples"] | None]:
        """(M x, S M x); `x` is zero off T, and so is M x.

        The second costs nothing: with P = S_T M_0, M_0 = (H^-1)_TT and K = I + P S_T^T,
        S_T (M_0 x - P^T K^-1 P x) = P x - (K - I) K^-1 P x = K^-1 P x.
        """
        times = product(x, self.inverse, precision)
        if self.solved is None:
            return times * self.kept if self.masked else times, None
        inner = torch.cholesky_solve(along(x, self.solved)[:, :, None], self.lower)[:, :, 0]
        return times * self.kept - weighted(inner, self.solved), inner


def along(
    x: Float[Tensor, "rows in"], vectors: Float[Tensor, "rows n in"]
) -> Float[Tensor, "rows n"]:
    """Products with each row's vectors. (x on the left: on a CPU ten times as fast as on the
    right, 0.9 against 8.9 ms for 576 rows of 16 x 576.)"""
    return torch.bmm(x[:, None, :], vectors.mT)[:, 0]


def weighted(
    weights: Float[Tensor, "rows n"], vectors: Float[Tensor, "rows n in"]
) -> Float[Tensor, "rows in"]:
    return torch.bmm(weights[:, None, :], vectors)[:, 0]
