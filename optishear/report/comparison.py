"""Rows of evaluation.json: baselines, modes, and what each row stands beside."""

from collections.abc import Mapping, Sequence
from typing import Any


BLOCK_BY_BLOCK = ", block by block"  # what names of rows in that mode end with
# Rows that are no baselines: the start, and the pick in both modes.
OWN_ROWS = ("dense", "found", f"found{BLOCK_BY_BLOCK}")
MODES = {"one-shot": "one-shot", "sequential": "block by block"}  # as files and as people have it

Rows = Sequence[Mapping[str, Any]]


def mode_of(row: Mapping[str, Any]) -> str:
    """How a row was pruned, in words; nothing for the dense model, and where the row does not say
    it, as those of older runs do not."""
    return MODES.get(row.get("mode") or "", "")


def name_of(row: Mapping[str, Any]) -> str:
    """What it is called beside a column of modes."""
    return row["name"].removesuffix(BLOCK_BY_BLOCK) if mode_of(row) else row["name"]


def found_in(rows: Rows) -> str | None:
    """The name of the row that has the pick as the search has measured it: block by block where
    that was its mode, and then there is no other. None where nothing was found."""
    _, *found = OWN_ROWS
    names = {row["name"] for row in rows}
    return next((name for name in found if name in names), None)


def found_beside(row: Mapping[str, Any], rows: Rows) -> str | None:
    """The name of the row that has the pick in this row's mode; for the dense model, and the pick
    itself, that of `found_in`."""
    _, _, sequential = OWN_ROWS
    of_that_mode = row["name"] != sequential and row.get("mode") == "sequential"
    return sequential if of_that_mode else found_in(rows)


def of_the_search(rows: Rows) -> list[Mapping[str, Any]]:
    """Baselines in the mode in which the search applies recipes."""
    by_block = found_in(rows) == OWN_ROWS[2]
    return [
        row
        for row in rows
        if row["name"] not in OWN_ROWS and (row.get("mode") == "sequential") == by_block
    ]
