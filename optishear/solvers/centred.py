"""The centred quadratic: what a layer's bias can make up for costs nothing.

    E || V x + c - (W x + b) ||^2  is least in c at  c = b + (W - V) mu,  mu = E x,
    where it is  tr((V - W) C (V - W)^T),  C = E x x^T - mu mu^T.

So solvers minimise the same quadratic with the covariance of the inputs in the place of their
second moments, and the bias takes what the new weights lose of the mean input.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.calibration.statistics import Gram, LayerStats, Mean
from optishear.solvers.hessian import DAMPING, Hessian
from optishear.solvers.quadratic import Quadratic


def centred(stats: LayerStats, damping: float = DAMPING) -> Quadratic:
    """1/2 ||D (X - mu)||_F^2 per token."""
    mean = stats.per_token(Mean).double()
    return Quadratic(Hessian(stats.per_token(Gram).double() - torch.outer(mean, mean), damping))


def compensated_bias(
    bias: Float[Tensor, " out"],
    dense: Float[Tensor, "out in"],
    new: Float[Tensor, "out in"],
    stats: LayerStats,
) -> Float[Tensor, " out"]:
    """b + (W - V) mu, in fp64."""
    mean = stats.per_token(Mean).double()
    return bias.double() + (dense.double() - new.double()) @ mean
