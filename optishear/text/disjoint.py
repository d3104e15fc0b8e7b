"""Disjoint texts: what is measured on is kept apart from what was tuned on."""

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np

from optishear.errors import ConfigError
from optishear.tasks import Samples
from optishear.text.sources import TextSpec, source_key
from optishear.text.tokens import TokenBatches


MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that multiplying by it modulo 2**64 loses nothing."""

ROWS_AT_ONCE = 4096


def refuse_overlap(sets: Mapping[str, TextSpec]) -> None:
    """Before anything is read: no two purposes may ask for the same split of the same source.

    `all` of a source holds each of its splits. Raises `ConfigError` that names both purposes.
    """
    for (one, a), (other, b) in combinations(sets.items(), 2):
        if source_key(a.source) == source_key(b.source) and (
            a.split == b.split or "all" in (a.split, b.split)
        ):
            raise ConfigError(
                f"{one} and {other} would read the same text: {a.source}/{a.split} and "
                f"{b.source}/{b.split}. Give each purpose a split of its own (train, search, "
                f"evaluation) or another source."
            )


def refuse_shared_text(sets: Mapping[str, Samples], window: int = 64) -> None:
    """After reading: no run of `window` tokens of one set may occur anywhere in another.

    Runs lie within one sequence, at every offset. Where sequences are shorter than `window`, half
    their length is the run. Candidates come from 64-bit hashes of all runs and are compared
    token by token, so what is reported is really equal. Samples that are no text are not looked
    at. Raises `ConfigError` with both names.
    """
    texts = {name: each for name, each in sets.items() if isinstance(each, TokenBatches)}
    for (one, a), (other, b) in combinations(texts.items(), 2):
        run = min(_run(a, window), _run(b, window))
        covered, example = _shared(a, b, run)
        if covered:
            raise ConfigError(
                f"{one} and {other} share text: {covered} of the {b.tokens.numel()} tokens of "
                f"{other} ({b.source}) lie in runs of {run} tokens that also occur in {one} "
                f"({a.source}), the first in sequence {example[0]} from token {example[1]}. Use "
                f"another split or source for one of them, or remove the doubled documents."
            )


def _run(tokens: TokenBatches, window: int) -> int:
    length = tokens.tokens.shape[1]
    return window if length >= window else max(length // 2, 1)


def _shared(a: TokenBatches, b: TokenBatches, run: int) -> tuple[int, tuple[int, int]]:
    """How many tokens of `b` lie in a run that `a` has too, and (sequence, offset) of the first."""
    ours, theirs = a.tokens.numpy(), b.tokens.numpy()
    known, first = np.unique(_hashes(ours, run), return_index=True)
    hashed = _hashes(theirs, run)
    place = np.minimum(np.searchsorted(known, hashed), len(known) - 1)
    candidates = np.flatnonzero(known[place] == hashed)

    views_a = np.lib.stride_tricks.sliding_window_view(ours, run, axis=1)
    views_b = np.lib.stride_tricks.sliding_window_view(theirs, run, axis=1)
    covered = np.zeros(theirs.shape, dtype=bool)
    start: tuple[int, int] = (0, 0)
    for some in _chunks(candidates):
        row_a, at_a = np.divmod(first[place[some]], views_a.shape[1])
        row_b, at_b = np.divmod(some, views_b.shape[1])
        equal = (views_a[row_a, at_a] == views_b[row_b, at_b]).all(axis=1)
        if equal.any() and not covered.any():
            start = (int(row_b[equal][0]), int(at_b[equal][0]))
        for offset in range(run):
            covered[row_b[equal], at_b[equal] + offset] = True
    return int(covered.sum()), start


def _hashes(tokens: np.ndarray, run: int) -> np.ndarray:
    """A 64-bit hash of each run of each row, row by row: a polynomial modulo 2**64."""
    offsets = tokens.shape[1] - run + 1
    spread = (tokens.astype(np.uint64) + np.uint64(1)) * MULTIPLIER
    spread ^= spread >> np.uint64(29)
    total = np.zeros((len(tokens), offsets), dtype=np.uint64)
    for position in range(run):
        total *= MULTIPLIER
        total += spread[:, position : position + offsets]
    return total.ravel()


def _chunks(candidates: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(candidates), ROWS_AT_ONCE):
        yield candidates[start : start + ROWS_AT_ONCE]
