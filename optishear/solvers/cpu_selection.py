"""Selecting and ranking scores on the CPU, where numpy does it: its sorting is vectorised.

Its partition takes about a twentieth of the time of torch's kthvalue, and frees the interpreter
lock, so that rows are shared out over threads. A worker is made once a thread and allocates what is
needed for runs of so many rows: fresh memory for every run would cost more than the run, in page
faults. It is then called with one run after the other.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor


CHUNK = 65_536  # weights that a thread works on at a time: few enough to stay in its cache
SHORT = 24  # in shorter groups every pair is compared: a partition has its overhead for each row
LOW_HALF = 0xFFFF_FFFF

Worker = Callable[[slice], None]


def as_array(scores: Float[Tensor, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    """The same numbers for numpy, which has no bfloat16 and is slow with float16."""
    wide = scores.dtype in (torch.float32, torch.float64)
    return (scores.detach() if wide else scores.detach().float()).numpy()


def without_lowest(
    scores: Float[np.ndarray, "rows columns"], count: int, keep: Bool[np.ndarray, "rows columns"]
) -> None:
    """Fills `keep` with all but the `count` lowest of each row; 0 < count < columns."""
    worker = _Pairs if scores.shape[1] < SHORT else _Partition
    in_runs(scores.shape, partial(worker, scores, count, keep))


def without_counts(
    scores: Float[np.ndarray, "rows columns"],
    counts: Int[np.ndarray, " rows"],
    keep: Bool[np.ndarray, "rows columns"],
) -> None:
    """Fills `keep` with all but the counts[i] lowest of row i: one sort serves whatever counts."""
    in_runs(scores.shape, partial(_Sorting, scores, counts, keep))


def rank(scores: Float[np.ndarray, "rows columns"], into: Int[np.ndarray, "rows columns"]) -> None:
    """Fills `into` with each score's place in its row, 0 the lowest."""
    worker = _ShortRanks if scores.shape[1] < SHORT else _Ranks
    in_runs(scores.shape, partial(worker, scores, into))


def in_runs(shape: tuple[int, ...], make: Callable[[int], Worker]) -> None:
    """Works on run after run of a matrix's rows, in as many threads as torch has.

    What a worker does with one run must not depend on the others. It should call numpy only, since
    torch would start threads of its own in each of these.
    """
    rows, columns = shape
    step = max(1, CHUNK // max(1, columns))
    runs = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    threads = min(torch.get_num_threads(), len(runs))
    share = partial(_share, make, min(step, rows))
    if not threads:
        return
    others = [_pool(threads - 1).submit(share, runs[n::threads]) for n in range(1, threads)]
    share(runs[::threads])
    for other in others:
        other.result()  # an error inside is raised here


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay: to start them for every layer would take longer than a small one does."""
    return ThreadPoolExecutor(threads, "selection")


def _share(make: Callable[[int], Worker], rows: int, runs: Sequence[slice]) -> None:
    work = make(rows)
    for run in runs:
        work(run)


class _Partition:
    def __init__(
        self,
        scores: Float[np.ndarray, "rows columns"],
        count: int,
        keep: Bool[np.ndarray, "rows columns"],
        rows: int,
    ) -> None:
        self.scores, self.count, self.keep = scores, count, keep
        self.scratch = np.empty((rows, scores.shape[1]), scores.dtype)

    def __call__(self, run: slice) -> None:
        part, count = self.scores[run], self.count
        divided = self.scratch[: len(part)]
        np.copyto(divided, part)
        divided.partition(count - 1, axis=1)
        threshold = divided[:, count - 1 : count]
        following = divided[:, count:].min(axis=1, keepdims=True)
        _cut(part, threshold, following, count, self.keep[run])


class _Sorting:
    def __init__(
        self,
        scores: Float[np.ndarray, "rows columns"],
        counts: Int[np.ndarray, " rows"],
        keep: Bool[np.ndarray, "rows columns"],
        rows: int,
    ) -> None:
        self.scores, self.counts, self.keep = scores, counts, keep
        self.scratch = np.empty((rows, scores.shape[1]), scores.dtype)

    def __call__(self, run: slice) -> None:
        part, count = self.scores[run], self.counts[run, None]
        ordered = self.scratch[: len(part)]
        np.copyto(ordered, part)
        ordered.sort(axis=1)
        # Of a row that loses nothing or everything these are one score, a tie like others.
        threshold = np.take_along_axis(ordered, np.maximum(count - 1, 0), axis=1)
        following = np.take_along_axis(ordered, np.minimum(count, part.shape[1] - 1), axis=1)
        _cut(part, threshold, following, count, self.keep[run])


def _cut(
    scores: Float[np.ndarray, "rows columns"],
    threshold: Float[np.ndarray, "rows 1"],
    following: Float[np.ndarray, "rows 1"],
    count: int | Int[np.ndarray, "rows 1"],
    keep: Bool[np.ndarray, "rows columns"],
) -> None:
    """Fills `keep`, given in each row the highest score to go and the lowest one to stay."""
    np.greater(scores, threshold, out=keep)
    tied = (following == threshold)[:, 0]
    if not tied.any():
        return  # what lies above the threshold is the answer, as it usually is
    part, at_most = scores[tied], threshold[tied]
    equal = part == at_most
    wanted = np.broadcast_to(count, threshold.shape)[tied] - (part < at_most).sum(1, keepdims=True)
    # Of the scores that equal the threshold the first go, as many as the count still wants.
    keep[tied] = (part > at_most) | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) > wanted))


class Places:
    """For at most `groups` groups of m scores: each one's place in its group, 0 the lowest.

    Its place is the number of those that go before it: of two, i before j, i does if s_i <= s_j.
    Counted for all groups at once, so they come last. What is returned is overwritten by the next
    call, and of use for groups of less than 128.
    """

    def __init__(self, m: int, groups: int) -> None:
        self.places = np.empty((m, groups), np.int8)
        self.before = np.empty((max(0, m - 1), groups), np.bool_)
        self.if_level = np.arange(m - 1, -1, -1)[:, None]  # as if all the later ones went before

    def __call__(self, scores: Float[np.ndarray, "m groups"]) -> Int8[np.ndarray, "m groups"]:
        m, n = scores.shape
        place = self.places[:, :n]
        place[:] = self.if_level
        for i in range(m - 1):
            first = np.less_equal(scores[i], scores[i + 1 :], out=self.before[i:, :n])
            first = first.view(np.int8)
            place[i + 1 :] += first
            place[i] -= first.sum(axis=0, dtype=np.int8)
        return place


class _PlacesOfRuns:
    """The same for runs of groups that lie one below the other."""

    def __init__(self, scores: Float[np.ndarray, "all m"], groups: int) -> None:
        m = scores.shape[1]
        self.scores, self.planes = scores, np.empty((m, groups), scores.dtype)
        self.places = Places(m, groups)

    def __call__(self, run: slice) -> Int8[np.ndarray, "m groups"]:
        plane = self.planes[:, : run.stop - run.start]
        np.copyto(plane, self.scores[run].T)
        return self.places(plane)


class _Pairs:
    def __init__(
        self,
        scores: Float[np.ndarray, "all m"],
        count: int,
        keep: Bool[np.ndarray, "all m"],
        groups: int,
    ) -> None:
        self.places, self.count, self.keep = _PlacesOfRuns(scores, groups), count, keep

    def __call__(self, run: slice) -> None:
        self.keep[run] = (self.places(run) >= self.count).T


class _ShortRanks:
    def __init__(
        self, scores: Float[np.ndarray, "all m"], into: Int[np.ndarray, "all m"], groups: int
    ) -> None:
        self.places, self.into = _PlacesOfRuns(scores, groups), into

    def __call__(self, run: slice) -> None:
        self.into[run] = self.places(run).T


class _Ranks:
    def __init__(
        self, scores: Float[np.ndarray, "all width"], into: Int[np.ndarray, "all width"], rows: int
    ) -> None:
        width = scores.shape[1]
        self.scores, self.into = scores, into
        self.from_lowest = np.arange(width, dtype=into.dtype)
        self.fill_order = _order_32 if scores.dtype == np.float32 else _order_64
        self.plain = np.empty((rows, width), scores.dtype)
        self.order = np.empty((rows, width), np.int64)
        self.row_starts = np.arange(0, rows * width, width)[:, None]

    def __call__(self, run: slice) -> None:
        n = run.stop - run.start
        plain, order = self.plain[:n], self.order[:n]
        np.add(self.scores[run], 0, out=plain)  # -0.0 becomes the 0.0 that it equals
        self.fill_order(plain, order)
        order += self.row_starts[:n]
        self.into[run].reshape(-1)[order] = self.from_lowest


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
