"""Biases of centred layers: after its weights are what they will be, a layer's bias makes up for
what they lost of its mean input."""

from collections.abc import Collection

import torch

from optishear.calibration.statistics import stats_of
from optishear.errors import ConfigError
from optishear.models.stored import Dtypes, nearest
from optishear.models.weights import WorkingWeights, bias_name
from optishear.pruning.calibration_data import CalibrationData
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.solvers.centred import compensated_bias


def centred_biases(layout: ModelLayout, recipe: Recipe, biased: Collection[str]) -> list[str]:
    """Names of the parameters that the recipe changes beside weights; `biased`: layers with a bias.

    A `ConfigError` where the recipe centres layers, and none of them has one.
    """
    asked = [layer for layer in layout.layers if recipe.at(layer).quadratic.centred]
    found = [bias_name(layer.name) for layer in asked if layer.name in biased]
    if asked and not found:
        raise ConfigError(
            f"centred says nothing: none of the {len(asked)} layers that it is said of has a bias "
            f"to make up for what is pruned. Leave it out."
        )
    return found


@torch.no_grad()
def compensate(
    layer: Layer,
    working: WorkingWeights,
    data: CalibrationData,
    recipe: Recipe,
    dtypes: Dtypes,
) -> None:
    """Writes the layer's bias, for its working weight as it is now: a number of all the types that
    `dtypes` has for its name. Where the layer is not centred it is the dense one."""
    if not (recipe.at(layer).quadratic.centred and layer.name in data.biased):
        working.restore_bias(layer.name)
        return
    name, stats = bias_name(layer.name), stats_of(data.stats, layer)
    dense, new = working.dense(layer.name), working.view(layer.name)
    was, bias = working.dense_bias(layer.name), working.bias(layer.name)
    made = compensated_bias(was.to(dense.device), dense, new.to(dense.device), stats)
    made = nearest(made.to(bias.dtype), dtypes.get(name, ()))
    if not bool(made.isfinite().all()):
        raise ConfigError(
            f"{name}: what makes up for the pruned weights is too large for the type that it is "
            f"stored in. Give a wider --save-dtype, or leave centred out."
        )
    bias.copy_(made)
