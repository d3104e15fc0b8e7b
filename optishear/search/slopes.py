"""Slopes as a driver reads them: between which counts they are taken, what they say of genes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from optishear.recipe.profile import counts_within, has_levels
from optishear.recipe.recipe import Recipe
from optishear.records.journal import Journal, Key
from optishear.search.driver import GeneSlopes
from optishear.search.evaluator import Measuring, remembered
from optishear.search.space import SearchSpace


WINDOW = 16  # of a layer without levels, this part of its weights to either side
PASSES = 3  # in forward passes, what slopes take: a backward pass is two
RUN_AGAIN = 1  # more in time, of checkpointed blocks; tokens are counted without, as of any machine


class SlopesReader:
    """Slopes of recipes, each measured once: asks its journal, then the memo, then measures.

    - `objective`: whose slopes they are.
    """

    def __init__(
        self,
        measuring: Measuring,
        space: SearchSpace,
        objective: str,
        journal: Journal,
        memo: Mapping[Key, Mapping[str, Any]],
    ) -> None:
        self.measuring, self.space, self.objective = measuring, space, objective
        self.journal, self.memo = journal, memo

    def __call__(
        self, recipes: Sequence[Recipe], rung: int
    ) -> list[tuple[float | None, GeneSlopes]]:
        """By recipe the objective, and d objective / d code of each gene; None for both where they
        could not be measured."""
        return [self._told(entry) for entry in self._entries(recipes, rung)]

    def _entries(self, recipes: Sequence[Recipe], rung: int) -> list[Mapping[str, Any]]:
        unknown: dict[str, Recipe] = {}
        for recipe in recipes:
            key = (recipe.key, rung)
            if key in self.journal.entries:
                continue
            if (known := self.memo.get(key)) is not None:
                self.journal.append(recipe, rung, remembered(known))
            else:
                unknown[recipe.key] = recipe
        asked = [(recipe, windows(self.space, recipe)) for recipe in unknown.values()]
        for key, outcome in self.measuring.slopes(self.objective, asked, rung):
            self.journal.append(unknown[key], rung, outcome)
        return [self.journal.entries[recipe.key, rung] for recipe in recipes]

    def _told(self, entry: Mapping[str, Any]) -> tuple[float | None, GeneSlopes]:
        if entry["values"] is None:
            return None, None
        slopes = dict(zip(self.journal.layers, entry["slopes"], strict=True))
        return entry["values"][self.objective], gene_slopes(self.space, slopes)


def slopes_identity(
    measure: Mapping[str, Any], space: SearchSpace, objective: str
) -> dict[str, Any]:
    """All that slopes depend on beside the recipe: the measure, and between which counts they are
    taken."""
    bounds = space.layers.bounds
    between = f"{bounds.steps or WINDOW} steps in [{bounds.floor!r}, {bounds.ceiling!r}]"
    return {**measure, "quantities": [objective], "slopes": between}


def windows(space: SearchSpace, recipe: Recipe) -> dict[str, tuple[int, int]]:
    """By layer the counts to either side of the recipe's, within the space's bounds.

    They are the levels next to it where there are levels, else a `WINDOW`-th of the layer away.
    Where the layer's pattern fixes its count both are that.
    """
    layers, found = space.layers, {}
    for layer in layers.layout.layers:
        counts = counts_within(layer, layers.patterns, layers.bounds)
        leveled = has_levels(layer, layers.patterns, layers.bounds)
        away = 1 if leveled else max(1, layer.size // WINDOW // counts.step)
        here = (recipe.drop[layer.name] - counts.start) // counts.step
        last = len(counts) - 1
        found[layer.name] = counts[max(0, here - away)], counts[min(last, here + away)]
    return found


def gene_slopes(space: SearchSpace, slopes: Mapping[str, float]) -> Float[np.ndarray, " genes"]:
    """d objective / d code of each gene, from those by layer sparsity.

    It is 0 for genes that have no part in sparsities.

    What a gene asks for is a target; a budget then takes one constant from all of them, so that a
    layer of n weights counts with g - n sum(g) / sum(n). Targets are linear in codes, but for an
    uneven list of options, of which it is the mean over the whole list.
    """
    layers, budget = space.layers, space.sparsity
    names = [layer.name for layer in layers.free]
    g = np.array([slopes[name] for name in names])
    if budget is not None and len(names):
        sizes = np.array([layer.size for layer in layers.free], dtype=float)
        g = g - sizes * (g.sum() / sizes.sum())
    codes = {gene.name: float(gene.low) for gene in space.genes}
    first = _targets(space, codes, names)
    own, found = {gene.name for gene in layers.genes}, np.zeros(len(space.genes))
    for index, gene in enumerate(space.genes):
        if gene.name in own and gene.high > gene.low:
            moved = _targets(space, {**codes, gene.name: float(gene.high)}, names)
            found[index] = g @ (moved - first) / (gene.high - gene.low)
    return found


def _targets(
    space: SearchSpace, codes: Mapping[str, float], names: Sequence[str]
) -> Float[np.ndarray, " layers"]:
    values = {gene.name: gene.value(codes[gene.name]) for gene in space.genes}
    targets = space.layers.decode(values, space.sparsity)
    return np.array([targets[name] for name in names])
