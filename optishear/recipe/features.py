"""A recipe as one flat row: what figures, tables and other tools compare recipes by."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.parts import Parts
from optishear.recipe.quadratic import USUAL
from optishear.recipe.recipe import BY_BLOCK, Recipe


Feature = int | float | str


def features(recipe: Recipe, layout: ModelLayout) -> dict[str, Feature]:
    """Names and settings as they are; sparsities, and under MOONSHOT λ, by block and role.

    - `metric`, `metric.SETTING`, `pattern`, `solver`, `solver.SETTING`, `damping`, and
      what else of the quadratic is not the usual; where roles have parts of their own one for each
      of the model's roles, as `metric.SETTING.role.ROLE`.
    - `order`: where it is not by block. `reconstruct`, `reconstruct.SETTING`: where there is one.
    - `sparsity.block.B`, `sparsity.role.ROLE`: fraction of those weights that is dropped.
    - `lambda.block.B`, `lambda.role.ROLE`: mean over those weights; only where λ is mixed.

    Blocks are written with leading zeros, so that names sort as data flows.
    """
    row: dict[str, Feature] = {}
    if recipe.same_everywhere:
        row |= _of_parts(recipe.default)
    else:
        by_role = {layer.role: _of_parts(recipe.at(layer)) for layer in layout.layers}
        row |= {f"{k}{OF_ROLE}{role}": v for role, own in by_role.items() for k, v in own.items()}
    if recipe.order != BY_BLOCK:
        row["order"] = recipe.order
    if recipe.reconstruct is not None:
        row |= _settings("reconstruct", recipe.reconstruct.to_json())
    digits = len(str(layout.blocks - 1))
    groups = {f"block.{b:0{digits}d}": [] for b in range(layout.blocks)}
    groups |= {f"role.{role}": [] for role in layout.roles}
    for layer in layout.layers:
        groups[f"block.{layer.block:0{digits}d}"].append(layer)
        groups[f"role.{layer.role}"].append(layer)
    groups = {name: layers for name, layers in groups.items() if layers}
    for name, layers in groups.items():
        row[f"sparsity.{name}"] = sum(recipe.drop[x.name] for x in layers) / _weights(layers)
    if recipe.mixed:
        for name, layers in groups.items():
            mixed = sum(recipe.lambda_of(x) * x.size for x in layers)
            row[f"lambda.{name}"] = mixed / _weights(layers)
    return row


def in_one_table(
    rows: Sequence[dict[str, Feature]], layout: ModelLayout
) -> list[dict[str, Feature]]:
    """The same rows in the same columns: where one recipe's roles differ in their parts, all rows
    say them by role; what one of them has otherwise than usual, all say."""
    found = list(rows)
    if any(OF_ROLE in name and _is_part(name) for row in rows for name in row):
        found = [_by_role(row, layout) for row in rows]
    said = {name: None for row in found for name in row}
    usual = {name: value for name in said if (value := _usual(name)) is not None}
    return [usual | row for row in found] if usual else found


OF_ROLE = ".role."


def _usual(name: str) -> Feature | None:
    """What a recipe has that does not say this; None for what all of them say, or only some can."""
    if name == "order":
        return BY_BLOCK
    if name == "reconstruct":
        return "none"
    return USUAL.to_json().get(name.split(OF_ROLE)[0])


def _is_part(name: str) -> bool:
    return not name.startswith(("sparsity.", "lambda."))


def _by_role(row: dict[str, Feature], layout: ModelLayout) -> dict[str, Feature]:
    found: dict[str, Feature] = {}
    for name, value in row.items():
        if _is_part(name) and OF_ROLE not in name:
            found |= {f"{name}{OF_ROLE}{role}": value for role in layout.roles}
        else:
            found[name] = value
    return found


def _of_parts(parts: Parts) -> dict[str, Feature]:
    quadratic = {"damping": parts.quadratic.damping, **parts.quadratic.unusual}
    row: dict[str, Feature] = {"pattern": parts.pattern.text}
    row |= {k: v if isinstance(v, str) else float(v) for k, v in quadratic.items()}
    return row | _settings("metric", parts.metric) | _settings("solver", parts.solver)


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
