"""Genes for metrics and solvers: one of several templates with genes in them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from optishear.search.genes import Choice, Gene, Integer, values_of


Template = Mapping[str, Any]


@dataclass(frozen=True)
class TemplateGenes:
    """Templates such as {"name": "power", "alpha": Real(...), "mix": 0.5}.

    With more than one template a `Choice` called `which` says which; the genes of the others lie
    idle. `points` are names for settings of a template: {template's name: {name: settings}}.
    """

    which: str
    templates: tuple[Template, ...]
    points: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        count = len(self.templates)
        which = [] if count == 1 else [Choice(self.which, tuple(range(count)))]
        return (*which, *(gene for template in self.templates for gene in genes_in(template)))

    def decode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Gene values by gene name -> a name and settings."""
        return decoded(self.templates[values.get(self.which, 0)], values)

    def encode(self, wanted: Mapping[str, Any]) -> dict[str, float] | None:
        """Gene codes that mean this, under its own name or as a point of a template.

        None where no template can express it.
        """
        for index, template in enumerate(self.templates):
            point = self.points.get(template["name"], {}).get(wanted["name"])
            named = (
                wanted if point is None or len(wanted) > 1 else {"name": template["name"], **point}
            )
            codes = _codes(template, named)
            if codes is not None:
                return {self.which: float(index), **codes} if len(self.templates) > 1 else codes
        return None


def genes_in(template: Template) -> tuple[Gene, ...]:
    return tuple(value for value in template.values() if isinstance(value, Gene))


def decoded(template: Template, values: Mapping[str, Any]) -> dict[str, Any]:
    """The template with the values of its genes, by gene name."""
    return {k: values[v.name] if isinstance(v, Gene) else v for k, v in template.items()}


def first_of(template: Template) -> dict[str, Any]:
    """The template with every gene at its first option or lower end."""
    return {k: v.value(float(v.low)) if isinstance(v, Gene) else v for k, v in template.items()}


def variants_of(template: Template) -> list[dict[str, Any]]:
    """The first, then with every option, or both ends, of one gene at a time."""
    start = first_of(template)
    found = [start]
    for key, gene in template.items():
        if isinstance(gene, Gene):
            found += [{**start, key: value} for value in values_of(gene)]
    return found


def _codes(template: Template, wanted: Mapping[str, Any]) -> dict[str, float] | None:
    if template["name"] != wanted["name"] or not set(wanted) <= set(template):
        return None
    codes = {}
    for key, value in template.items():
        if not isinstance(value, Gene):
            if key in wanted and wanted[key] != value:
                return None
            continue
        code = _code(value, wanted.get(key))
        if code is None:
            return None
        codes[value.name] = code
    return codes


def _code(gene: Gene, value: Any) -> float | None:
    if isinstance(gene, Choice):
        return float(gene.options.index(value)) if value in gene.options else None
    if not isinstance(value, int | float) or not gene.low <= value <= gene.high:
        return None
    return float(round(value)) if isinstance(gene, Integer) else float(value)
