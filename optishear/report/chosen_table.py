"""A table of runs cut to what a reader asks for: some rows, repeats averaged, some columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from optishear.errors import ConfigError
from optishear.recipe.lookup import did_you_mean
from optishear.records.run_directory import RunDirectory
from optishear.report.run_table import as_text, differing_keys, finished_runs, run_table


RUNS, LOW, HIGH, ERROR = "runs", " low", " high", " ±"
SOME = "a recipe of its own"  # that each of several runs is around


@dataclass(frozen=True)
class Question:
    """What `optishear table` is asked: see `chosen_table`, for every experiment in the places."""

    places: tuple[Path, ...]
    where: Mapping[str, str] = field(default_factory=dict)
    over: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    dirty: bool = False

    @classmethod
    def of_options(
        cls,
        places: Sequence[Path],
        where: Sequence[str] = (),
        over: str | None = None,
        columns: str | None = None,
        dirty: bool = False,
    ) -> "Question":
        """As they are typed: KEY=VALUE once a key, lists with commas."""
        pairs = [condition.partition("=") for condition in where]
        wanted = {key: value for key, equals, value in pairs if equals}
        if len(wanted) < len(where):
            raise ConfigError("--where: write it as KEY=VALUE, once a key.")
        keys, patterns = (tuple(text.split(",")) if text else () for text in (over, columns))
        return cls(tuple(places), wanted, keys, patterns, dirty)

    def runs(self) -> dict[str, list[RunDirectory]]:
        """By experiment. Raises `ConfigError` where there is no finished run."""
        runs = finished_runs(self.places, self.dirty)
        if not runs:
            raise ConfigError(
                f"{', '.join(map(str, self.places))}: holds no finished run"
                + ("." if self.dirty else " of an unchanged checkout (--dirty takes the others).")
            )
        return runs

    def tables(self) -> dict[str, pd.DataFrame]:
        """By experiment what of its runs is asked for."""
        return {
            name: chosen_table(group, self.where, self.over, self.columns)
            for name, group in self.runs().items()
        }


def chosen_table(
    runs: Sequence[RunDirectory],
    where: Mapping[str, str] | None = None,
    over: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> pd.DataFrame:
    """`run_table` of these runs, reduced.

    - `where`: only rows that say so; values as text.
    - `over`: keys of the configuration; runs that differ only in these become one row with their
      number, the mean of every number as `X`, and its least and largest value as `X low` and
      `X high`. A standard error `X ±` is that of the mean of independent values.
    - `columns`: shell patterns of the columns wanted, in this order; empty: all.

    Raises `ConfigError` for keys and columns that there are not.
    """
    table, keys = run_table(runs), differing_keys(runs)
    for key in (*(where or {}), *over):
        if key not in keys:
            raise ConfigError(
                f"The runs do not differ in {key!r}.{did_you_mean(key, keys)} "
                f"They do in: {', '.join(keys) or 'nothing'}."
            )
    for key, value in (where or {}).items():
        table = table.loc[[as_text(cell) == value for cell in table[key]]]
    order = [[_in_order(row[key]) for key in keys] for row in table.to_dict(orient="records")]
    table = table.iloc[sorted(range(len(table)), key=order.__getitem__)]
    if over:
        if "around" in table:  # each run of such a group is around another one's pick
            table["around"] = [as_text(cell) and SOME for cell in table["around"]]
        table = _averaged(table, keys, over)
    if not columns:
        return table
    # Read per pattern, so that the order is the caller's.
    chosen: list[str] = []
    for pattern in columns:
        found = [name for name in map(str, table.columns) if fnmatchcase(name, pattern)]
        if not found:
            names = [str(name) for name in table.columns if not _is_part(str(name))]
            raise ConfigError(f"No column matches {pattern!r}. There are: {', '.join(names)}.")
        parts = [name + end for name in found for end in (ERROR, LOW, HIGH)]
        chosen += [*found, *(part for part in parts if part in table.columns)]
    return table.loc[:, list(dict.fromkeys(chosen))]


def _averaged(table: pd.DataFrame, keys: Sequence[str], over: Sequence[str]) -> pd.DataFrame:
    kept = [key for key in keys if key not in over]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in table.to_dict(orient="records"):
        groups.setdefault(tuple(_in_order(row[key]) for key in kept), []).append(row)
    rows = []
    for members in groups.values():
        row: dict[str, Any] = {key: members[0][key] for key in kept} | {RUNS: len(members)}
        for name in map(str, table.columns):
            values = [member[name] for member in members]
            if name in keys or not all(_is_number(value) for value in values):
                continue
            if name.endswith(ERROR):
                row[name] = float(np.sqrt(np.square(values).sum()) / len(values))
                continue
            row[name] = float(np.mean(values))
            row |= {name + LOW: float(min(values)), name + HIGH: float(max(values))}
        rows.append(row)
    return pd.DataFrame(rows)


def _in_order(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then texts."""
    return (0, float(value), "") if _is_number(value) else (1, 0.0, as_text(value))


def _is_part(name: str) -> bool:
    return name.endswith((ERROR, LOW, HIGH))


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float | np.number)
        and not isinstance(value, bool)
        and value == value
    )
