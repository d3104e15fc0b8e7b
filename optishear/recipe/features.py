"""A recipe as one flat row: what figures, tables and other tools compare recipes by."""

from collections.abc import Iterable, Mapping
from typing import Any

from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.quadratic import damping_of, lambda_of, uses_gradients
from optishear.recipe.recipe import Recipe


Feature = int | float | str


def features(recipe: Recipe, layout: ModelLayout) -> dict[str, Feature]:
    """Names and settings as they are; sparsities, and under MOONSHOT λ, by block and role.

    - `metric`, `metric.SETTING`, `pattern`, `solver`, `solver.SETTING`, `damping`
    - `sparsity.block.B`, `sparsity.role.ROLE`: fraction of those weights that is dropped.
    - `lambda.block.B`, `lambda.role.ROLE`: mean over those weights; only where λ is mixed.

    Blocks are written with leading zeros, so that names sort as data flows.
    """
    row: dict[str, Feature] = {"pattern": recipe.pattern, "damping": damping_of(recipe.quadratic)}
    row |= _settings("metric", recipe.metric) | _settings("solver", recipe.solver)
    digits = len(str(layout.blocks - 1))
    groups = {f"block.{b:0{digits}d}": [] for b in range(layout.blocks)}
    groups |= {f"role.{role}": [] for role in layout.roles}
    for layer in layout.layers:
        groups[f"block.{layer.block:0{digits}d}"].append(layer)
        groups[f"role.{layer.role}"].append(layer)
    groups = {name: layers for name, layers in groups.items() if layers}
    for name, layers in groups.items():
        row[f"sparsity.{name}"] = sum(recipe.drop[x.name] for x in layers) / _weights(layers)
    if uses_gradients(recipe.quadratic):
        for name, layers in groups.items():
            mixed = sum(lambda_of(recipe.quadratic, x.name) * x.size for x in layers)
            row[f"lambda.{name}"] = mixed / _weights(layers)
    return row


def _weights(layers: Iterable[Layer]) -> int:
    return sum(layer.size for layer in layers)


def _settings(part: str, spec: Mapping[str, Any]) -> dict[str, Feature]:
    """`part` is the name in `spec`; a setting that is a spec itself is written the same way."""
    row: dict[str, Feature] = {part: spec["name"]}
    for key, value in spec.items():
        if isinstance(value, Mapping):
            row |= _settings(f"{part}.{key}", value)
        elif key != "name":
            row[f"{part}.{key}"] = value if type(value) in (int, float) else str(value)
    return row
