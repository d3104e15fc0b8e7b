"""Keys of single layers in a recipe: layers that it says the same of have the same key."""

import json
from collections.abc import Iterable
from functools import lru_cache

from optishear.recipe.layout import Layer
from optishear.recipe.parts import Parts
from optishear.recipe.recipe import Recipe


def layer_keys(recipe: Recipe, layers: Iterable[Layer]) -> dict[str, str]:
    """`layer_key` by layer name."""
    return {layer.name: layer_key(recipe, layer) for layer in layers}


def layer_key(recipe: Recipe, layer: Layer) -> str:
    """In words, all that the layer's new weights depend on when it is solved on its own.

    That is its name, count and λ, beside metric, pattern, solver and quadratic. The dense weight
    and the statistics are not in it: a key means something within one model and calibration.
    """
    lam, drop = recipe.lambda_of(layer), recipe.drop[layer.name]
    return f"{layer.name} {drop} {lam!r} {_text(recipe.at(layer))}"


@lru_cache(maxsize=1024)
def _text(parts: Parts) -> str:
    said = [
        parts.pattern.text,
        parts.metric.to_json(),
        parts.solver.to_json(),
        parts.quadratic.as_numbers.damping,
    ]
    more = {k: v for k, v in parts.quadratic.unusual.items() if k != "damping"}
    if more:
        said.append(more)
    return json.dumps(said, sort_keys=True, allow_nan=False)
