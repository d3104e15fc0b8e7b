"""A rule reads the dense layers once and says how their sparsities should differ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from optishear.calibration.statistics import LayerStats
from optishear.recipe.layout import Layer
from optishear.recipe.profile import Rule
from optishear.recipe.rule_settings import usual_of


@dataclass(frozen=True)
class LayerView:
    """One dense layer: its place, its weight, what its input looked like."""

    layer: Layer
    weight: Float[Tensor, "out in"]
    stats: LayerStats


RuleFunction = Callable[[Sequence[LayerView], Mapping[str, float]], Rule]


def uniform(
    views: Sequence[LayerView], settings: Mapping[str, float] = usual_of("uniform")
) -> Rule:
    """The same sparsity everywhere."""
    return Rule({v.layer.name: 1.0 for v in views}, {v.layer.name: 0.0 for v in views})


def of_blocks(views: Sequence[LayerView]) -> dict[int, list[LayerView]]:
    blocks: dict[int, list[LayerView]] = {}
    for view in views:
        blocks.setdefault(view.layer.block, []).append(view)
    return blocks


def weighted_mean(views: Sequence[LayerView], per_block: Mapping[int, float]) -> float:
    """Mean over all prunable weights of a value that each block has."""
    values = [per_block[view.layer.block] for view in views]
    return float(np.average(values, weights=[view.layer.size for view in views]))
