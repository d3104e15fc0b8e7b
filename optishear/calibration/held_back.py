"""Calibration sequences that are held back: a layer's statistics without them, and of them alone.

Whoever wants to know how well a layer does on tokens that it was not fitted to asks for a kind that
is `held_back_of` another. The calibration sequences are then summed up in two runs, the last
quarter of them apart. Sums over all of them stay what they are called; what was not held back is
the difference, so that one more sum a kind is all that it takes.
"""

from collections.abc import Sequence

from optishear.calibration.statistics import (
    Gram,
    HeldBackCross,
    HeldBackGram,
    InputSq,
    Kinds,
    LayerStats,
)
from optishear.errors import ConfigError
from optishear.tasks import Batch


SHARE = 4  # one sequence of so many, rounded down


def at_once(kinds: Kinds) -> Kinds:
    """What is summed up over each of the two runs."""
    return frozenset(kind.held_back_of or kind for kind in kinds)


def cut(batches: Sequence[Batch], kinds: Kinds) -> tuple[list[Batch], list[Batch]]:
    """(those before, the held-back ones), the latter none where no kind asks for them; no batch is
    of both. Raises a `ConfigError` where there are too few sequences to hold any back."""
    if all(kind.held_back_of is None for kind in kinds):
        return list(batches), []
    sequences = sum(len(batch) for batch in batches)
    held_back = sequences // SHARE
    if not held_back:
        raise ConfigError(
            f"Damping is to be chosen by calibration sequences that are held back, one of {SHARE}, "
            f"and there are {sequences}. Give it {SHARE} or more, or a number for damping."
        )
    before: list[Batch] = []
    after: list[Batch] = []
    left = sequences - held_back
    for batch in batches:
        if left:
            before.append(batch[:left] if len(batch) > left else batch)
        if len(batch) > left:
            after.append(batch[left:] if left else batch)
        left = max(0, left - len(batch))
    return before, after


def joined(before: LayerStats, held_back: LayerStats, kinds: Kinds) -> LayerStats:
    """The sums over all sequences, with the `kinds` that are of the held-back ones alone."""
    total = before + held_back
    for kind in kinds:
        if kind.held_back_of is not None and kind.held_back_of in held_back:
            total = total.having(kind(held_back[kind.held_back_of].total))
    return total


def without_held_back(stats: LayerStats) -> LayerStats:
    """The same with Gram matrix, input norms and cross products of the other sequences alone.

    `tokens` stay those of all, so that a mean is in another unit: whatever is relative to the Gram
    matrix does not depend on that.
    """
    for kind in (HeldBackGram, HeldBackCross):
        if kind in stats and kind.held_back_of is not None:
            whole = stats[kind.held_back_of].total
            stats = stats.having(kind.held_back_of(whole - stats[kind].total))
    return stats.having(InputSq(stats[Gram].total.diagonal().clone()))
