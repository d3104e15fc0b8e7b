"""Per-sequence gradients of every prunable weight, on disk in fp16 and read row by row.

A gradient sample is one sequence: G_s = dL_s / dW with L_s the mean loss over its tokens. Their
second moment is the empirical Fisher, of which Taylor terms and MOONSHOT are made.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float16
from torch import Tensor


CHUNK_BYTES = 2**27  # on an accelerator: few launches
CHUNK_BYTES_CPU = 2**22  # stays in its caches from conversion to product
TOP = 15  # a sample's largest number is stored below 2**TOP; fp16 ends just below 2**16
SMALLEST = -126  # the exponent of the smallest normal number of fp32, in which scales are kept


@dataclass(frozen=True, eq=False)
class Sample:
    """One layer's gradient of one sequence, as it is stored: `scale` * `numbers`, on the CPU."""

    numbers: Float16[Tensor, "out in"]
    scale: float


StoreSample = Callable[[int, str, Sample], None]
"""Told a sequence's number, a layer's name and its gradient; one of zeros may be left out."""


def packed(gradient: Float[Tensor, "out in"]) -> Sample | None:
    """A gradient with a power of two for scale; None if it is all zeros.

    Dividing by the scale rounds nothing, so bf16 gradients are stored as they are down to 2**-29 of
    the largest, and fp32 ones to 11 bits. Raises `ValueError` where it is not finite.
    """
    g = gradient.float()
    peak = torch.linalg.vector_norm(g, math.inf).item()
    if not math.isfinite(peak):
        raise ValueError("This gradient is not finite.")
    if peak == 0:
        return None
    scale = 2.0 ** max(math.frexp(peak)[1] - TOP, SMALLEST)
    return Sample((g / scale).half().contiguous().cpu(), scale)


@dataclass(frozen=True, eq=False)
class LayerGradients:
    """The gradients of one layer's weight. `stored` may lie in a memory-mapped file.

    - `stored`: [out, samples, in] in fp16, each sample divided by its scale, so that nothing
      underflows.
    - `scale`: what sample s has to be multiplied by.
    """

    name: ClassVar[str] = "gradients"  # as the `needs` of metrics and solvers have it
    words: ClassVar[str] = "gradients"

    stored: Float16[Tensor, "out samples in"]
    scale: Float[Tensor, " samples"]

    @property
    def samples(self) -> int:
        return self.stored.shape[1]

    def rows(self, rows: slice, device: torch.device) -> Float[Tensor, "rows samples in"]:
        """Some rows' gradients in fp32 on `device`."""
        return self.stored[rows].to(device).float() * self.scale.to(device)[:, None]

    def chunks(self, device: torch.device) -> list[slice]:
        """Runs of rows that take at most a chunk's bytes in fp32, a row at least."""
        out, samples, width = self.stored.shape
        most = CHUNK_BYTES_CPU if device.type == "cpu" else CHUNK_BYTES
        size = max(1, most // (4 * samples * width))
        return [slice(start, min(start + size, out)) for start in range(0, out, size)]

    def taylor(self, change: Float[Tensor, "out in"]) -> float:
        """1/2 sum_r d_r F_r d_r^T with F_r = (1/n) G_r^T G_r: the loss that this change adds,
        to second order and with the rows taken apart."""
        device, total = change.device, 0.0
        scale = self.scale.to(device)
        for rows in self.chunks(device):
            stored = self.stored[rows].to(device).float()
            along = torch.bmm(change[rows].float()[:, None, :], stored.mT)  # x on the left: faster
            total += (along[:, 0] * scale).square().sum(dtype=torch.float64).item()
        return 0.5 * total / self.samples

    def mean_square(self, device: torch.device) -> Float[Tensor, "out in"]:
        """The diagonal of each row's Fisher matrix."""
        parts = [self.rows(rows, device).square().mean(1) for rows in self.chunks(device)]
        return torch.cat(parts)
