"""Statistics as sums of parts: the parts decide the last bits, and not who sums them up."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from itertools import islice

from torch import nn

from optishear.calibration.collect import check, sums_of
from optishear.calibration.held_back import at_once, joined
from optishear.calibration.statistics import Kinds, LayerStats
from optishear.calibration.token_weights import UNGUIDED, Guide, even_runs
from optishear.recipe.layout import ModelLayout
from optishear.tasks import Batch


Batches = Sequence[Batch]
CollectParts = Callable[[Sequence[Batches], Kinds, Guide], Iterable[dict[str, LayerStats]]]
"""Sums of every part, in the order of the parts; the guide is of all of them."""


def parts_of(batches: Batches, number: int) -> list[Batches]:
    """So many runs of neighbours, of as equal length as can be; never an empty one."""
    return [batches[run] for run in even_runs(len(batches), min(number, len(batches)))]


def one_after_the_other(model: nn.Module, layout: ModelLayout) -> CollectParts:
    """Sums in this process."""

    def collect(
        parts: Sequence[Batches], needs: Kinds, guide: Guide
    ) -> Iterator[dict[str, LayerStats]]:
        for part, of_part in zip(parts, guides_of(guide, parts), strict=True):
            yield sums_of(model, layout, part, needs, of_part)

    return collect


def guides_of(guide: Guide, parts: Sequence[Batches]) -> list[Guide]:
    """The guide's part for each of them."""
    samples = [sum(len(batch) for batch in part) for part in parts]
    return [guide.part(sum(samples[:part]), count) for part, count in enumerate(samples)]


def collect_in_parts(
    collect: CollectParts,
    parts: Sequence[Batches],
    needs: Kinds,
    guide: Guide = UNGUIDED,
    held_back: Sequence[Batches] = (),
) -> dict[str, LayerStats]:
    """The sums over all parts, added in their order. Checked: all inputs seen, all finite.

    `held_back`: the parts of `held_back.cut`, which come last.
    """
    if bool(held_back) != any(kind.held_back_of is not None for kind in needs):
        raise ValueError(f"{len(held_back)} parts are held back for {sorted(map(str, needs))}.")
    each = iter(collect([*parts, *held_back], at_once(needs), guide))
    total = reduce(_added, islice(each, len(parts)))
    if held_back:
        apart = reduce(_added, each)
        total = {site: joined(total[site], apart[site], needs) for site in total}
    check(total)
    return total


def _added(one: dict[str, LayerStats], other: dict[str, LayerStats]) -> dict[str, LayerStats]:
    return {site: one[site] + other[site] for site in one}
