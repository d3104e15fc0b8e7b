"""Keys of single layers in a recipe: layers that it says the same of have the same key."""

import json

from optishear.recipe.quadratic import damping_of, lambda_of
from optishear.recipe.recipe import Recipe


def layer_keys(recipe: Recipe) -> dict[str, str]:
    """By layer, in words, all that its new weights depend on when it is solved on its own.

    That is the layer's name, count and λ, beside what the recipe says of all layers. The dense
    weight and the statistics are not in it: a key means something within one model and calibration.
    """
    whole = [recipe.pattern, dict(recipe.metric), dict(recipe.solver), damping_of(recipe.quadratic)]
    text = json.dumps(whole, sort_keys=True, allow_nan=False)
    return {
        name: f"{name} {drop} {lambda_of(recipe.quadratic, name)!r} {text}"
        for name, drop in recipe.drop.items()
    }
