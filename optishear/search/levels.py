"""The layers and levels that a space's recipes are made of, if these are few."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from optishear.recipe.canonical import canonical_recipe
from optishear.recipe.layer_keys import layer_key
from optishear.recipe.layout import Layer
from optishear.recipe.parts import Parts
from optishear.recipe.profile import counts_within, has_levels, project
from optishear.recipe.quadratic import QuadraticSettings
from optishear.recipe.recipe import Recipe
from optishear.search.genes import Choice, Gene, Integer
from optishear.search.space import PartGenes, SearchSpace
from optishear.search.template_genes import Template


def levels_of(space: SearchSpace) -> Iterator[tuple[Layer, Recipe]] | None:
    """Each layer with recipes that drop weights of it alone, in the order of the layout, that all
    recipes of the space are made of: every count in reach x every metric, solver, quadratic and λ.

    None where a metric, a solver, λ or the counts are continuous: nothing can be listed then. A
    budget may keep some of them out of reach.
    """
    counts, layers = _counts(space), space.layers.layout.layers
    chosen = {role.match: _parts(role) for role in space.every}
    listable = all(space.quadratic.lambdas_of(layer.name) is not None for layer in layers)
    if counts is None or not listable or any(parts is None for parts in chosen.values()):
        return None
    return (
        (layer, recipe.with_drop({layer.name: count}))
        for layer in layers
        for recipe in _recipes(space, layer, chosen[space.at(layer).match] or [])
        for count in counts[layer.name]
    )


def _parts(role: PartGenes) -> list[tuple[dict[str, Any], ...]] | None:
    """Every metric, solver and setting of the quadratic that the layers of a role may have."""
    metrics, solvers = _settings(role.metric.templates), _settings(role.solver.templates)
    quadratics = _settings([role.quadratic])
    if metrics is None or solvers is None or quadratics is None:
        return None
    return list(product(metrics, solvers, quadratics))


def _recipes(
    space: SearchSpace, layer: Layer, chosen: Sequence[tuple[dict[str, Any], ...]]
) -> list[Recipe]:
    """All that recipes of the space can say of this layer but its count, each once.

    What they say of other layers has a part in it: the form of a metric depends on whether λ is
    mixed anywhere. So of every λ there is one recipe that mixes elsewhere and one that does not.
    """
    pattern = space.layers.patterns.at(layer)
    found: dict[str, Recipe] = {}
    for (metric, solver, quadratic), lambdas in product(chosen, _lambdas(space, layer)):
        said = Parts.of(metric, pattern, solver, QuadraticSettings.of(quadratic))
        recipe = canonical_recipe(Recipe(said, {layer.name: 0}, lambdas))
        found.setdefault(layer_key(recipe, layer), recipe)
    return list(found.values())


def _lambdas(space: SearchSpace, layer: Layer) -> list[dict[str, float]]:
    """Every λ of this layer, with all others plain and with one mixed, as far as can be."""
    genes = space.quadratic
    others = {
        other.name: genes.lambdas_of(other.name) or ()
        for other in space.layers.layout.layers
        if other is not layer
    }
    mixed = {name: min(options) for name, options in others.items() if min(options) < 1}
    elsewhere = [dict(list(mixed.items())[:1])] if mixed else []
    if all(1 in options for options in others.values()):
        elsewhere.append({})
    if space.roles and {} not in elsewhere:  # roles whose masks read no λ leave nothing mixed
        elsewhere.append({})
    return [
        {**rest, layer.name: lam}
        for rest, lam in product(elsewhere, genes.lambdas_of(layer.name) or ())
    ]


def _settings(templates: Sequence[Template]) -> list[dict[str, Any]] | None:
    """Everything that these templates can mean."""
    found = []
    for template in templates:
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

    def profile(targets: Mapping[str, float]) -> dict[str, int]:
        return project(targets, layers.layout, layers.patterns, layers.bounds, space.budget)

    if not layers.genes:
        profiles = [profile(layers.decode({}, space.sparsity))]
    elif layers.options is not None and space.budget is None:
        profiles = [profile(dict.fromkeys(names, option)) for option in layers.options]
    elif all(has_levels(x, layers.patterns, layers.bounds) for x in layers.layout.layers):
        return {
            layer.name: counts_within(layer, layers.patterns, layers.bounds)
            for layer in layers.layout.layers
        }
    else:
        return None
    return {name: sorted({counts[name] for counts in profiles}) for name in names}
