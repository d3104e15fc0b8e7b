"""A foreign file made a recipe file for a model."""

from dataclasses import dataclass
from pathlib import Path

from optishear.export.recipes import write_recipe
from optishear.interchange.recipes import Asked, Imported, imported
from optishear.models.discover import layout_of
from optishear.models.load import load
from optishear.recipe.recipe import Recipe


@dataclass(frozen=True)
class Written:
    """What `imported` found, with the sparsity that it comes to on the model."""

    recipe: Recipe
    kind: str
    sparsity: float
    notes: tuple[str, ...]


def import_for(model: str, file: Path, to: Path, asked: Asked) -> Written:
    """Writes the recipe that `file` means for the model called so."""
    loaded = load(model)
    layout = layout_of(loaded.model)
    found: Imported = imported(file, layout, asked)
    made_with = {
        "model": model,
        "model_hash": loaded.hash,
        "imported": {"file": file.name, "kind": found.kind},
    }
    write_recipe(to, found.recipe, made_with)
    return Written(found.recipe, found.kind, layout.sparsity(found.recipe.drop), found.notes)
