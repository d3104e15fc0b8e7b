"""The page's section on held-out text: tables and sentences, differences paired by sequence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optishear.report.comparison import (
    OWN_ROWS,
    found_beside,
    found_in,
    mode_of,
    name_of,
    of_the_search,
)
from optishear.report.page.wording import percent, with_error


DENSE, FOUND, SEQUENTIAL = OWN_ROWS
SURE = 2  # standard errors that a paired difference must have to be called one

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Line:
    """One method on one text. `gain`: nats per token by which the found recipe, in this mode, is
    better."""

    name: str
    mode: str  # nothing where the run does not say it
    kind: str  # dense, baseline, found or sequential
    sparsity: str
    perplexity: str
    gain: str
    verdict: str


@dataclass(frozen=True)
class Table:
    text: str
    lines: tuple[Line, ...]
    gap: str | None


def tables(rows: Rows) -> tuple[Table, ...]:
    return tuple(
        Table(text, tuple(_line(row, rows, text) for row in rows), sequential_gap(rows, text))
        for text in rows[0]["texts"]
    )


def _line(row: Mapping[str, Any], rows: Rows, text: str) -> Line:
    numbers = row["texts"][text]
    other, mode = numbers["fewer_nats"].get(found_beside(row, rows) or ""), mode_of(row)
    kinds = {DENSE: "dense", SEQUENTIAL: "sequential", found_in(rows): "found"}
    return Line(
        name_of(row),
        mode,
        kinds.get(row["name"], "baseline"),
        percent(row["sparsity"]),
        with_error(numbers["perplexity"], numbers["error"], 2),
        ""
        if other is None
        else f"{'+' if other['mean'] < 0 else ''}{with_error(-other['mean'], other['error'], 4)}",
        "" if other is None else verdict(-other["mean"], other["error"]),
    )


def verdict(gain: float, error: float) -> str:
    if abs(gain) <= SURE * error:
        return "cannot be told apart"
    return "better" if gain > 0 else "worse"


def best_baseline(rows: Rows, text: str) -> Mapping[str, Any] | None:
    """The baseline with the lowest perplexity on this text, of those in the mode of the search."""
    return min(of_the_search(rows), key=lambda row: row["texts"][text]["perplexity"], default=None)


def outcome(rows: Rows, pick: str) -> str | None:
    """The result on the first text in one sentence; None if nothing was found to compare."""
    by_name = {row["name"]: row for row in rows}
    if (name := found_in(rows)) is None:
        return None
    text = next(iter(rows[0]["texts"]))
    found, dense = by_name[name], by_name[DENSE]
    sentence = (
        f"At {percent(found['sparsity'])} sparsity the recipe that was found ({pick}) has a "
        f"held-out perplexity of {_perplexity(found, text)} (dense: {_perplexity(dense, text)})"
    )
    rival = best_baseline(rows, text)
    if rival is None:
        return f"{sentence}; no baseline was compared."
    sentence += f", against {_perplexity(rival, text)} for {name_of(rival)}, the best baseline"
    paired = rival["texts"][text]["fewer_nats"].get(name)
    if paired is None:
        return f"{sentence}; with one sequence there is no error to judge the difference by."
    gain, error = -paired["mean"], paired["error"]
    numbers = f"{with_error(abs(gain), error, 4)} nats per token, paired by sequence"
    told = verdict(gain, error)
    if told == "cannot be told apart":
        return f"{sentence}; the two cannot be told apart ({numbers})."
    return f"{sentence}: {told} by {numbers}."


def sequential_gap(rows: Rows, text: str) -> str | None:
    """What it costs that the search prunes all blocks at once, with statistics of the dense
    model, where `optishear prune` goes block by block. None if it was not measured."""
    by_name = {row["name"]: row for row in rows}
    if FOUND not in by_name or SEQUENTIAL not in by_name:
        return None
    found, sequential = by_name[FOUND], by_name[SEQUENTIAL]
    sentence = (
        f"Pruned block by block, as optishear prune does it, each block with statistics of the "
        f"model as pruned so far, the same recipe has {_perplexity(sequential, text)} instead of "
        f"{_perplexity(found, text)}"
    )
    paired = sequential["texts"][text]["fewer_nats"].get(FOUND)
    if paired is None:
        return f"{sentence}."
    numbers = f"{with_error(abs(paired['mean']), paired['error'], 4)} nats per token"
    told = verdict(paired["mean"], paired["error"])
    if told == "cannot be told apart":
        return f"{sentence}; the two cannot be told apart ({numbers})."
    return f"{sentence}: block by block is {told} by {numbers}."


def _perplexity(row: Mapping[str, Any], text: str) -> str:
    numbers = row["texts"][text]
    return with_error(numbers["perplexity"], numbers["error"], 2)
