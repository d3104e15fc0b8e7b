"""Imports: a foreign file made a recipe file for a model."""

from dataclasses import dataclass
from pathlib import Path

from optishear.calibration.origin import ImportedFrom, Origin, write_recipe
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
    came = ImportedFrom(file.name, found.kind)
    origin = Origin(model, loaded.hash, imported=came, model_commit=loaded.commit)
    write_recipe(to, found.recipe, origin)
    return Written(found.recipe, found.kind, layout.sparsity(found.recipe.drop), found.notes)
