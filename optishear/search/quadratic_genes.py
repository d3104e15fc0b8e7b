"""Genes of the quadratic: MOONSHOT's λ for all mixed layers, for each of their roles or blocks;
and its settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from optishear.recipe.layout import ModelLayout
from optishear.recipe.quadratic import blended_layers
from optishear.search.genes import Choice, Gene, Real
from optishear.search.space_parts import MoonshotSpec
from optishear.search.template_genes import Template, genes_in


DECIMALS = 3  # of a searched λ: finer steps would only make more recipes of like worth
NAME = "moonshot.lambda"


@dataclass(frozen=True)
class QuadraticGenes:
    """By default plain reconstruction, without a gene.

    - `settings`: of the quadratic, each a value or a gene.
    - `groups`: mixed layer -> name of the gene that it follows; all other layers have λ = 1.
    - `low`, `high`: what λ may be; equal where it is fixed, and then there is no gene.
    - `options`: the only λ there are between them, ascending, if given.
    """

    groups: Mapping[str, str] = field(default_factory=dict)
    low: float = 0.0
    high: float = 1.0
    settings: Template = field(default_factory=dict)
    options: tuple[float, ...] | None = None

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        return (*self._of_lambda, *genes_in(self.settings))

    @cached_property
    def _of_lambda(self) -> tuple[Gene, ...]:
        if self.low == self.high:
            return ()
        if self.options is not None:
            return tuple(Choice(name, self.options) for name in self._names)
        return tuple(Real(name, self.low, self.high) for name in self._names)

    def decode(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Gene values by gene name -> λ of the mixed layers."""
        return {
            layer: self._rounded(values.get(name, self.low)) for layer, name in self.groups.items()
        }

    def _rounded(self, value: float) -> float:
        if self.options is not None:
            return value
        # Clipped again: a bound may have more decimals than λ.
        return min(max(round(value, DECIMALS), self.low), self.high)

    def encode(self, value: float) -> dict[str, float]:
        """Gene codes that come nearest to this λ in every mixed layer, once they are cleaned."""
        if self.options is not None:
            value = float(np.argmin(np.abs(np.array(self.options) - value)))
        return {gene.name: value for gene in self._of_lambda}

    def lambdas_of(self, layer: str) -> tuple[float, ...] | None:
        """All that λ may be in this layer; None where it is continuous."""
        if layer not in self.groups:
            return (1.0,)
        return (self.low,) if self.low == self.high else self.options

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.groups.values()))


def quadratic_genes(
    spec: MoonshotSpec | None, settings: Template, layout: ModelLayout
) -> QuadraticGenes:
    """The genes on one model. Raises a `ConfigError` for roles that it lacks."""
    if spec is None:
        return QuadraticGenes(settings=settings)
    roles = spec.roles[0] if len(spec.roles) == 1 else spec.roles
    mixed = [layout.by_name[name] for name in blended_layers(layout, roles)]
    match spec.by:
        case "global":
            groups = {layer.name: NAME for layer in mixed}
        case "role":
            groups = {layer.name: f"{NAME}.{layer.role}" for layer in mixed}
        case "block":
            groups = {layer.name: f"{NAME}.block.{layer.block}" for layer in mixed}
    if spec.options is not None:
        options = tuple(sorted(set(spec.options)))
        return QuadraticGenes(groups, options[0], options[-1], settings, options)
    low, high = (spec.low, spec.high) if spec.fixed is None else (spec.fixed, spec.fixed)
    return QuadraticGenes(groups, low, high, settings)
