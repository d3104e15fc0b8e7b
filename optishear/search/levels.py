"""Which single layers, at which levels, the recipes of a space are made of, if these are few."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from optishear.recipe.canonical import canonical_recipe
from optishear.recipe.layout import Layer
from optishear.recipe.pattern import NofM
from optishear.recipe.profile import counts_within, project
from optishear.recipe.recipe import Recipe
from optishear.search.genes import Choice, Gene, Integer
from optishear.search.space import SearchSpace
from optishear.search.template_genes import TemplateGenes


def levels_of(space: SearchSpace) -> Iterator[tuple[Layer, Recipe]] | None:
    """Each layer with recipes for it alone, in the order of the layout, that all recipes of the
    space are made of: every count in reach x every metric, solver and quadratic.

    None where a metric, a solver, λ or the counts are continuous: nothing can be listed then. A
    budget may keep some of them out of reach.
    """
    metrics, solvers = _settings(space.metric), _settings(space.solver)
    counts = _counts(space)
    if metrics is None or solvers is None or counts is None or space.quadratic.genes:
        return None
    quadratic, pattern = space.quadratic.decode({}), space.layers.pattern
    made = [
        canonical_recipe(metric, {}, pattern, solver, quadratic)
        for metric, solver in product(metrics, solvers)
    ]
    distinct = list({recipe.key: recipe for recipe in made}.values())
    return (
        (layer, replace(recipe, drop={layer.name: count}))
        for layer in space.layers.layout.layers
        for recipe in distinct
        for count in counts[layer.name]
    )


def _settings(templates: TemplateGenes) -> list[dict[str, Any]] | None:
    """Everything that these templates can mean."""
    found = []
    for template in templates.templates:
        values = [_values(v) if isinstance(v, Gene) else (v,) for v in template.values()]
        if any(value is None for value in values):
            return None
        found += [dict(zip(template, chosen)) for chosen in product(*filter(None, values))]
    return found


def _values(gene: Gene) -> tuple[Any, ...] | None:
    match gene:
        case Choice(_, options):
            return options
        case Integer(_, low, high):
            return tuple(range(low, high + 1))
        case _:
            return None


def _counts(space: SearchSpace) -> Mapping[str, range | list[int]] | None:
    """By layer how many weights it may come to drop."""
    layers, names = space.layers, space.layers.layout.sizes

    def profile(wishes: Mapping[str, float]) -> dict[str, int]:
        return project(wishes, layers.layout, layers.pattern, layers.bounds, space.budget)

    if not layers.genes:
        profiles = [profile(layers.decode({}, space.sparsity))]
    elif layers.options is not None and space.budget is None:
        profiles = [profile(dict.fromkeys(names, option)) for option in layers.options]
    elif layers.bounds.steps is not None or isinstance(layers.pattern, NofM):
        return {
            layer.name: counts_within(layer, layers.pattern, layers.bounds)
            for layer in layers.layout.layers
        }
    else:
        return None
    return {name: sorted({counts[name] for counts in profiles}) for name in names}
