"""The Taylor loss of a pruned model: layers add up, so what a layer costs is computed once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from optishear.calibration.gradients import LayerGradients
from optishear.recipe.layout import Layer
from optishear.recipe.quadratic import damping_of, lambda_of
from optishear.recipe.recipe import Recipe


@dataclass(frozen=True, eq=False)
class TaylorLosses:
    """1/2 d F d^T of single layers with F the block-diagonal empirical Fisher, remembered by all
    that the layer's new weights depend on in one-shot mode."""

    gradients: Mapping[str, LayerGradients]
    known: dict[str, float] = field(default_factory=dict)

    def of(
        self,
        layer: Layer,
        recipe: Recipe,
        weight: Float[Tensor, "out in"],
        dense: Float[Tensor, "out in"],
    ) -> float:
        key = json.dumps(
            [
                layer.name,
                recipe.drop[layer.name],
                recipe.pattern,
                dict(recipe.metric),
                dict(recipe.solver),
                lambda_of(recipe.quadratic, layer.name),
                damping_of(recipe.quadratic),
            ],
            sort_keys=True,
        )
        if key not in self.known:
            change = weight.float() - dense.float()
            self.known[key] = self.gradients[layer.name].taylor(change)
        return self.known[key]
