"""OptiShear's meta metric: a transform and a coefficient for the weights, and for the inputs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from optishear.calibration.statistics import InputSq, LayerStats
from optishear.metrics.base import Metric
from optishear.metrics.classic import TINY
from optishear.recipe.lookup import lookup


def _log(a: Tensor) -> Tensor:
    return a.clamp_min(torch.finfo(torch.float32).tiny).log()


# Each transform as (sign, log of the absolute value): exp and softmax never leave the logarithm.
LOG_TRANSFORMS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "no_op": lambda a: (torch.sign(a), _log(a)),
    "sqrt": lambda a: (torch.sign(a), 0.5 * _log(a)),
    "pow": lambda a: (torch.sign(a), 2 * _log(a)),
    "exp": lambda a: (torch.ones_like(a), a),
    "log": lambda a: (torch.sign(_log(a)), _log(_log(a).abs())),
    "sigmoid": lambda a: (torch.ones_like(a), F.logsigmoid(a)),
    "softmax": lambda a: (torch.ones_like(a), F.log_softmax(a, dim=1)),
}
PLAIN_TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "no_op": lambda a: a,
    "sqrt": torch.sqrt,
    "pow": torch.square,
    "log": _log,
    "sigmoid": torch.sigmoid,
}
COEFFICIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "no_coe": torch.ones_like,
    "row_sum": lambda a: 1 / a.sum(1, keepdim=True).clamp_min(TINY),
    "column_sum": lambda a: 1 / a.sum(0, keepdim=True).clamp_min(TINY),
    "relative_sum": lambda a: 1 / (a.sum(1, keepdim=True) + a.sum(0, keepdim=True)).clamp_min(TINY),
    "to_sum_scalar": lambda a: 1 / a.sum().clamp_min(TINY),
    "to_mean_scalar": lambda a: 1 / a.mean().clamp_min(TINY),
    "frobenius_norm": lambda a: 1 / a.norm().clamp_min(TINY),
}


@dataclass(frozen=True)
class Meta(Metric):
    """S_ij = [a(|W|)_ij * F_W(|W|)_ij] * [b(X)_j * F_X(sqrt X)_j], four genes of seven options.

    X_j is the squared norm of input j summed over the tokens of a sequence, mean over sequences:
    the transform F_X acts on sqrt(X), the coefficient b on X. OptiShear, arXiv 2502.10735, as its
    predecessor's code has it. Where exp or softmax takes part, what is returned is a monotone
    function of S (its signed logarithm), since the ranking is all that counts and exp(sqrt X)
    overflows. Two departures: `no_coe` is 1 also where A is 0 (theirs divides 0 by 0), and the
    logarithm of 0 is that of the smallest normal fp32 number (theirs is -inf).
    """

    weight_transform: str = "no_op"
    input_transform: str = "no_op"
    weight_coefficient: str = "no_coe"
    input_coefficient: str = "no_coe"
    needs = frozenset({InputSq})
    paper = "OptiShear, Liu et al. 2025, arXiv 2502.10735"

    def __post_init__(self) -> None:
        for transform in (self.weight_transform, self.input_transform):
            lookup(LOG_TRANSFORMS, transform, kind="transform of the meta metric")
        for coefficient in (self.weight_coefficient, self.input_coefficient):
            lookup(COEFFICIENTS, coefficient, kind="coefficient of the meta metric")

    def score(self, weight: Float[Tensor, "out in"], stats: LayerStats) -> Float[Tensor, "out in"]:
        size, energy = weight.abs().float(), torch.atleast_2d(stats.sequence_sq)
        a = COEFFICIENTS[self.weight_coefficient](size)
        b = COEFFICIENTS[self.input_coefficient](energy)
        if {self.weight_transform, self.input_transform}.isdisjoint({"exp", "softmax"}):
            on_weight = a * PLAIN_TRANSFORMS[self.weight_transform](size)
            on_input = b * PLAIN_TRANSFORMS[self.input_transform](energy.sqrt())
            return on_weight * on_input
        # In fp64: beside a large ||x|| a small |W| would be lost in the sum of the logarithms.
        weight_sign, weight_log = LOG_TRANSFORMS[self.weight_transform](size.double())
        input_sign, input_log = LOG_TRANSFORMS[self.input_transform](energy.sqrt().double())
        log = weight_log + a.double().log() + input_log + b.double().log()
        return _signed_log(weight_sign * input_sign, log)


def _signed_log(
    sign: Float[Tensor, "out in"], log: Float[Tensor, "out in"]
) -> Float[Tensor, "out in"]:
    """A number that orders as sign * exp(log) does: zero stays in the middle."""
    return sign * (log - log.min() + 1)
