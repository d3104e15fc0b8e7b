"""Per-sequence gradients of every prunable weight, on disk in fp16 and read row by row.

A gradient sample is one sequence: G_s = dL_s / dW with L_s the mean loss over its tokens. Their
second moment is the empirical Fisher, of which Taylor terms and MOONSHOT are made.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float16
from torch import Tensor


CHUNK_BYTES = 2**27


@dataclass(frozen=True, eq=False)
class LayerGradients:
    """The gradients of one layer's weight. `stored` may lie in a memory-mapped file.

    - `stored`: [out, samples, in] in fp16, each sample divided by its scale, so that nothing
      underflows.
    - `scale`: what sample s has to be multiplied by.
    """

    stored: Float16[Tensor, "out samples in"]
    scale: Float[Tensor, " samples"]

    @property
    def samples(self) -> int:
        return self.stored.shape[1]

    def rows(self, rows: slice, device: torch.device) -> Float[Tensor, "rows samples in"]:
        """Some rows' gradients in fp32 on `device`."""
        return self.stored[rows].to(device).float() * self.scale.to(device)[:, None]

    def chunks(self) -> list[slice]:
        """Runs of rows that take at most `CHUNK_BYTES` in fp32."""
        out, samples, width = self.stored.shape
        size = max(1, CHUNK_BYTES // (4 * samples * width))
        return [slice(start, min(start + size, out)) for start in range(0, out, size)]

    def taylor(self, change: Float[Tensor, "out in"]) -> float:
        """1/2 sum_r d_r F_r d_r^T with F_r = (1/n) G_r^T G_r: the loss that this change adds,
        to second order and with the rows taken apart."""
        total = 0.0
        for rows in self.chunks():
            g = self.rows(rows, change.device)
            along = torch.bmm(change[rows].float()[:, None, :], g.mT)  # x on the left: faster
            total += along.square().sum(dtype=torch.float64).item()
        return 0.5 * total / self.samples

    def mean_square(self, device: torch.device) -> Float[Tensor, "out in"]:
        """The diagonal of each row's Fisher matrix."""
        parts = [self.rows(rows, device).square().mean(1) for rows in self.chunks()]
        return torch.cat(parts)
