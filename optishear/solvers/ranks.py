"""Ranks of weights: sorted once, cut many times, where a metric comes again with another count.

A weight's rank says how many of its group go before it. So a layer that loses `count` of each group
keeps the ranks from `count` on, and that is one comparison in a narrow integer dtype.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from optishear.recipe.layout import Layer
from optishear.recipe.pattern import Pattern
from optishear.recipe.patterns import Patterns
from optishear.solvers.cpu_selection import as_array, rank
from optishear.solvers.masks import (
    everything_kept,
    from_groups,
    in_groups,
    keep_highest,
    refuse_not_finite,
    stable_order,
)


NOTES = 65_536  # keys whose last use a cache remembers, of a few hundred bytes each
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


def ranked(scores: Float[Tensor, "out in"], pattern: Pattern) -> Int[Tensor, "out in"]:
    """Each weight's place in its group, 0 the lowest, of equal scores the lower index first.

    In the narrowest of int8, int16 and int32 that holds a group's places. Raises `NumericalError`
    for scores that are not finite, `ValueError` where the groups do not fit the matrix.
    """
    cuts = pattern.cuts(scores.shape, 0)
    refuse_not_finite(scores)
    dtype = _rank_dtype(scores.shape, pattern)
    ranks = torch.zeros(scores.shape, dtype=dtype, device=scores.device)
    for cut in cuts:
        part = scores[cut.rows, cut.columns]
        places = _places(in_groups(part, cut), dtype)
        ranks[cut.rows, cut.columns] = from_groups(places, cut, part.shape)
    return ranks


def keep_ranked(
    ranks: Int[Tensor, "out in"],
    drop: int,
    pattern: Pattern,
    out: Bool[Tensor, "out in"] | None = None,
) -> Bool[Tensor, "out in"]:
    """Bit for bit `keep_highest(scores, drop, pattern)`, from `ranked(scores, pattern)`.

    Written into `out` where there is one. Raises `ValueError` for an impossible count.
    """
    cuts = pattern.cuts(ranks.shape, drop)
    if out is None:
        keep = everything_kept(ranks.shape, pattern, ranks.device)
    else:
        keep = out if pattern.covers(ranks.shape) else out.fill_(True)
    for cut in cuts:
        part, kept = ranks[cut.rows, cut.columns], keep[cut.rows, cut.columns]
        # Above count - 1 rather than from count on: a whole group's count may not fit the dtype.
        if ranks.device.type == "cpu":
            np.greater(part.numpy(), cut.count - 1, out=kept.numpy())  # ten times torch's speed
        else:
            torch.gt(part, cut.count - 1, out=kept)
    return keep


def write_kept(
    dense: Float[Tensor, "out in"], keep: Bool[Tensor, "out in"], out: Float[Tensor, "out in"]
) -> None:
    """Makes `out` what `dense` is where kept, and +0.0 elsewhere; both of one dtype, any strides.

    Multiplies the bits as an integer by 1 or 0: exact whatever they stand for, where the number
    itself times 0 is -0.0 or nan for some; and faster than choosing between two numbers.
    """
    if dense.dtype != out.dtype:
        raise ValueError(f"Cannot write {dense.dtype} into {out.dtype}: convert one of them first.")
    bits = BITS[dense.element_size()]
    torch.mul(dense.detach().view(bits), keep, out=out.detach().view(bits))


def rank_bytes(layers: Sequence[Layer], given: Pattern | Patterns) -> int:
    """Bytes that the ranks of one metric take for these layers."""
    patterns = Patterns.over(given)
    return sum(_bytes((x.out_features, x.in_features), patterns.at(x)) for x in layers)


class RankCache:
    """Keeps the ranks of the metrics that come again, as many as fit into `limit_bytes`.

    Ranking costs a few times what selecting does, and a metric with real-valued genes rarely
    repeats. So a key's first use is answered by `keep_highest` and only noted; from the second on
    its ranks are built and held, if there is room.

    Room is made by letting go of the ranks used least recently, but of none that was used after the
    new key's last use. Otherwise a metric whose layers take more than the limit, asked for layer by
    layer again and again, would always throw out what it needs next.

    Counters of calls: `hits` were answered by ranks that were there, `built` by new ones, `direct`
    without ranks. A limit of 0 turns ranking off.
    """

    def __init__(self, limit_bytes: int):
        if limit_bytes < 0:
            raise ValueError(f"A cache cannot hold {limit_bytes} bytes; 0 turns it off.")
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.hits = self.built = self.direct = 0
        self._time = 0
        self._held: OrderedDict[tuple[str, Pattern], Tensor] = OrderedDict()  # oldest use first
        self._used: OrderedDict[tuple[str, Pattern], int] = OrderedDict()  # of keys held or noted
        self._finite: OrderedDict[str, None] = OrderedDict()

    def is_finite(self, key: str) -> bool:
        """Whether these scores are known to be, so that nobody need wait for a device to say so."""
        return key in self._finite

    def note_finite(self, key: str) -> None:
        self._finite[key] = None
        if len(self._finite) > NOTES:
            self._finite.popitem(last=False)

    def keep(
        self,
        key: str,
        drop: int,
        pattern: Pattern,
        score: Callable[[], Float[Tensor, "out in"]],
    ) -> Bool[Tensor, "out in"]:
        """Bit for bit `keep_highest(score(), drop, pattern)`, and raises what that raises.

        `key` names the scores, layer and metric: one key always means the same ones. `score` is
        called only where there are no ranks.
        """
        use = (key, pattern)
        before = self._note(use)
        if (ranks := self._held.get(use)) is not None:
            self._held.move_to_end(use)
            self.hits += 1
            return keep_ranked(ranks, drop, pattern)
        scores = score()
        if before is None or not self._make_room(_bytes(scores.shape, pattern), before):
            self.direct += 1
            return keep_highest(scores, drop, pattern)
        ranks = ranked(scores, pattern)
        self._held[use] = ranks
        self.held_bytes += ranks.nbytes
        self.built += 1
        return keep_ranked(ranks, drop, pattern)

    def _note(self, use: tuple[str, Pattern]) -> int | None:
        """When it was last used, if that is known; now is noted in its place."""
        if not self.limit_bytes:
            return None
        before = self._used.pop(use, None)
        self._used[use] = self._time = self._time + 1
        if len(self._used) > NOTES:
            self._drop(self._used.popitem(last=False)[0])
        return before

    def _make_room(self, size: int, before: int) -> bool:
        """Whether `size` bytes fit, if need be without ranks last used earlier than `before`."""
        free, gone = self.limit_bytes - self.held_bytes, []
        for use, ranks in self._held.items():
            if free >= size or self._used[use] > before:
                break
            gone.append(use)
            free += ranks.nbytes
        if free < size:
            return False
        for use in gone:
            self._drop(use)
        return True

    def _drop(self, use: tuple[str, Pattern]) -> None:
        if (ranks := self._held.pop(use, None)) is not None:
            self.held_bytes -= ranks.nbytes


def _bytes(shape: tuple[int, ...], pattern: Pattern) -> int:
    rows, columns = shape
    return rows * columns * _rank_dtype(shape, pattern).itemsize


def _rank_dtype(shape: tuple[int, ...], pattern: Pattern) -> torch.dtype:
    size = pattern.groups(shape).largest
    for dtype in (torch.int8, torch.int16, torch.int32):
        if size - 1 <= torch.iinfo(dtype).max:
            return dtype
    raise ValueError(
        f"Cannot rank groups of {size} weights in int32: use a pattern of smaller ones."
    )


def _places(
    groups: Float[Tensor, "groups width"], dtype: torch.dtype
) -> Int[Tensor, "groups width"]:
    width = groups.shape[1]
    places = torch.empty(groups.shape, dtype=dtype, device=groups.device)
    if groups.device.type != "cpu":
        from_lowest = torch.arange(width, dtype=dtype, device=groups.device)
        return places.scatter_(1, stable_order(groups), from_lowest.expand(groups.shape))
    rank(as_array(groups), places.numpy())
    return places
