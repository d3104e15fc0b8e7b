"""Matrix products of the refit, in a precision of choice: the one place.

- `highest`: fp32, whatever torch is set to elsewhere.
- `tf32`: the inputs rounded to 11 significant bits, on a GPU's tensor cores.
- `bf16x3`: each input as the sum of two bfloat16 numbers, 16 bits, and three of the four products
  of those, accumulated in fp32: as one product three times as deep.

The last two are for GPUs, and a CPU has no tf32: it multiplies in fp32. What they round off has to
be made good, see `refit`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import BFloat16, Float
from torch import Tensor

from optishear.recipe.lookup import lookup


PRECISION = {"cpu": "highest", "cuda": "highest"}  # of a refit's steps, on each type of device


def product(
    x: Float[Tensor, "rows in"], matrix: Float[Tensor, "in out"], precision: str = "highest"
) -> Float[Tensor, "rows out"]:
    return lookup(PRODUCTS, precision, kind="precision of products")(x, matrix)


def in_fp32(x: Float[Tensor, "rows in"], matrix: Float[Tensor, "in out"]) -> Tensor:
    if x.device.type != "cuda":
        return x @ matrix
    with _cuda("fp32_precision", "ieee"):
        return x @ matrix


def in_tf32(x: Float[Tensor, "rows in"], matrix: Float[Tensor, "in out"]) -> Tensor:
    with _cuda("fp32_precision", "tf32"):
        return x @ matrix


def in_three_bf16(x: Float[Tensor, "rows in"], matrix: Float[Tensor, "in out"]) -> Tensor:
    high, low = _halves(x)
    matrix_high, matrix_low = _halves(matrix)
    left = torch.cat([high, low, high], dim=1)
    right = torch.cat([matrix_high, matrix_high, matrix_low])
    if x.device.type != "cuda":
        return left.float() @ right.float()
    with _cuda("allow_bf16_reduced_precision_reduction", False):
        return torch.mm(left, right, out_dtype=torch.float32)


PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "highest": in_fp32,
    "tf32": in_tf32,
    "bf16x3": in_three_bf16,
}


@contextmanager
def _cuda(setting: str, value: str | bool) -> Iterator[None]:
    settings = torch.backends.cuda.matmul
    before = getattr(settings, setting)
    setattr(settings, setting, value)
    try:
        yield
    finally:
        setattr(settings, setting, before)


def _halves(
    x: Float[Tensor, "rows columns"],
) -> tuple[BFloat16[Tensor, "rows columns"], BFloat16[Tensor, "rows columns"]]:
    """(high, low) with high + low = x up to its 17th bit."""
    high = x.bfloat16()
    return high, (x - high.float()).bfloat16()
