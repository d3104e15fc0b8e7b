"""A metric written as an expression tree, as symbolic searches find them (Pruner-Zero)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import InputSq, LayerStats, Need
from optishear.metrics.base import Metric
from optishear.metrics.classic import TINY
from optishear.recipe.formula import Node, parse_formula


GRADIENT_SCALE = 100.0  # Pruner-Zero's: it keeps their fp16 gradients from vanishing
LOG_SHIFT = 0.001
MOST_EXPONENT = 100.0


def _div(x: Tensor, y: Tensor) -> Tensor:
    x, y = torch.broadcast_tensors(x, y)
    return x / y.norm().clamp_min(TINY)


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "abs": torch.abs,
    "add": torch.add,
    "div": _div,
    "exp": lambda x: x.clamp(max=MOST_EXPONENT).exp(),
    "log": lambda x: (x.abs() + LOG_SHIFT).log(),
    "mms": lambda x: (x - x.min()) / (x.max() - x.min()).clamp_min(TINY),
    "mul": torch.mul,
    "neg": torch.neg,
    "pow": torch.square,
    "skp": lambda x: x,
    "sqr": torch.square,
    "sqrt": lambda x: x.abs().sqrt(),
    "sub": torch.sub,
    "tanh": torch.tanh,
    "zsn": lambda x: (x - x.mean()) / x.std().clamp_min(TINY),
}


@dataclass(frozen=True)
class Tree(Metric):
    """S_ij = formula(W, G, X)_ij, e.g. mul(sqr(W), mms(G)), which is Pruner-Zero's best tree.

    Dong et al. 2024 (arXiv 2406.02924). Read in the authors' code:

    - W = |weight|, G_ij = sqrt(sum over samples of (100 dL/dW_ij)^2), L a sequence's mean loss.
    - add, sub, mul are elementwise; div(x, y) = x / ||y||_F, not elementwise.
    - sqr = pow = x^2; log = ln(|x| + 0.001); sqrt = sqrt|x|; exp = e^min(x, 100); skp = x.
    - mms = (x - min) / (max - min), zsn = (x - mean) / std, both over the whole operand.

    - X_j = squared norm of input j summed over a sequence's tokens, mean over sequences, as Wanda's
      code keeps it (`scaler_row`, no root).

    Source: github.com/pprp/Pruner-Zero, lib/prune.py at db70134, its head when read in November
    2026, which hands W, G and X to the tree. Their revision 7d64757, before it, handed over W and G
    only, with the line for X commented out.

    Departures: fp64 throughout, where e^100 is finite (theirs is fp32, and its G fp16); a constant
    operand of mms and zsn gives 0, and x / 0 is x / 1e-30 (theirs divide by zero).
    """

    formula: str = "mul(W, sqrt(X))"  # ranks as Wanda does
    paper = "Pruner-Zero, Dong et al. 2024, arXiv 2406.02924"

    def __post_init__(self) -> None:
        parse_formula(self.formula, "metric 'tree': formula")

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        reads: dict[str, Need] = {"X": InputSq, "G": LayerGradients}
        return frozenset(reads[leaf] for leaf in self._root.leaves - {"W"})

    @property
    def _root(self) -> Node:
        return parse_formula(self.formula, "metric 'tree': formula")

    def score(self, weight: Float[Tensor, "out in"], stats: LayerStats) -> Float[Tensor, "out in"]:
        leaves: dict[str, Tensor] = {"W": weight.abs().double()}
        if "X" in self._root.leaves:
            leaves["X"] = torch.atleast_2d(stats.sequence_sq).double()
        if "G" in self._root.leaves:
            gradients = stats[LayerGradients]
            mean = gradients.mean_square(weight.device).double()
            leaves["G"] = GRADIENT_SCALE * (gradients.samples * mean).sqrt()
        return _value(self._root, leaves).expand(weight.shape).contiguous()


def _value(node: Node, leaves: dict[str, Tensor]) -> Tensor:
    if not node.arguments:
        return leaves[node.word]
    return OPERATORS[node.word](*(_value(argument, leaves) for argument in node.arguments))
