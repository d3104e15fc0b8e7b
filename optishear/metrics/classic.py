"""The metrics of the literature that have no gene in them, and random scores as a floor."""

import zlib
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.calibration.statistics import InputSq, LayerStats
from optishear.errors import ConfigError
from optishear.kernels.separable import Separable
from optishear.metrics.base import Metric


TINY = 1e-30  # sums of absolute values below this count as this: a dead row or column scores 0


@dataclass(frozen=True)
class Random(Metric):
    """S_ij uniform in [0, 1): the floor that every other metric has to beat.

    The numbers follow from `seed` and the layer's own first row, so they do not depend on the
    order in which layers are pruned.
    """

    seed: int = 0
    paper = "a floor, no paper"

    def score(self, weight: Float[Tensor, "out in"], stats: LayerStats) -> Float[Tensor, "out in"]:
        content = weight[0].detach().float().cpu().numpy().tobytes()
        # 32 bits: torch's CPU generator takes no more of its seed.
        generator = torch.Generator().manual_seed(
            zlib.crc32(content, zlib.crc32(b"%d" % self.seed))
        )
        return torch.rand(weight.shape, generator=generator).to(weight.device)


@dataclass(frozen=True)
class Magnitude(Metric):
    """S_ij = |W_ij|. Han et al. 2015 (arXiv 1506.02626)."""

    paper = "Han et al. 2015, arXiv 1506.02626"

    def score(self, weight: Float[Tensor, "out in"], stats: LayerStats) -> Float[Tensor, "out in"]:
        return weight.abs().float()

    def separable(self, weight: Float[Tensor, "out in"], stats: LayerStats) -> Separable | None:
        return Separable()


@dataclass(frozen=True)
class Wanda(Metric):
    """S_ij = |W_ij| * ||x_j||: weight size times how loud its input is.

    Sun et al. 2023, "A Simple and Effective Pruning Approach for LLMs" (arXiv 2306.11695).
    Their norm is a sum over tokens, ours the root mean square: the ranking is the same.
    """

    needs = frozenset({InputSq})
    paper = "Sun et al. 2023, arXiv 2306.11695"

    def score(self, weight: Float[Tensor, "out in"], stats: LayerStats) -> Float[Tensor, "out in"]:
        return weight.abs().float().mul_(stats.input_norm)

    def separable(self, weight: Float[Tensor, "out in"], stats: LayerStats) -> Separable | None:
        norm = stats.input_norm
        return Separable(norm) if norm.ndim == 1 else None


@dataclass(frozen=True)
class Ria(Metric):
    """S_ij = (|W_ij| / sum_i |W_ij| + |W_ij| / sum_j |W_ij|) * ||x_j||^power.

    Relative importance and activations, Zhang et al. 2024 (ICLR); power 0.5 as in their code.
    """

    power: float = 0.5
    needs = frozenset({InputSq})
    paper = "Zhang et al. 2024 (ICLR), Plug-and-Play"

    def score(self, weight: Float[Tensor, "out in"], stats: LayerStats) -> Float[Tensor, "out in"]:
        size = weight.abs().float()
        column, row = _sums(size)
        return (size / column).add_(size.div_(row[:, None])).mul_(stats.input_norm**self.power)

    def separable(self, weight: Float[Tensor, "out in"], stats: LayerStats) -> Separable | None:
        norm = stats.input_norm
        return Separable(norm**self.power, *_sums(weight.abs().float())) if norm.ndim == 1 else None


@dataclass(frozen=True)
class Power(Metric):
    """S_ij = |W_ij|^alpha * (mix * c_j^-gamma + (1 - mix) * r_i^-beta) * ||x_j||^delta

    with r_i and c_j the sums of |W| over row i and column j. The continuous form of the meta
    metric, ours: Magnitude is alpha = 1 and all else 0; Wanda has delta = 1 besides; RIA is
    alpha = beta = gamma = 1, mix = delta = 1/2, up to the factor 1/2.
    """

    alpha: float = 1.0
    beta: float = 0.0
    gamma: float = 0.0
    delta: float = 1.0
    mix: float = 0.0
    needs = frozenset({InputSq})
    paper = "ours; holds magnitude, Wanda and RIA as points"

    def __post_init__(self) -> None:
        if not 0 <= self.mix <= 1:
            raise ConfigError(f"metric 'power': mix is {self.mix:g}, it must lie in [0, 1].")
        if self.alpha <= 0:
            raise ConfigError(f"metric 'power': alpha is {self.alpha:g}, it must be positive.")

    def score(self, weight: Float[Tensor, "out in"], stats: LayerStats) -> Float[Tensor, "out in"]:
        size = weight.abs().float()
        column = size.sum(0).clamp_min(TINY).pow(-self.gamma)
        row = size.sum(1, keepdim=True).clamp_min(TINY).pow(-self.beta)
        norm = stats.input_norm
        if self.delta < 0:
            norm = norm.clamp_min(TINY)
        # In place as far as it goes: memory fresh from the system costs more than the arithmetic.
        factor = self.mix * column + (1 - self.mix) * row
        return size.pow_(self.alpha).mul_(factor).mul_(norm**self.delta)


def _sums(size: Float[Tensor, "out in"]) -> tuple[Float[Tensor, " in"], Float[Tensor, " out"]]:
    """Of absolute values, over columns and over rows."""
    return size.sum(0).clamp_min(TINY), size.sum(1).clamp_min(TINY)
