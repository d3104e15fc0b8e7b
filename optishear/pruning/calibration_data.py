"""What calibration knows of a model, posed as one problem a layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import Cross, LayerStats, stats_of
from optishear.pruning.chosen_damping import tried_dampings
from optishear.pruning.factored import Factored
from optishear.recipe.layout import Layer
from optishear.recipe.recipe import Recipe
from optishear.solvers.base import LayerProblem
from optishear.solvers.centred import centred
from optishear.solvers.damping import best
from optishear.solvers.guided import guided, guided_stats
from optishear.solvers.moonshot import blended, blended_stats, reconstruction
from optishear.solvers.quadratic import HeldBackError, Quadratic
from optishear.solvers.ranks import RankCache
from optishear.solvers.target import shifted


TRIAL_BYTES = 2**29  # of Hessians of one site at all dampings: up to 1,900 inputs


@dataclass(frozen=True, eq=False)
class CalibrationData:
    """Statistics by input site, gradients by layer, and what was already factored of them.

    - `gradients`: only where recipes mix in the Taylor loss.
    - `given`: masks by layer from elsewhere, which take the place of the metric's choice.
    - `ranks`: how weights rank under metrics that came up before; it changes no result.
    - `factored`: plain quadratics, which layers of one site and all recipes share; the last few.
    - `trials`: the same without the held-back sequences, for dampings that are chosen by these.
    - `biased`: the layers with a bias.
    - `around`: the statistics are of a model that is pruned already (`pruning.around`), beside the
      dense one; else of the dense one, or of a model on its way through the block loop.
    """

    stats: Mapping[str, LayerStats]
    gradients: Mapping[str, LayerGradients] = field(default_factory=dict)
    given: Mapping[str, Bool[Tensor, "out in"]] = field(default_factory=dict)
    ranks: RankCache = field(default_factory=lambda: RankCache(0))
    factored: Factored = field(default_factory=Factored)
    trials: Factored = field(default_factory=lambda: Factored(TRIAL_BYTES))
    biased: frozenset[str] = frozenset()
    around: bool = False

    def to(self, device: torch.device | str) -> "CalibrationData":
        """With statistics on this device; gradients stay where they are stored."""
        stats = {site: stats.to(device) for site, stats in self.stats.items()}
        return replace(self, stats=stats, factored=self.factored.anew(), trials=self.trials.anew())

    def only(self, layers: Sequence[Layer]) -> "CalibrationData":
        """What these layers' problems are made of, with nothing factored yet."""
        names, sites = {layer.name for layer in layers}, {layer.site for layer in layers}
        return replace(
            self,
            stats={site: stats for site, stats in self.stats.items() if site in sites},
            gradients={name: found for name, found in self.gradients.items() if name in names},
            given={name: keep for name, keep in self.given.items() if name in names},
            factored=self.factored.anew(),
            trials=self.trials.anew(),
        )

    def with_masks(self, given: Mapping[str, Bool[Tensor, "out in"]]) -> "CalibrationData":
        return replace(self, given=given)

    def problem(
        self,
        layer: Layer,
        weight: Float[Tensor, "out in"],
        recipe: Recipe,
        buffer: Float[Tensor, "out in"] | None = None,
    ) -> LayerProblem:
        """What the recipe asks of this layer; `weight` is its dense one, `buffer` see there.

        Raises `NumericalError` where the target cannot be shifted.
        """
        stats, lam, parts = stats_of(self.stats, layer), recipe.lambda_of(layer), recipe.at(layer)
        if (gradients := self.gradients.get(layer.name)) is not None:
            stats = stats.having(gradients)
        damping, given = parts.quadratic.as_numbers.damping, self.given.get(layer.name)
        drop, pattern = recipe.drop[layer.name], parts.pattern
        groups: tuple[LayerStats, ...] = ()
        number = parts.quadratic.guided
        if isinstance(damping, str):
            tried = partial(tried_dampings, layer, weight, stats, parts, drop, given, self.trials)
            make_stats, make_quadratic = lambda: stats, lambda: self._chosen(layer, tried())
        elif number:
            groups = stats.row_groups(layer, number)
            make_stats = partial(guided_stats, stats, groups, layer.out_features)
            make_quadratic = partial(self._guided, layer, groups, damping)
        elif parts.quadratic.centred and layer.name in self.biased:
            make_stats, make_quadratic = lambda: stats, lambda: self._centred(layer, damping)
        elif lam == 1:
            make_stats, make_quadratic = lambda: stats, lambda: self._plain(layer, damping)
        else:
            gradients = self.gradients[layer.name]
            make_stats = partial(blended_stats, weight, stats, gradients, lam)
            make_quadratic = partial(blended, weight, stats, gradients, lam, damping)
        name = f"{layer.name} {lam!r}" + f" guided {number}" * bool(number)
        problem = LayerProblem(
            weight, drop, pattern, make_stats, make_quadratic, given, name, self.ranks, buffer
        )
        if not (shift := parts.quadratic.target_shift):
            return problem
        moved = [each.per_token(Cross) for each in groups or (stats,)]
        return shifted(problem, torch.stack(moved) if groups else moved[0], shift, lam)

    def _guided(self, layer: Layer, groups: tuple[LayerStats, ...], damping: float) -> Quadratic:
        make = partial(guided, groups, layer.out_features, damping)
        key = (layer.name, damping, len(groups))
        return self.factored.get(key, layer.in_features, make)

    def _chosen(self, layer: Layer, tried: tuple[HeldBackError, ...]) -> Quadratic:
        return replace(self._plain(layer, best(tried)), tried=tried)

    def _centred(self, layer: Layer, damping: float) -> Quadratic:
        make = partial(centred, stats_of(self.stats, layer), damping)
        return self.factored.get((f"{layer.site} centred", damping, 0), layer.in_features, make)

    def _plain(self, layer: Layer, damping: float) -> Quadratic:
        make = partial(reconstruction, stats_of(self.stats, layer), damping)
        return self.factored.get((layer.site, damping, 0), layer.in_features, make)
