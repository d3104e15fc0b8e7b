"""Numbers of values that genes can take: how large a space is."""

from math import prod

from optishear.search.genes import Gene, Real
from optishear.search.template_genes import TemplateGenes


def options_of(gene: Gene) -> int | None:
    """How many values it has; None for a real one with room between its bounds."""
    if isinstance(gene, Real) and gene.low < gene.high:
        return None
    return int(gene.high - gene.low) + 1


def meanings_of(templates: TemplateGenes) -> int | None:
    """How many settings these templates have in all; None where one is continuous."""
    counts = [
        [options_of(value) for value in template.values() if isinstance(value, Gene)]
        for template in templates.templates
    ]
    if any(None in row for row in counts):
        return None
    return sum(prod(count for count in row if count is not None) for row in counts)
