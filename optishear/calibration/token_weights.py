"""Token weights: how much the loss minds what a layer puts out for each calibration token.

    s_tg = mean over the output rows j of group g of (dL / dz_tj)^2

z = W x is what the layer puts out, L the loss of the dense model summed over a sample's targets,
its labels the text itself (the empirical Fisher). A group is a run of neighbouring rows. With them
the Hessian of a group's rows is the sum over tokens of s_tg x_t x_t^T: a change of the output
counts where the loss hears it. GuidedQuant (ICML 2025) has this for quantisation. Ours: the bound
on single tokens, and that the groups of a layer keep their scale to each other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.errors import ConfigError
from optishear.recipe.layout import Layer


CLIP = 30.0  # times a group's mean: no token weighs more

StoreSquares = Callable[[int, str, Float[Tensor, "tokens groups"]], None]
"""Told a sample's number, a layer's name and the mean squares of its tokens."""


def even_runs(total: int, number: int) -> list[slice]:
    """So many runs of neighbours among `total`, of as equal length as can be."""
    ends = [total * run // number for run in range(number + 1)] if number else []
    return [slice(begin, end) for begin, end in pairwise(ends)]


def mean_squares(
    gradient: Float[Tensor, "tokens out"], groups: int
) -> Float[Tensor, "tokens groups"]:
    """Over the rows of each group, in fp32."""
    squares = gradient.float().square()
    runs = even_runs(gradient.shape[1], groups)
    return torch.stack([squares[:, run].mean(1) for run in runs], 1)


@dataclass(frozen=True, eq=False)
class TokenWeights:
    """Of one layer, on the calibration tokens in their order.

    - `squares`: s as it was found, so what is bounded and compared is found again from it.
    """

    name: ClassVar[str] = "token_weights"  # as the `needs` of guided recipes have it
    words: ClassVar[str] = "token weights"

    squares: Float[Tensor, "tokens groups"]

    @property
    def groups(self) -> int:
        return self.squares.shape[1]

    def relative(self, layer: Layer, clip: float = CLIP) -> Float[Tensor, "tokens groups"]:
        """s, no token above `clip` times its group's mean, divided by its mean over the layer's
        rows and the tokens: so a layer's cost is in units of its reconstruction error.

        Raises a `ConfigError` where no gradient reached a group.
        """
        squares = self.squares.double()
        bounded = torch.minimum(squares, clip * squares.mean(0))
        means = bounded.mean(0)
        if not bool((means > 0).all()):
            raise ConfigError(
                f"Layer {layer.name}: the loss does not depend on what some of its rows put out, "
                f"so there is nothing to guide their pruning by. Leave its role plain."
            )
        runs = even_runs(layer.out_features, self.groups)
        rows = torch.tensor([run.stop - run.start for run in runs], dtype=torch.float64)
        return (bounded / ((means * rows).sum() / rows.sum())).float()


@dataclass(frozen=True, eq=False)
class Guide:
    """Which layers are guided, and the weights of the calibration tokens for each of them.

    - `weights`: by layer; one without is plain.
    - `samples`: of the calibration text, all of one number of tokens.
    """

    weights: Mapping[str, Float[Tensor, "tokens groups"]]
    samples: int = 0

    def part(self, first: int, samples: int) -> "Guide":
        """Of so many samples, beginning with this one."""
        found = {}
        for name, weights in self.weights.items():
            each = len(weights) // self.samples
            found[name] = weights[first * each : (first + samples) * each]
        return Guide(found, samples)

    @property
    def groups(self) -> dict[str, int]:
        """How many row groups each guided layer has."""
        return {name: weights.shape[1] for name, weights in self.weights.items()}


UNGUIDED = Guide({})


def guide_of(
    groups: Mapping[Layer, int], found: Mapping[int, Mapping[str, TokenWeights]], samples: int
) -> Guide:
    """Of layers with so many row groups each, from the token weights for every such number.

    Raises a `ConfigError` for a layer that has none.
    """
    weights = {}
    for layer, number in groups.items():
        if (of_layer := found[number].get(layer.name)) is None:
            raise ConfigError(
                f"Layer {layer.name}: does not read every token once, as an expert does not whose "
                f"tokens are routed, so that tokens cannot be weighed for it. Leave its role plain."
            )
        weights[layer.name] = of_layer.relative(layer)
    return Guide(weights, samples)
