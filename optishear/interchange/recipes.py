"""A foreign profile or metric, made a recipe of ours."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from optishear.errors import ConfigError
from optishear.interchange import evopress, kinds, profiles, pruner_zero, ratios
from optishear.recipe.formula import Node, canonical_formula
from optishear.recipe.layout import ModelLayout
from optishear.recipe.lookup import lookup
from optishear.recipe.pattern import Pattern, parse_asked
from optishear.recipe.profile import check_sparsity, uniform
from optishear.recipe.quadratic import canonical_lambdas
from optishear.recipe.recipe import Recipe
from optishear.solvers.methods import METHODS


USUAL_METHOD = {kinds.EVOPRESS: "sparsegpt"}  # whose database it is; else wanda


@dataclass(frozen=True)
class Asked:
    """What a file does not say by itself.

    - `kind`: None is what the content says. `method`: None is sparsegpt for EvoPress, else wanda.
    - `pattern`: None is the method's own. `meaning`: of ratios, `keep` or `drop`.
    - `sparsity`: of an EvoPress database, or the uniform one of a metric tree's recipe.
    - `step`: weights between two levels of an EvoPress database.
    """

    kind: str | None = None
    method: str | None = None
    pattern: str | None = None
    meaning: str | None = None
    sparsity: float | None = None
    step: int | None = None


@dataclass(frozen=True)
class Imported:
    """The recipe, and what happened on the way in sentences."""

    recipe: Recipe
    kind: str
    notes: tuple[str, ...]


def kind_asked(path: Path, asked: Asked) -> str:
    """The kind that the user names, else the one that the content is; checks the options for it."""
    text = kinds.read_text(path)
    kind = asked.kind or kinds.kind_of(text, str(path))
    lookup(kinds.KINDS, kind, kind="kind of file")
    reads = {
        "--method": (asked.method, (kinds.EVOPRESS, kinds.RATIOS, kinds.PROFILE)),
        "--meaning": (asked.meaning, (kinds.RATIOS,)),
        "--sparsity": (asked.sparsity, (kinds.EVOPRESS, kinds.PRUNER_ZERO)),
        "--weights-diff": (asked.step, (kinds.EVOPRESS,)),
    }
    for option, (value, of) in reads.items():
        if value is not None and kind not in of:
            raise ConfigError(f"{option}: a file of the kind {kind} has no use for it.")
    if asked.method is not None:
        lookup(METHODS, asked.method, kind="method")
    return kind


def metric_of_tree(path: Path) -> tuple[dict[str, str], Node]:
    """What a recipe or a search space calls the tree in this file."""
    tree = pruner_zero.read_tree(kinds.read_text(path), str(path))
    return {"name": "tree", "formula": canonical_formula(str(tree))}, tree


def imported(path: Path, layout: ModelLayout, asked: Asked) -> Imported:
    """The recipe that the file means for a model of this layout."""
    kind, text, where = kind_asked(path, asked), kinds.read_text(path), str(path)
    if kind == kinds.PRUNER_ZERO:
        return _of_tree(path, layout, asked)
    method = METHODS[asked.method or USUAL_METHOD.get(kind, "wanda")]
    pattern = _pattern(asked.pattern or method.pattern)
    lambdas: Mapping[str, float] = {}
    if kind == kinds.EVOPRESS:
        grid = evopress.read_grid(path, asked.sparsity, asked.step)
        levels = evopress.parse_levels(text, where)
        drop, deviates = evopress.drops_of(levels, grid, layout, pattern, where)
        note = f"levels of {grid.step:,} weights around {grid.sparsity:.6g}: {deviates}"
    elif kind == kinds.RATIOS:
        read = ratios.parse_ratios(text, where)
        targets = ratios.sparsities_of(read, asked.meaning, layout, where)
        drop = {layer.name: pattern.uniform(layer, targets[layer.name]) for layer in layout.layers}
        wanted = {layer.name: targets[layer.name] * layer.size for layer in layout.layers}
        first, last = (targets[layout.layers[i].name] for i in (0, -1))
        deviates = profiles.deviation(wanted, drop, layout)
        note = f"dropped: {first:.4g} of the first layer, {last:.4g} of the last; {deviates}"
    else:
        drop, lambdas = profiles.read_profile(text, where, layout)
        note = f"counts as they are; sparsity {100 * layout.sparsity(drop):.4f} %"
    recipe = method.recipe(layout, drop, pattern)
    if lambdas:
        recipe = replace(recipe, lambdas=canonical_lambdas(lambdas))
    recipe.check(layout)
    return Imported(recipe, kind, (note,))


def _of_tree(path: Path, layout: ModelLayout, asked: Asked) -> Imported:
    metric, tree = metric_of_tree(path)
    if asked.sparsity is None:
        raise ConfigError("A metric tree says nothing of sparsities: add --sparsity for a recipe.")
    pattern = _pattern(asked.pattern or "row")  # Pruner-Zero's own, as Wanda's
    drop = uniform(layout, pattern, check_sparsity(asked.sparsity, "--sparsity"))
    recipe = Recipe.of(metric, drop, pattern)
    recipe.check(layout)
    return Imported(recipe, kinds.PRUNER_ZERO, (f"metric {tree}",))


def _pattern(text: str) -> Pattern:
    """Every layer has its own N under N:M, so 2:4 means n:4 here."""
    return parse_asked(text)[0]
