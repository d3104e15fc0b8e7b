"""The shifted target: what a layer should become so that its output is that of the dense model.

Pruned so far, a layer reads x' where the dense model's reads x. Imitating its own weight W it aims
at W x'; the output that counts is W x. With both streams' inputs, per token,

    min over V of  1/2 share ||V x' - W (x' + alpha (x - x'))||^2 + 1/2 (V - W) (rest) (V - W)^T

is for row r the quadratic 1/2 (v - t) H_r (v - t)^T + const around

    t_r = w_r + alpha share w_r C H_r^-1,   C = mean of (x - x') x'^T,

H_r being all that the layer's quadratic sums up: the reconstruction, its damping and, under
MOONSHOT, the Taylor term, both of which stay measured from W; where tokens are weighed in H_r, they
are in C. So every solver runs unchanged with t in the place of w. alpha = 0 is the plain method,
and so is an input that has not moved (C = 0).
GPTAQ (Li et al., ICML 2025) has this correction with alpha = 1 in quantisation, DuoGPT (NeurIPS
2025) in pruning; alpha between them is ours.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.errors import NumericalError
from optishear.solvers.base import LayerProblem
from optishear.solvers.quadratic import Quadratic, QuadraticRows


def shifted(
    problem: LayerProblem, cross: Float[Tensor, "*groups in in"], alpha: float, share: float = 1.0
) -> LayerProblem:
    """The same problem with the shifted target in the place of the weight: a mask keeps of it, a
    metric scores it, a solver starts from it, and costs are of what differs from it. The arguments
    are those of `shifted_target`."""
    quadratic = problem.quadratic
    target = shifted_target(problem.weight, cross, alpha, quadratic, share)
    fits = problem.buffer is not None and problem.buffer.dtype == target.dtype
    return replace(
        problem,
        weight=target,
        make_quadratic=lambda: quadratic,
        buffer=problem.buffer if fits else None,
    )


@torch.no_grad()
def shifted_target(
    weight: Float[Tensor, "out in"],
    cross: Float[Tensor, "*groups in in"],
    alpha: float,
    quadratic: Quadratic,
    share: float = 1.0,
) -> Float[Tensor, "out in"]:
    """The target in fp32, or the weight itself where nothing is shifted.

    - `cross`: C, per token (`stats.per_token(Cross)`); one for each row group of a guided layer.
    - `quadratic`: of this layer, damping included.
    - `share`: of the reconstruction in it: MOONSHOT's lambda.

    Raises `NumericalError` where the shift is not finite.
    """
    if alpha == 0 or not cross.any():
        return weight
    target = torch.empty_like(weight, dtype=torch.float32)
    moved = alpha * share * cross.double()
    for part in quadratic.chunks(len(weight)):
        dense = weight[part.rows].double()
        own = moved[part.group] if moved.ndim == 3 else moved
        target[part.rows] = (dense + _times_inverse(part, dense @ own)).float()
    if not target.isfinite().all():
        raise NumericalError(
            "The shifted target is nan or inf. Use more calibration tokens or a larger damping."
        )
    return target


def _times_inverse(part: QuadraticRows, x: Float[Tensor, "rows in"]) -> Float[Tensor, "rows in"]:
    """x_r H_r^-1 in fp64; row terms S_r by Woodbury's identity."""
    plain = part.shared.times_inverse(x)
    if part.term is None:
        return plain
    term = part.term.double()
    solved = part.shared.times_inverse(term.flatten(0, 1)).view_as(term)  # S H^-1
    inner = torch.bmm(solved, term.mT)
    inner.diagonal(dim1=1, dim2=2).add_(1)
    along = torch.bmm(term, plain[:, :, None])  # S H^-1 x
    return plain - torch.bmm(torch.linalg.solve(inner, along).mT, solved)[:, 0]
