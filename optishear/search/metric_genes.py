"""Which metric a genome means: one of several templates, whose settings are values or genes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optishear.recipe.metric_forms import NAMED_POINTS
from optishear.search.genes import Choice, Gene, Integer


WHICH = "metric"


@dataclass(frozen=True)
class MetricGenes:
    """Templates such as {"name": "power", "alpha": Real(...), "mix": 0.5}.

    With more than one template a `Choice` says which; the genes of the others lie idle.
    """

    templates: tuple[Mapping[str, Any], ...]

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        which = (
            [] if len(self.templates) == 1 else [Choice(WHICH, tuple(range(len(self.templates))))]
        )
        inner = [v for t in self.templates for v in t.values() if isinstance(v, Gene)]
        return (*which, *inner)

    def decode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Gene values by gene name -> a metric's name and settings."""
        template = self.templates[values.get(WHICH, 0)]
        return {k: values[v.name] if isinstance(v, Gene) else v for k, v in template.items()}

    def encode(self, metric: Mapping[str, Any]) -> dict[str, float] | None:
        """Gene codes that mean this metric, under its own name or as a point of a form.

        None where no template can express it.
        """
        for index, template in enumerate(self.templates):
            point = NAMED_POINTS.get(template["name"], {}).get(metric["name"])
            wanted = (
                metric if point is None or len(metric) > 1 else {"name": template["name"], **point}
            )
            codes = _codes(template, wanted)
            if codes is not None:
                return {WHICH: float(index), **codes} if len(self.templates) > 1 else codes
        return None


def _codes(template: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, float] | None:
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
