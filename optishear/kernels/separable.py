"""Scores as a weight and a few vectors, and what they are in torch: the kernels' reference."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Separable:
    """S_ij = |W_ij| * scale_j, or (|W_ij| / column_sum_j + |W_ij| / row_sum_i) * scale_j.

    Without a scale S_ij = |W_ij|. Sums come both or not at all, and with a scale. Nothing here is
    negative, and all of it is fp32.
    """

    scale: Float[Tensor, " in"] | None = None
    column_sum: Float[Tensor, " in"] | None = None
    row_sum: Float[Tensor, " out"] | None = None

    def __post_init__(self) -> None:
        sums = self.column_sum is not None, self.row_sum is not None
        if sums[0] != sums[1] or (sums[0] and self.scale is None):
            raise ValueError("Sums over rows and over columns come together, and with a scale.")

    def scores(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """In fp32, bit for bit what a kernel computes on the fly."""
        size = weight.abs().float()
        if self.column_sum is not None and self.row_sum is not None:
            size = (size / self.column_sum).add_(size.div_(self.row_sum[:, None]))
        return size if self.scale is None else size.mul_(self.scale)
