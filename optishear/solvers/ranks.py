"""Rank once, cut many times: a metric that comes again with another count need not sort again.

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
from optishear.recipe.pattern import Block, NofM, Pattern, Row
from optishear.solvers.masks import (
    SHORT,
    as_array,
    cuts,
    in_groups,
    in_runs,
    keep_highest,
    pairwise_places,
    refuse_not_finite,
    stable_order,
)


NOTES = 65_536  # keys whose last use a cache remembers, of a few hundred bytes each
LOW_HALF = 0xFFFF_FFFF
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


def ranked(scores: Float[Tensor, "out in"], pattern: Pattern) -> Int[Tensor, "out in"]:
    """Each weight's place in its group, 0 the lowest, of equal scores the lower index first.

    In the narrowest of int8, int16 and int32 that holds a group's places. Raises `NumericalError`
    for scores that are not finite, `ValueError` where the groups do not fit the matrix.
    """
    parts = cuts(scores.shape, 0, pattern)
    refuse_not_finite(scores)
    dtype = _rank_dtype(scores.shape, pattern)
    ranks = torch.empty(scores.shape, dtype=dtype, device=scores.device)
    for rows, columns, _ in parts:
        part = scores[rows, columns]
        ranks[rows, columns] = _places(in_groups(part, pattern), dtype).view(part.shape)
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
    parts = cuts(ranks.shape, drop, pattern)
    keep = out
    if keep is None:
        keep = torch.empty(ranks.shape, dtype=torch.bool, device=ranks.device)
    for rows, columns, count in parts:
        part, kept = ranks[rows, columns], keep[rows, columns]
        # Above count - 1 rather than from count on: a whole group's count may not fit the dtype.
        if ranks.device.type == "cpu":
            np.greater(part.numpy(), count - 1, out=kept.numpy())  # ten times torch's speed
        else:
            torch.gt(part, count - 1, out=kept)
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


def rank_bytes(layers: Sequence[Layer], pattern: Pattern) -> int:
    """Bytes that the ranks of one metric take for these layers."""
    return sum(_bytes((layer.out_features, layer.in_features), pattern) for layer in layers)


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
    rows, columns = shape
    match pattern:
        case Row():
            size = columns
        case Block(width):
            size = rows * min(width, columns)
        case NofM(m):
            size = m
        case _:
            size = rows * columns
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
    scores, into = as_array(groups), places.numpy()
    in_runs(groups.shape, _short_ranker(scores, into) if width < SHORT else _ranker(scores, into))
    return places


def _short_ranker(
    scores: Float[np.ndarray, "all m"], into: Int[np.ndarray, "all m"]
) -> Callable[[int], Callable[[slice], None]]:
    def worker(groups: int) -> Callable[[slice], None]:
        places_of = pairwise_places(groups, scores)

        def work(run: slice) -> None:
            into[run] = places_of(run).T

        return work

    return worker


def _ranker(
    scores: Float[np.ndarray, "all width"], into: Int[np.ndarray, "all width"]
) -> Callable[[int], Callable[[slice], None]]:
    width = scores.shape[1]
    from_lowest = np.arange(width, dtype=into.dtype)
    fill_order = _order_32 if scores.dtype == np.float32 else _order_64

    def worker(groups: int) -> Callable[[slice], None]:
        plain = np.empty((groups, width), scores.dtype)
        order = np.empty((groups, width), np.int64)
        row_starts = np.arange(0, groups * width, width)[:, None]

        def work(run: slice) -> None:
            n = run.stop - run.start
            np.add(scores[run], 0, out=plain[:n])  # -0.0 becomes the 0.0 that it equals
            fill_order(plain[:n], order[:n])
            order[:n] += row_starts[:n]
            into[run].reshape(-1)[order[:n]] = from_lowest

        return work

    return worker


def _order_32(
    scores: Float[np.ndarray, "rows columns"], order: Int[np.ndarray, "rows columns"]
) -> None:
    """Fills `order` with each row's indices, lowest score first. Overwrites the scores; no -0.0.

    numpy sorts integers several times as fast as it sorts indices, so score and index share one of
    64 bits. Positive floats order as their bits do, read as an integer; negative ones the other way
    round, so all but their sign bit are flipped. The index below breaks the ties.
    """
    bits = scores.view(np.int32)
    bits ^= (bits >> 31) & 0x7FFF_FFFF
    np.left_shift(bits, 32, out=order, dtype=np.int64)
    order |= np.arange(scores.shape[1])
    order.sort(axis=1)
    order &= LOW_HALF


def _order_64(
    scores: Float[np.ndarray, "rows columns"], order: Int[np.ndarray, "rows columns"]
) -> None:
    """Fills `order` with each row's indices, lowest score first. No -0.0 among the scores.

    numpy's fast argsort leaves equal scores in any order (its stable one takes several times as
    long), so where there are any, the indices are sorted again below the number of distinct scores
    before them.
    """
    order[:] = np.argsort(scores, axis=1)
    ordered = np.take_along_axis(scores, order, axis=1)
    changes = ordered[:, 1:] != ordered[:, :-1]
    if changes.all():
        return
    distinct = np.zeros_like(order)
    np.cumsum(changes, axis=1, out=distinct[:, 1:])
    order |= distinct << 32
    order.sort(axis=1)
    order &= LOW_HALF
