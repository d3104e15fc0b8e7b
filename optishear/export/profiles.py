"""Sparsity profiles as files that other tools can read."""

from pathlib import Path

import pandas as pd

from optishear.recipe.layout import ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.records.atomic import replace_file
from optishear.records.run_directory import write_json


def profile_table(recipe: Recipe, layout: ModelLayout) -> pd.DataFrame:
    """One row a layer: where it is, how big it is, how many weights it loses; under MOONSHOT also
    its λ."""
    rows = [
        {
            "layer": layer.name,
            "block": layer.block,
            "role": layer.role,
            "out_features": layer.out_features,
            "in_features": layer.in_features,
            "weights": layer.size,
            "drop": recipe.drop[layer.name],
            "sparsity": recipe.drop[layer.name] / layer.size,
        }
        for layer in layout.layers
    ]
    table = pd.DataFrame(rows)
    if recipe.mixed:
        table["lambda"] = [recipe.lambda_of(layer) for layer in layout.layers]
    return table


def write_profile(path: Path, recipe: Recipe, layout: ModelLayout) -> None:
    """The sparsity profile as CSV or, by the file's ending, JSON: one entry a layer."""
    table = profile_table(recipe, layout)
    if path.suffix == ".json":
        write_json(path, table.to_dict(orient="records"))
    else:
        replace_file(path, table.to_csv(index=False).encode())
