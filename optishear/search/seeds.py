"""Seeds of the first population: known methods as genomes, to start where others ended."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from optishear.recipe.canonical import MASK
from optishear.search.space import SearchSpace
from optishear.search.template_genes import first_of


LEVELS = (0.5, 0.2, 0.8)  # where between the bounds a space without a budget is seeded


def seed_genomes(
    space: SearchSpace,
    metrics: Sequence[Mapping[str, Any]],
    kinds: Collection[str] = ("methods", "rules"),
) -> Float[np.ndarray, "seeds genes"]:
    """Each metric with the uniform profile, the first metric with every published rule, then with
    every solver, and with λ at both ends and the middle.

    `kinds`: `rules` are the second of these, `methods` all others.

    Only what the space can express, each recipe once; without a budget at three levels. Unless said
    otherwise the solver is mask and λ is 1, or what the space has nearest.
    """
    bounds, lam = space.layers.bounds, space.quadratic
    if space.sparsity is not None:
        levels = [space.sparsity]
    else:
        levels = [bounds.floor + share * (bounds.ceiling - bounds.floor) for share in LEVELS]
    rules = space.layers.rules
    expressible = [m for m in metrics if space.metric.encode(m) is not None]
    if not expressible and not space.metric.genes:  # one fixed metric that has no name
        expressible = [dict(space.metric.templates[0])]
    solvers = [first_of(template) for template in space.solver.templates]
    lambdas = [lam.high, (lam.low + lam.high) / 2, lam.low]
    first = expressible[:1]
    parts: list[tuple[Mapping[str, Any], str, Mapping[str, Any], float]] = []
    if "methods" in kinds:
        parts += [(metric, "uniform", MASK, 1.0) for metric in expressible]
    if "rules" in kinds:
        parts += [(m, rule, MASK, 1.0) for m in first for rule in rules if rule != "uniform"]
    if "methods" in kinds:
        parts += [(metric, "uniform", solver, 1.0) for metric in first for solver in solvers]
        parts += [(metric, "uniform", MASK, value) for metric in first for value in lambdas]
    genomes: dict[str, np.ndarray] = {}
    for level in levels:
        for metric, rule, solver, value in parts:
            genome = space.encode(metric, rules[rule].targets(level), solver, value)
            if genome is not None:
                genomes.setdefault(space.decode(genome).key, genome)
    return np.array(list(genomes.values())).reshape(len(genomes), len(space.genes))
