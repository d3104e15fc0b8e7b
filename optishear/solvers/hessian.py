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
TILE = 192  # columns of one product where a triangle is inverted


def most_bytes(width: int) -> int:
    """Of a Hessian with every factor that it can have: the Cholesky factor in fp64, and in fp32
    the matrix, its inverse, U and the eigenvectors."""
    return (8 + 4 * 4) * width**2


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
        # In one pass and without a temporary: a nan anywhere makes both of them nan.
        if not bool(torch.isfinite(torch.stack(curvature.aminmax())).all()):
            raise NumericalError("The statistics of its input are nan or inf.")
        diagonal = curvature.diagonal().double()
        unit = diagonal.mean().item() if unit is None else unit
        # A layer whose input was zero throughout costs nothing whatever becomes of it; any
        # positive unit then leaves its kept weights where they are.
        unit = unit if unit > 0 else 1.0
        self.notes: tuple[str, ...] = ()
        self._far_end, self.damping = self._factor(curvature, damping, unit)
        self.added = self.damping * unit
        self._diagonal: Float[Tensor, " in"] = diagonal + self.added
        self.matrix: Float[Tensor, "in in"] = _with_diagonal(curvature.float(), self._diagonal)

    def _factor(
        self, curvature: Float[Tensor, "in in"], damping: float, unit: float
    ) -> tuple[Float[Tensor, "in in"], float]:
        """(L, damping) with H = L L^T once the order of the inputs is reversed."""
        # Read from the far end the factor serves all: SparseGPT's U is its inverse alone, where
        # the factor of H itself would have to be multiplied out and factored again.
        wanted, far_end = damping, curvature.double().flip(0, 1)
        diagonal = far_end.diagonal().clone()
        while True:
            far_end.diagonal().copy_(diagonal + damping * unit)
            lower, failed = torch.linalg.cholesky_ex(far_end)
            if not failed.item():
                break
            raised = max(damping * DAMPING_STEP, LEAST_DAMPING)
            if raised > MOST_DAMPING * (1 + 1e-9):
                column = len(far_end) + 1 - failed.item()
                raise NumericalError(
                    f"The Hessian of its inputs is not positive definite (column {column}) "
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
        return torch.cholesky_inverse(self._far_end).float().flip(0, 1)

    def times_inverse(self, x: Float[Tensor, "rows in"]) -> Float[Tensor, "rows in"]:
        """x H^-1 in fp64, by two triangular solves."""
        return torch.cholesky_solve(x.double().flip(1).T, self._far_end).T.flip(1)

    @cached_property
    def inverse_upper(self) -> Float[Tensor, "in in"]:
        """U, upper triangular, with H^-1 = U^T U. Its lower right corners are those of the inverses
        of H without its first columns, which is why SparseGPT needs no other factor."""
        # H^-1 = U^T U is H = V V^T with V = U^-1: the Cholesky factor of H read from the far end.
        return inverse_of_lower(self._far_end).float().flip(0, 1)

    @cached_property
    def scaled_eigen(
        self,
    ) -> tuple[Float[Tensor, " in"], Float[Tensor, " in"], Float[Tensor, "in in"]]:
        """(d, values, vectors) of H / (d d^T) with d the root of H's diagonal, made in fp64."""
        scale = self._diagonal.sqrt()
        matrix = _with_diagonal(self.matrix.double(), self._diagonal)
        values, vectors = torch.linalg.eigh(matrix.div_(scale).div_(scale[:, None]))
        return scale.float(), values.float(), vectors.float()


def inverse_of_lower(lower: Float[Tensor, "in in"]) -> Float[Tensor, "in in"]:
    """The inverse of a lower triangular matrix, by halves, in about half the operations of solving
    for every column of the identity:

        [ A    ]^-1   [ A^-1                ]
        [ B  C ]    = [ -C^-1 B A^-1   C^-1 ]

    Of a product with a triangle, what is known to be zero is left out, tile by tile.
    """
    inverse = torch.zeros_like(lower, memory_format=torch.contiguous_format)
    _fill_inverse(lower, inverse)
    return inverse


def _fill_inverse(lower: Float[Tensor, "in in"], inverse: Float[Tensor, "in in"]) -> None:
    width = len(lower)
    if width <= TILE:
        eye = torch.eye(width, dtype=lower.dtype, device=lower.device)
        inverse.copy_(torch.linalg.solve_triangular(lower, eye, upper=False))
        return
    half = width // 2
    first, second = slice(0, half), slice(half, width)
    _fill_inverse(lower[first, first], inverse[first, first])
    _fill_inverse(lower[second, second], inverse[second, second])
    below, left, right = lower[second, first], inverse[first, first], inverse[second, second]
    between = torch.empty_like(below, memory_format=torch.contiguous_format)
    for start in range(0, half, TILE):
        tile = slice(start, start + TILE)
        torch.mm(below[:, start:], left[start:, tile], out=between[:, tile])
    for start in range(0, width - half, TILE):
        tile = slice(start, start + TILE)
        torch.mm(
            right[tile, : start + TILE], between[: start + TILE], out=inverse[second, first][tile]
        )
    inverse[second, first].neg_()


def _with_diagonal(
    matrix: Float[Tensor, "in in"], diagonal: Float[Tensor, " in"]
) -> Float[Tensor, "in in"]:
    changed = matrix.clone()
    changed.diagonal().copy_(diagonal)
    return changed
