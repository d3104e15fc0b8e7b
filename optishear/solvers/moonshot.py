"""MOONSHOT's blend: a layer's reconstruction error against its Taylor loss, as one quadratic.

    Q = λ R / R(0) + (1 - λ) F / F(0)
    R(W') = ||(W' - W) X||_F^2
    F(W') = 1/2 sum_r d_r ((1/n) G_r^T G_r) d_r^T,   d = W' - W,   G_r the n gradients of row r

each divided by its value at W' = 0. Afriat et al. 2026 (arXiv 2604.13287): the two terms, their
normalisation, the empirical Fisher and Woodbury are theirs, as its abstract and a reader's notes
have it. The paper itself could not be read. Ours, without claim to be theirs: which term λ weighs,
the damping, and how each solver uses the result.

In units of the reconstruction per token, R / (2 tokens), row r has the Hessian
λ H + (1 - λ) κ (1/n) G_r^T G_r with κ = [R(0) / (2 tokens)] / F(0), so λ = 1 is the plain method.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import Gram, InputSq, LayerStats
from optishear.errors import NumericalError
from optishear.solvers.hessian import DAMPING, Hessian
from optishear.solvers.quadratic import Quadratic, RowTerm


def reconstruction(stats: LayerStats, damping: float = DAMPING) -> Quadratic:
    """1/2 ||D X||_F^2 per token: the quadratic of SparseGPT, ALPS and OPTIMA (λ = 1)."""
    return Quadratic(Hessian(stats.per_token(Gram), damping))


def blended(
    weight: Float[Tensor, "out in"],
    stats: LayerStats,
    gradients: LayerGradients,
    lam: float,
    damping: float = DAMPING,
) -> Quadratic:
    """The blend for one layer. Damping is relative to the mean diagonal of all rows' Hessians."""
    gram, kappa = stats.per_token(Gram), _kappa(weight, stats, gradients)
    taylor = kappa * gradients.mean_square(weight.device).mean(dtype=torch.float64).item()
    unit = lam * gram.diagonal().mean(dtype=torch.float64).item() + (1 - lam) * taylor
    factor = (1 - lam) * kappa / gradients.samples
    return Quadratic(Hessian(lam * gram, damping, unit), RowTerm(gradients, factor))


def blended_stats(
    weight: Float[Tensor, "out in"], stats: LayerStats, gradients: LayerGradients, lam: float
) -> LayerStats:
    """What a metric reads under the blend: input_sq becomes the diagonal of each row's Hessian
    (undamped, times tokens), so that Wanda scores |W_ij| sqrt(H_r,jj) and λ = 1 is Wanda."""
    kappa = _kappa(weight, stats, gradients)
    taylor = (1 - lam) * kappa * stats.tokens * gradients.mean_square(weight.device)
    return stats.having(InputSq(lam * stats[InputSq].total + taylor))


def _kappa(weight: Float[Tensor, "out in"], stats: LayerStats, gradients: LayerGradients) -> float:
    """Reconstruction per token over Taylor loss, both of the layer set to zero."""
    dense = weight.float()
    error = 0.5 * ((dense @ stats.per_token(Gram)) * dense).sum(dtype=torch.float64).item()
    loss = gradients.taylor(dense)
    if not loss > 0:
        raise NumericalError(
            f"Its Taylor loss is {loss:g} on {gradients.samples} gradient sequences, so it cannot "
            f"be blended in. Use more gradient sequences, or a lambda of 1 for this layer."
        )
    return error / loss
