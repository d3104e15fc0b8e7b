"""What a change of a layer's weights costs: one quadratic a row, which every solver minimises.

Plain reconstruction has one Hessian for all rows. MOONSHOT adds to it a term of low rank for each
row, from per-sequence gradients; solvers read both through the same few operations.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.calibration.gradients import LayerGradients
from optishear.solvers.hessian import Hessian


ROW_TERM_BYTES = 2**27  # of one chunk's row terms in fp32


@dataclass(frozen=True, eq=False)
class RowTerm:
    """The low-rank part S_r^T S_r of each row's Hessian, with S_r = sqrt(factor) G_r.

    G_r are the n gradients of row r, read chunk by chunk from where they are stored.
    """

    gradients: LayerGradients
    factor: float

    def rows(self, rows: slice, device: torch.device) -> Float[Tensor, "rows samples in"]:
        return self.gradients.rows(rows, device) * self.factor**0.5


@dataclass(frozen=True, eq=False)
class Quadratic:
    """cost(D) = 1/2 sum_r d_r H_r d_r^T with H_r = H + S_r^T S_r; D = new weight - dense weight.

    In units of the reconstruction error per token, 1/2 ||D X||_F^2 / tokens, damping included.
    """

    shared: Hessian
    row_term: RowTerm | None = None

    def chunks(self, rows: int) -> Iterator["Part"]:
        """The rows in runs whose row terms fit in memory, all at once where there are none."""
        size = rows
        if self.row_term is not None:
            a_row = 4 * self.row_term.gradients.samples * len(self.shared.matrix)
            size = max(1, ROW_TERM_BYTES // a_row)
        for start in range(0, rows, size):
            yield self.part(slice(start, min(start + size, rows)))

    def part(self, rows: slice) -> "Part":
        """Some rows, with their row terms in memory."""
        device = self.shared.matrix.device
        term = None if self.row_term is None else self.row_term.rows(rows, device)
        return Part(rows, self.shared, term)

    def cost(self, change: Float[Tensor, "out in"]) -> float:
        """The cost of a change of the whole layer, summed in fp64."""
        return sum(
            part.costs(change[part.rows].float()).sum().item() for part in self.chunks(len(change))
        )


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of a layer and their quadratics, ready to multiply and to (approximately) divide by."""

    rows: slice
    shared: Hessian
    term: Float[Tensor, "rows samples in"] | None

    def times(self, x: Float[Tensor, "rows in"]) -> Float[Tensor, "rows in"]:
        """H_r x_r for every row r."""
        product = x @ self.shared.matrix
        if self.term is None:
            return product
        inner = torch.bmm(self.term, x[:, :, None])
        return product + torch.bmm(inner.mT, self.term)[:, 0]

    def divided(self, x: Float[Tensor, "rows in"]) -> Float[Tensor, "rows in"]:
        """H_r^-1 x_r for every row r; the row term through Woodbury's identity."""
        quotient = x @ self.shared.inverse
        if self.term is None:
            return quotient
        solved, lower = self._woodbury
        inner = torch.bmm(solved, x[:, :, None])
        return quotient - torch.bmm(torch.cholesky_solve(inner, lower).mT, solved)[:, 0]

    @cached_property
    def _woodbury(self) -> tuple[Float[Tensor, "rows samples in"], Float[Tensor, "rows n n"]]:
        """(S_r H^-1, Cholesky factor of I + S_r H^-1 S_r^T)."""
        assert self.term is not None
        solved = self.term @ self.shared.inverse
        inner = torch.bmm(solved, self.term.mT)
        inner.diagonal(dim1=1, dim2=2).add_(1)
        return solved, torch.linalg.cholesky(inner)

    def costs(self, change: Float[Tensor, "rows in"]) -> Float[Tensor, " rows"]:
        """1/2 d_r H_r d_r^T of each row, in fp64."""
        return 0.5 * (self.times(change) * change).sum(1, dtype=torch.float64)
