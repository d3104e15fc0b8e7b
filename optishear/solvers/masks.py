"""From scores to what is kept: exactly as many weights fewer as asked, under each pattern.

In every group the lowest scores go; of equal scores the one with the lower index goes first, as a
stable ascending sort would have it, in every dtype. (A threshold `scores <= t` drops more than
asked wherever scores repeat, and in bfloat16 they do.)

On the CPU numpy selects: its partition is vectorised, and takes about a twentieth of the time of
torch's kthvalue. It lets go of the interpreter lock, so that rows are shared out over threads.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from optishear.errors import NumericalError
from optishear.recipe.pattern import Block, NofM, Pattern, Row, WholeLayer


CHUNK = 65_536  # weights that a thread works on at a time: few enough to stay in its cache
SHORT = 24  # in shorter groups every pair is compared: a partition has its overhead for each row
LONG = 256  # in rows so long a GPU selects, with a block of threads a row; shorter ones it sorts


class Cut(NamedTuple):
    """Each of the groups inside scores[rows, columns] loses `count` weights."""

    rows: slice
    columns: slice
    count: int


def cuts(shape: tuple[int, ...], drop: int, pattern: Pattern) -> list[Cut]:
    """The parts of an [out, in] matrix whose groups are alike, and what each of those loses.

    Raises `ValueError` for an impossible count.
    """
    rows, columns = shape
    if not 0 <= drop <= rows * columns:
        raise ValueError(f"Cannot drop {drop} of {rows * columns} weights.")
    everything = slice(None)
    match pattern:
        case Row():
            each, more = divmod(drop, rows)
            parts = [
                Cut(slice(more), everything, each + 1),
                Cut(slice(more, None), everything, each),
            ]
            return parts if more else parts[1:]
        case WholeLayer():
            return [Cut(everything, everything, drop)]
        case Block(width):
            starts = range(0, columns, width)
            shares = pattern.shares(columns, drop)
            return [Cut(everything, slice(i, i + width), n) for i, n in zip(starts, shares)]
        case NofM(m):
            each, more = divmod(drop, rows * columns // m) if columns % m == 0 else (0, drop)
            if columns % m or more:
                raise ValueError(f"{drop} of {rows}x{columns} weights do not fit groups of {m}.")
            return [Cut(everything, everything, each)]
    raise TypeError(f"No rule for the pattern {pattern}.")


def in_groups(part: Tensor, pattern: Pattern) -> Tensor:
    """A cut's [rows, columns] as [groups, weights of a group], in the order of their indices."""
    match pattern:
        case Row():
            return part
        case NofM(m):
            return part.reshape(-1, m)
    return part.reshape(1, -1)


def keep_highest(
    scores: Float[Tensor, "out in"], drop: int, pattern: Pattern
) -> Bool[Tensor, "out in"]:
    """True where a weight is kept: all but the `drop` lowest scores of the pattern's groups.

    Raises `NumericalError` for scores that are not finite, `ValueError` for an impossible count.
    """
    parts = cuts(scores.shape, drop, pattern)
    refuse_not_finite(scores)
    keep = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    for rows, columns, count in parts:
        part = scores[rows, columns]
        kept = _without_lowest(in_groups(part, pattern), count)
        keep[rows, columns] = kept.view(part.shape)
    return keep


def refuse_not_finite(scores: Float[Tensor, "rows columns"]) -> None:
    """Raises `NumericalError` that counts what is nan or inf."""
    # The extremes tell, in one pass and without a temporary: a nan anywhere makes both of them nan.
    if scores.numel() and not bool(torch.isfinite(torch.stack(scores.aminmax())).all()):
        bad = int((~torch.isfinite(scores)).sum())
        raise NumericalError(f"{bad} of {scores.numel()} scores are nan or inf.")


def keep_counts(
    scores: Float[Tensor, "rows columns"], counts: Int[Tensor, " rows"]
) -> Bool[Tensor, "rows columns"]:
    """All but the counts[i] lowest of row i.

    Raises `NumericalError` for scores that are not finite, `ValueError` for an impossible count.
    """
    refuse_not_finite(scores)
    rows, width = scores.shape
    if rows and not bool(((counts >= 0) & (counts <= width)).all()):
        raise ValueError(f"Cannot drop {int(counts.min())} to {int(counts.max())} of {width}.")
    if rows == 1:
        return _without_lowest(scores, int(counts))
    if scores.device.type != "cpu":
        return _by_order(scores, counts[:, None])
    keep = torch.empty(scores.shape, dtype=torch.bool)
    _by_sorting(as_array(scores), counts.numpy(), keep.numpy())
    return keep


def _without_lowest(
    groups: Float[Tensor, "groups width"], count: int
) -> Bool[Tensor, "groups width"]:
    """All but the `count` lowest of each group."""
    width = groups.shape[1]
    if count in (0, width):
        return torch.full(groups.shape, count == 0, dtype=torch.bool, device=groups.device)
    if groups.device.type != "cpu":
        # One row alone would keep but one of a GPU's multiprocessors busy.
        selects = width >= LONG and len(groups) > 1
        return (_by_threshold if selects else _by_order)(groups, count)
    keep = torch.empty(groups.shape, dtype=torch.bool)
    by_count = _by_pairs if width < SHORT else _by_partition
    by_count(as_array(groups), count, keep.numpy())
    return keep


# --- on the CPU ---------------------------------------------------------------------------------


def as_array(scores: Float[Tensor, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    """The same numbers for numpy, which has no bfloat16 and is slow with float16."""
    wide = scores.dtype in (torch.float32, torch.float64)
    return (scores.detach() if wide else scores.detach().float()).numpy()


def in_runs(shape: tuple[int, ...], worker: Callable[[int], Callable[[slice], None]]) -> None:
    """Works on run after run of a matrix's rows, in as many threads as torch has.

    `worker(rows)` is called once a thread, and allocates what is needed for runs of at most so many
    rows: fresh memory for each run would cost more than the run, in page faults. What it returns is
    called with each run and must not depend on the other ones. It should call numpy only, since
    torch would start threads of its own in each of these.
    """
    rows, columns = shape
    step = max(1, CHUNK // max(1, columns))
    runs = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    threads = min(torch.get_num_threads(), len(runs))

    def share(first: int) -> None:
        work = worker(min(step, rows))
        for run in runs[first::threads]:
            work(run)

    if threads < 2:
        share(0) if runs else None
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(share, range(threads)))  # as a list, so that an error inside is raised here


def _by_partition(
    scores: Float[np.ndarray, "rows columns"], count: int, keep: Bool[np.ndarray, "rows columns"]
) -> None:
    """Fills `keep` with all but the `count` lowest of each row; 0 < count < columns."""

    def worker(rows: int) -> Callable[[slice], None]:
        scratch = np.empty((rows, scores.shape[1]), scores.dtype)

        def work(run: slice) -> None:
            part, divided = scores[run], scratch[: run.stop - run.start]
            np.copyto(divided, part)
            divided.partition(count - 1, axis=1)
            threshold = divided[:, count - 1 : count]
            following = divided[:, count:].min(axis=1, keepdims=True)
            _cut(part, threshold, following, count, keep[run])

        return work

    in_runs(scores.shape, worker)


def _by_sorting(
    scores: Float[np.ndarray, "rows columns"],
    counts: Int[np.ndarray, " rows"],
    keep: Bool[np.ndarray, "rows columns"],
) -> None:
    """Fills `keep` with all but the counts[i] lowest of row i: one sort serves whatever counts."""
    columns = scores.shape[1]

    def worker(rows: int) -> Callable[[slice], None]:
        scratch = np.empty((rows, columns), scores.dtype)

        def work(run: slice) -> None:
            part, count = scores[run], counts[run, None]
            ordered = scratch[: len(part)]
            np.copyto(ordered, part)
            ordered.sort(axis=1)
            # Of a row that loses nothing or everything these are one score, a tie like others.
            threshold = np.take_along_axis(ordered, np.maximum(count - 1, 0), axis=1)
            following = np.take_along_axis(ordered, np.minimum(count, columns - 1), axis=1)
            _cut(part, threshold, following, count, keep[run])

        return work

    in_runs(scores.shape, worker)


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


def _by_pairs(
    scores: Float[np.ndarray, "groups m"], count: int, keep: Bool[np.ndarray, "groups m"]
) -> None:
    """Fills `keep` with all but the `count` lowest of each short group."""

    def worker(groups: int) -> Callable[[slice], None]:
        places_of = pairwise_places(groups, scores)

        def work(run: slice) -> None:
            keep[run] = (places_of(run) >= count).T

        return work

    in_runs(scores.shape, worker)


def pairwise_places(
    groups: int, scores: Float[np.ndarray, "all m"]
) -> Callable[[slice], Int8[np.ndarray, "m groups"]]:
    """For runs of at most `groups` groups of scores: each one's place in its group, 0 the lowest.

    Its place is the number of those that go before it: of two, i before j, i does if s_i <= s_j.
    Counted for all groups of a run at once, so they come last in the result. That is overwritten by
    the next call, and of use for an m below 128.
    """
    m = scores.shape[1]
    planes = np.empty((m, groups), scores.dtype)
    places, before = np.empty((m, groups), np.int8), np.empty((m - 1, groups), np.bool_)

    def of(run: slice) -> Int8[np.ndarray, "m groups"]:
        n = run.stop - run.start
        plane, place = planes[:, :n], places[:, :n]
        np.copyto(plane, scores[run].T)
        place[:] = np.arange(m - 1, -1, -1)[:, None]  # as if all the later ones went before
        for i in range(m - 1):
            first = np.less_equal(plane[i], plane[i + 1 :], out=before[i:, :n]).view(np.int8)
            place[i + 1 :] += first
            place[i] -= first.sum(axis=0, dtype=np.int8)
        return place

    return of


# --- on other devices, without waiting for them -------------------------------------------------


def _by_threshold(
    scores: Float[Tensor, "rows columns"], count: int
) -> Bool[Tensor, "rows columns"]:
    """All but the `count` lowest of each row; 0 < count. Ties are looked at in any case."""
    threshold = scores.kthvalue(count, dim=1, keepdim=True).values
    equal = scores == threshold
    wanted = count - (scores < threshold).sum(1, keepdim=True, dtype=torch.int32)
    return (scores > threshold) | (equal & (equal.cumsum(1, dtype=torch.int32) > wanted))


def _by_order(
    scores: Float[Tensor, "rows columns"], counts: int | Int[Tensor, "rows 1"]
) -> Bool[Tensor, "rows columns"]:
    """All but the `counts` lowest of each row, one count for all or one a row."""
    order = stable_order(scores)
    stays = torch.arange(scores.shape[1], device=scores.device) >= counts
    return torch.empty_like(order, dtype=torch.bool).scatter_(1, order, stays.expand(order.shape))


def stable_order(scores: Float[Tensor, "rows columns"]) -> Int[Tensor, "rows columns"]:
    """Each row's indices from the lowest score to the highest, those of equal ones as they come."""
    # Adding 0 turns -0.0 into the 0.0 that it equals, as a sort by bits would not have it.
    return (scores + 0.0).argsort(dim=1, stable=True)
