"""What calibration knows of a model, posed as one problem a layer."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import LayerStats, stats_of
from optishear.recipe.layout import Layer
from optishear.recipe.quadratic import damping_of, lambda_of
from optishear.recipe.recipe import Recipe
from optishear.solvers.base import LayerProblem
from optishear.solvers.moonshot import blended, blended_stats, reconstruction
from optishear.solvers.quadratic import Quadratic
from optishear.solvers.ranks import RankCache


@dataclass(frozen=True, eq=False)
class Evidence:
    """Statistics by input site, gradients by layer, and what was already factored of them.

    - `gradients`: only where recipes mix in the Taylor loss.
    - `given`: masks by layer from elsewhere, which take the place of the metric's choice.
    - `ranks`: how weights rank under metrics that came up before; it changes no result.

    Plain quadratics are kept as long as this is: layers of one site and all recipes share them.
    """

    stats: Mapping[str, LayerStats]
    gradients: Mapping[str, LayerGradients] = field(default_factory=dict)
    given: Mapping[str, Bool[Tensor, "out in"]] = field(default_factory=dict)
    ranks: RankCache = field(default_factory=lambda: RankCache(0))
    factored: dict[tuple[str, float], Quadratic] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> "Evidence":
        """With statistics on this device; gradients stay where they are stored."""
        stats = {site: stats.to(device) for site, stats in self.stats.items()}
        return replace(self, stats=stats, factored={})

    def with_masks(self, given: Mapping[str, Bool[Tensor, "out in"]]) -> "Evidence":
        return replace(self, given=given)

    def problem(
        self,
        layer: Layer,
        weight: Float[Tensor, "out in"],
        recipe: Recipe,
        buffer: Float[Tensor, "out in"] | None = None,
    ) -> LayerProblem:
        """What the recipe asks of this layer; `weight` is its dense one, `buffer` see there."""
        stats, lam = stats_of(self.stats, layer), lambda_of(recipe.quadratic, layer.name)
        stats = replace(stats, gradients=self.gradients.get(layer.name))
        damping, given = damping_of(recipe.quadratic), self.given.get(layer.name)
        drop, pattern = recipe.drop[layer.name], recipe.pattern_object
        if lam == 1:
            make_stats, make_quadratic = lambda: stats, lambda: self._plain(layer, damping)
        else:
            gradients = self.gradients[layer.name]
            make_stats = partial(blended_stats, weight, stats, gradients, lam)
            make_quadratic = partial(blended, weight, stats, gradients, lam, damping)
        name = f"{layer.name} {lam!r}"
        return LayerProblem(
            weight, drop, pattern, make_stats, make_quadratic, given, name, self.ranks, buffer
        )

    def _plain(self, layer: Layer, damping: float) -> Quadratic:
        key = (layer.site, damping)
        if key not in self.factored:
            self.factored[key] = reconstruction(stats_of(self.stats, layer), damping)
        return self.factored[key]
