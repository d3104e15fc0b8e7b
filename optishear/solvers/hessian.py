"""The curvature that all rows of a layer share, damped, with the factors that solvers read."""

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.errors import NumericalError


DAMPING = 0.01  # of the mean diagonal: what SparseGPT, ALPS and MOONSHOT's solvers add
DAMPING_STEP = 10.0  # what it is multiplied by after a failed factorisation
LEAST_DAMPING = 1e-6  # where raising begins if it was zero
MOST_DAMPING = 1.0  # past this the layer counts as unsolvable


class Hessian:
    """H = curvature + damping * unit * I, positive definite, factored in fp64 and kept in fp32.

    - `curvature`: symmetric and positive semi-definite [in, in], per token.
    - `damping`: relative; `unit` is what it is relative to, by default the mean diagonal.

    Where the factorisation fails, damping is raised tenfold until it succeeds and `notes` say so;
    past `MOST_DAMPING` it is a `NumericalError`. There is no other way out: an identity in place of
    H would be another method.

    Each factor is made when first asked for and kept, so layers of one input site and all sparsity
    levels of a layer share it.
    """

    def __init__(
        self,
        curvature: Float[Tensor, "in in"],
        damping: float = DAMPING,
        unit: float | None = None,
    ):
        undamped = curvature.double()
        if not bool(torch.isfinite(undamped).all()):
            raise NumericalError("The statistics of its input are nan or inf.")
        unit = undamped.diagonal().mean().item() if unit is None else unit
        # A layer whose input was zero throughout costs nothing whatever becomes of it; any
        # positive unit then leaves its kept weights where they are.
        unit = unit if unit > 0 else 1.0
        self.notes: tuple[str, ...] = ()
        self._lower, self.damping = self._factor(undamped, damping, unit)
        self.added = self.damping * unit
        self.matrix: Float[Tensor, "in in"] = _plus_diagonal(undamped, self.added).float()

    def _factor(
        self, undamped: Float[Tensor, "in in"], damping: float, unit: float
    ) -> tuple[Float[Tensor, "in in"], float]:
        wanted = damping
        while True:
            lower, failed = torch.linalg.cholesky_ex(_plus_diagonal(undamped, damping * unit))
            if not failed.item():
                break
            raised = max(damping * DAMPING_STEP, LEAST_DAMPING)
            if raised > MOST_DAMPING * (1 + 1e-9):
                raise NumericalError(
                    f"The Hessian of its inputs is not positive definite (column {failed.item()}) "
                    f"with a damping of {damping:g} of its mean diagonal. Use more calibration "
                    f"tokens, or fp32 if the model is in fp16."
                )
            damping = raised
        if damping != wanted:
            self.notes = (
                f"damping raised from {wanted:g} to {damping:g} of the mean diagonal: "
                f"the Cholesky factorisation failed",
            )
        return lower, damping

    @cached_property
    def inverse(self) -> Float[Tensor, "in in"]:
        return torch.cholesky_inverse(self._lower).float()

    @cached_property
    def inverse_upper(self) -> Float[Tensor, "in in"]:
        """U, upper triangular, with H^-1 = U^T U. Its lower right corners are those of the inverses
        of H without its first columns, which is why SparseGPT needs no other factor."""
        # H^-1 = U^T U is H = V V^T with V = U^-1: the Cholesky factor of H read from the far end.
        far_end = self._matrix64().flip(0, 1)
        lower = torch.linalg.cholesky(far_end).flip(0, 1)
        eye = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
        return torch.linalg.solve_triangular(lower, eye, upper=True).float()

    @cached_property
    def scaled_eigen(
        self,
    ) -> tuple[Float[Tensor, " in"], Float[Tensor, " in"], Float[Tensor, "in in"]]:
        """(d, values, vectors) of H / (d d^T) with d the root of H's diagonal, made in fp64."""
        matrix = self._matrix64()
        scale = matrix.diagonal().sqrt()
        values, vectors = torch.linalg.eigh(matrix / scale / scale[:, None])
        return scale.float(), values.float(), vectors.float()

    def _matrix64(self) -> Float[Tensor, "in in"]:
        return self._lower @ self._lower.T


def _plus_diagonal(matrix: Float[Tensor, "in in"], value: float) -> Float[Tensor, "in in"]:
    damped = matrix.clone()
    damped.diagonal().add_(value)
    return damped
