"""Parameters that a recipe changes beside weights: biases of centred layers, norms."""

from torch import nn

from optishear.models.norms import norms_of
from optishear.models.weights import biased_layers
from optishear.pruning.biases import centred_biases
from optishear.recipe.layout import ModelLayout
from optishear.recipe.recipe import Recipe


def changed_beside(model: nn.Module, layout: ModelLayout, recipe: Recipe) -> list[str]:
    """Their names. A `ConfigError` where layers are centred, and none of them has a bias."""
    found = centred_biases(layout, recipe, biased_layers(model, layout))
    if recipe.reconstruct is not None and recipe.reconstruct.norms:
        found += [name for block in range(layout.blocks) for name in norms_of(model, block)]
    return list(dict.fromkeys(found))
