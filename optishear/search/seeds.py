"""Known methods as genomes of the first population, so that a search starts where others ended."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from optishear.search.space import SearchSpace


LEVELS = (0.5, 0.2, 0.8)  # where between the bounds a space without a budget is seeded


def seed_genomes(
    space: SearchSpace, metrics: Sequence[Mapping[str, Any]]
) -> Float[np.ndarray, "seeds genes"]:
    """Each metric with the uniform profile, then the first metric with every published rule.

    Only what the space can express, each recipe once; without a budget at three levels.
    """
    bounds = space.layers.bounds
    if space.sparsity is not None:
        levels = [space.sparsity]
    else:
        levels = [bounds.floor + share * (bounds.ceiling - bounds.floor) for share in LEVELS]
    rules = space.layers.rules
    expressible = [m for m in metrics if space.metric.encode(m) is not None]
    if not expressible and not space.metric.genes:  # one fixed metric that has no name
        expressible = [dict(space.metric.templates[0])]
    pairs = [(metric, "uniform") for metric in expressible]
    pairs += [(metric, rule) for metric in expressible[:1] for rule in rules if rule != "uniform"]
    genomes: dict[str, np.ndarray] = {}
    for level in levels:
        for metric, rule in pairs:
            genome = space.encode(metric, rules[rule].wishes(level))
            if genome is not None:
                genomes.setdefault(space.decode(genome).key, genome)
    return np.array(list(genomes.values())).reshape(len(genomes), len(space.genes))
