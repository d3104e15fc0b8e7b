"""The genes of a search, and the recipe that a vector of gene values means."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from optishear.recipe.canonical import MASK, canonical_recipe
from optishear.recipe.layout import Layer
from optishear.recipe.parts import Parts, first_match
from optishear.recipe.pattern import Pattern
from optishear.recipe.profile import project
from optishear.recipe.quadratic import QuadraticSettings
from optishear.recipe.recipe import BY_BLOCK, Recipe
from optishear.recipe.reconstruction import ReconstructionSettings
from optishear.search.genes import Choice, Gene, Integer, cleaned
from optishear.search.quadratic_genes import QuadraticGenes
from optishear.search.sparsity_genes import SparsityGenes
from optishear.search.template_genes import Template, TemplateGenes, decoded, genes_in


MASK_ONLY = TemplateGenes("solver", (MASK,))
RECONSTRUCTION_ONLY = QuadraticGenes()
ALL = "*"


@dataclass(frozen=True)
class RoleGenes:
    """What varies in the layers of some roles alone, such as `mlp.*`; None where they have what the
    others have; `quadratic` says single settings. Their patterns are those of the space's
    `layers`."""

    match: str
    metric: TemplateGenes | None = None
    solver: TemplateGenes | None = None
    quadratic: Template = field(default_factory=dict)

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        parts = tuple(g for part in (self.metric, self.solver) if part for g in part.genes)
        return parts + genes_in(self.quadratic)


@dataclass(frozen=True)
class PartGenes:
    """What decides on metric, solver and quadratic of the layers that follow `match`."""

    match: str
    metric: TemplateGenes
    solver: TemplateGenes
    quadratic: Template


@dataclass(frozen=True)
class SearchSpace:
    """What varies (genes) and what does not; `sparsity` is the exact budget, None for none.

    `roles`: in their order; of a layer the first counts whose pattern of roles matches.
    """

    metric: TemplateGenes
    layers: SparsityGenes
    sparsity: float | None
    solver: TemplateGenes = MASK_ONLY
    quadratic: QuadraticGenes = RECONSTRUCTION_ONLY
    roles: tuple[RoleGenes, ...] = ()
    order: str = BY_BLOCK
    reconstruct: ReconstructionSettings | None = None

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        return (
            *self.metric.genes,
            *self.layers.genes,
            *self.solver.genes,
            *self.quadratic.genes,
            *(gene for role in self.roles for gene in role.genes),
        )

    @cached_property
    def budget(self) -> int | None:
        """Weights to drop in all."""
        return None if self.sparsity is None else round(self.sparsity * self.layers.layout.total)

    def decode(self, genome: Float[np.ndarray, " genes"]) -> Recipe:
        """Total: every vector within the bounds is a legal recipe that meets the budget."""
        codes = cleaned(self.genes, genome)
        values = {g.name: g.value(code) for g, code in zip(self.genes, codes, strict=True)}
        layers, genes = self.layers, self.quadratic
        targets = layers.decode(values, self.sparsity)
        drop = project(targets, layers.layout, layers.patterns, layers.bounds, self.budget)
        metric, solver = self.metric.decode(values), self.solver.decode(values)
        settings = QuadraticSettings.of(decoded(genes.settings, values))
        default = Parts.of(metric, layers.patterns.default.pattern, solver, settings)
        roles = tuple(
            (role.match, default.but(self._said(role, values, asked.pattern)))
            for role, (_, asked) in zip(self.roles, layers.patterns.roles, strict=True)
        )
        recipe = Recipe(default, drop, genes.decode(values), roles, self.order, self.reconstruct)
        return canonical_recipe(recipe, layers.layout.layers)

    @staticmethod
    def _said(role: RoleGenes, values: Mapping[str, Any], pattern: Pattern) -> dict[str, Any]:
        """What its layers have otherwise."""
        said: dict[str, Any] = {"pattern": pattern}
        if role.metric is not None:
            said["metric"] = role.metric.decode(values)
        if role.solver is not None:
            said["solver"] = role.solver.decode(values)
        return said | decoded(role.quadratic, values)

    def at(self, layer: Layer) -> PartGenes:
        """What decides on this layer's metric, solver and quadratic."""
        entries = [(role.match, role) for role in self.roles]
        role = first_match(entries, layer.role, RoleGenes(ALL))
        return PartGenes(
            role.match,
            role.metric or self.metric,
            role.solver or self.solver,
            {**self.quadratic.settings, **role.quadratic},
        )

    @cached_property
    def every(self) -> tuple[PartGenes, ...]:
        """What `at` answers for the model's layers, each once."""
        found = map(self.at, self.layers.layout.layers)
        return tuple({genes.match: genes for genes in found}.values())

    def encode(
        self,
        metric: Mapping[str, Any],
        targets: Mapping[str, float],
        solver: Mapping[str, Any] = MASK,
        lam: float = 1.0,
    ) -> Float[np.ndarray, " genes"] | None:
        """The genome nearest to these parts; None where the space has no such metric or profile.

        A solver that the space lacks becomes its first one, and λ the nearest within its bounds;
        roles with genes of their own follow as far as they can.
        """
        metric_codes, layer_codes = self.metric.encode(metric), self.layers.encode(targets)
        if metric_codes is None or layer_codes is None:
            return None
        # Genes of templates that were not chosen lie idle; any legal code will do.
        codes = {gene.name: gene.low for gene in self.genes} | metric_codes | layer_codes
        codes |= (self.solver.encode(solver) or {}) | self.quadratic.encode(lam)
        for role in self.roles:
            codes |= (role.metric and role.metric.encode(metric)) or {}
            codes |= (role.solver and role.solver.encode(solver)) or {}
        return cleaned(self.genes, np.array([codes[gene.name] for gene in self.genes]))

    @cached_property
    def gene_layers(self) -> tuple[tuple[Layer, ...], ...]:
        """For each gene the layers which alone follow it; none where it is about the whole model.

        A budget moves the other layers' counts, too: its total is that of all layers.
        """
        followers: dict[str, list[Layer]] = {}
        for layer in self.layers.free:
            followers.setdefault(f"sparsity.{self.layers.group_of(layer)}", []).append(layer)
        entries = [(role.match, role.genes) for role in self.roles]
        for layer in self.layers.layout.layers:
            for gene in first_match(entries, layer.role, ()):
                followers.setdefault(gene.name, []).append(layer)
            followers.setdefault(self.quadratic.groups.get(layer.name, ""), []).append(layer)
        return tuple(tuple(followers.get(gene.name, ())) for gene in self.genes)

    @cached_property
    def gene_blocks(self) -> tuple[int, ...]:
        """For each gene the first decoder block that it acts on; 0 for the whole model."""
        return tuple(
            min((layer.block for layer in layers), default=0) for layers in self.gene_layers
        )

    @cached_property
    def gene_sizes(self) -> tuple[int, ...] | None:
        """For each gene the weights whose share of the budget it asks for; None without one."""
        return None if self.budget is None else self._sparsity_sizes

    @cached_property
    def exchangeable(self) -> tuple[int, ...]:
        """For each gene the weights of which its code is a share that others can take over, else 0.

        Those of blocks and layers are, unless the options are not evenly spaced.
        """
        gaps = np.diff(self.layers.options or (0.0,))
        if not np.allclose(gaps, gaps[:1]):
            return (0,) * len(self.genes)
        return self._sparsity_sizes

    @cached_property
    def _sparsity_sizes(self) -> tuple[int, ...]:
        """For each block's or layer's sparsity gene the weights that follow it, 0 for others."""
        own = {gene.name for gene in self.layers.genes}
        return tuple(
            sum(layer.size for layer in layers) if gene.name in own else 0
            for gene, layers in zip(self.genes, self.gene_layers, strict=True)
        )

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
