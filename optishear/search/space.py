"""The genes of a search, and the recipe that a vector of gene values means."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from optishear.recipe.canonical import MASK, canonical_recipe
from optishear.recipe.profile import project
from optishear.recipe.recipe import Recipe
from optishear.search.genes import Choice, Gene, Integer, cleaned
from optishear.search.quadratic_genes import QuadraticGenes
from optishear.search.sparsity_genes import SparsityGenes
from optishear.search.template_genes import TemplateGenes


MASK_ONLY = TemplateGenes("solver", (MASK,))
RECONSTRUCTION_ONLY = QuadraticGenes()


@dataclass(frozen=True)
class SearchSpace:
    """What varies (genes) and what does not; `sparsity` is the exact budget, None for none."""

    metric: TemplateGenes
    layers: SparsityGenes
    sparsity: float | None
    solver: TemplateGenes = MASK_ONLY
    quadratic: QuadraticGenes = RECONSTRUCTION_ONLY

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        return (
            *self.metric.genes,
            *self.layers.genes,
            *self.solver.genes,
            *self.quadratic.genes,
        )

    @cached_property
    def budget(self) -> int | None:
        """Weights to drop in all."""
        return None if self.sparsity is None else round(self.sparsity * self.layers.layout.total)

    def decode(self, genome: Float[np.ndarray, " genes"]) -> Recipe:
        """Total: every vector within the bounds is a legal recipe that meets the budget."""
        codes = cleaned(self.genes, genome)
        values = {g.name: g.value(code) for g, code in zip(self.genes, codes, strict=True)}
        wishes = self.layers.decode(values, self.sparsity)
        pattern = self.layers.pattern
        return canonical_recipe(
            self.metric.decode(values),
            project(wishes, self.layers.layout, pattern, self.layers.bounds, self.budget),
            pattern,
            self.solver.decode(values),
            self.quadratic.decode(values),
        )

    def encode(
        self,
        metric: Mapping[str, Any],
        wishes: Mapping[str, float],
        solver: Mapping[str, Any] = MASK,
        lam: float = 1.0,
    ) -> Float[np.ndarray, " genes"] | None:
        """The genome nearest to these parts; None where the space has no such metric or profile.

        A solver that the space lacks becomes its first one, and λ the nearest within its bounds.
        """
        metric_codes, layer_codes = self.metric.encode(metric), self.layers.encode(wishes)
        if metric_codes is None or layer_codes is None:
            return None
        # Genes of templates that were not chosen lie idle; any legal code will do.
        codes = {gene.name: gene.low for gene in self.genes} | metric_codes | layer_codes
        codes |= (self.solver.encode(solver) or {}) | self.quadratic.encode(lam)
        return cleaned(self.genes, np.array([codes[gene.name] for gene in self.genes]))

    @property
    def size(self) -> int | None:
        """How many genomes there are; None where a gene is continuous."""
        total = 1
        for gene in self.genes:
            match gene:
                case Choice(_, options):
                    total *= len(options)
                case Integer(_, low, high):
                    total *= high - low + 1
                case _:
                    return None
        return total
