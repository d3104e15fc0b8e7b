"""Statistics as sums of parts: the parts decide the last bits, and not who sums them up."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from itertools import pairwise
from operator import add

from torch import nn

from optishear.calibration.collect import check, sums_of
from optishear.calibration.statistics import Kinds, LayerStats
from optishear.recipe.layout import ModelLayout
from optishear.tasks import Batch


Batches = Sequence[Batch]
CollectParts = Callable[[Sequence[Batches], Kinds], Iterable[dict[str, LayerStats]]]
"""Sums of every part, in the order of the parts."""


def parts_of(batches: Batches, number: int) -> list[Batches]:
    """So many runs of neighbours, of as equal length as can be; never an empty one."""
    number = min(number, len(batches))
    ends = [len(batches) * part // number for part in range(number + 1)]
    return [batches[begin:end] for begin, end in pairwise(ends)]


def one_after_the_other(model: nn.Module, layout: ModelLayout) -> CollectParts:
    """Sums in this process."""

    def collect(parts: Sequence[Batches], needs: Kinds) -> Iterator[dict[str, LayerStats]]:
        for part in parts:
            yield sums_of(model, layout, part, needs)

    return collect


def collect_in_parts(
    collect: CollectParts, parts: Sequence[Batches], needs: Kinds
) -> dict[str, LayerStats]:
    """The sums over all parts, added in their order. Checked: all inputs seen, all finite."""
    total = reduce(
        lambda one, other: {site: add(one[site], other[site]) for site in one},
        collect(parts, needs),
    )
    check(total)
    return total
