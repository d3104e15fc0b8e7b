"""Runs side by side as one table, from their files alone: what differed, and what came of it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from optishear.errors import ConfigError
from optishear.reading.shapes import Shape
from optishear.recipe.recipe import Recipe
from optishear.records.run_directory import MEND, RunDirectory, runs_under
from optishear.records.run_files import FINISHED, Manifest, read_evaluation, read_manifest
from optishear.report.comparison import OWN_ROWS, found_beside, found_in, of_the_search


OF_NO_RESULT = ("hypothesis", "memory", "name", "workers", "ray_address")  # keys of a configuration
DENSE, FOUND, _ = OWN_ROWS


class _Status(Shape):
    status: str


class _Finished(Manifest):
    """What a row of a table needs of a finished run."""

    evaluations: int
    failed: int
    seconds: float


def finished_runs(places: Sequence[Path], dirty: bool = False) -> dict[str, list[RunDirectory]]:
    """The finished runs in and below these folders by experiment, in order of their paths.

    Runs of a changed checkout are left out unless asked for: nobody could make them again.
    """
    found: dict[str, list[RunDirectory]] = {}
    for place in places:
        for run in runs_under(place):
            if read_manifest(run.manifest, _Status)["status"] != FINISHED:
                continue
            manifest = read_manifest(run.manifest, _Finished)
            if dirty or not manifest.get("code", {}).get("dirty", False):
                found.setdefault(manifest["experiment"]["name"], []).append(run)
    return found


def run_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """One row a run of one experiment, in the order given.

    Columns: `run`; every key of the configuration in which the runs differ; `recipes`, `failed`,
    `seconds`; `found.QUANTITY` of the pick on the search text; and for each held-out text
    `TEXT: ROW` and `TEXT: ROW ±` (perplexity and its standard error) of dense, every baseline and
    what was found, with `TEXT: gain over ROW` and `… ±` in nats per token, paired. Rows whose name
    ends in "block by block" were pruned so, and the gain over them is that of the pick so pruned.
    """
    rows = []
    for run, manifest, differing in _with_differences(runs):
        evaluation = read_evaluation(run)
        searched = _found(run, evaluation).get("search") or {}
        row = {
            "run": manifest["hash"],
            **differing,
            **{key: manifest[key] for key in ("evaluations", "failed", "seconds")},
            **{f"found.{name}": value for name, value in searched.items()},
        }
        for text in evaluation[0]["texts"]:
            beside = {each["name"]: found_beside(each, evaluation) for each in evaluation}
            for method, numbers in _of(evaluation, text).items():
                name = f"{_short(text)}: {method}"
                row |= {name: numbers["perplexity"], f"{name} ±": numbers["error"]}
                if method not in OWN_ROWS:
                    gain = numbers["fewer_nats"].get(beside[method], {"mean": None, "error": None})
                    mean = None if gain["mean"] is None else _gained(gain)
                    name = f"{_short(text)}: gain over {method}"
                    row |= {name: mean, f"{name} ±": gain["error"]}
        rows.append(row)
    return pd.DataFrame(rows)


def brief_table(runs: Sequence[RunDirectory]) -> pd.DataFrame:
    """A row for each run and held-out text, in few columns of text: dense, the best baseline, what
    was found, and the gain of this over that in nats per token, paired;
    all in the mode of the search."""
    rows = []
    for run, manifest, differing in _with_differences(runs):
        evaluation = read_evaluation(run)
        of_run = {"run": manifest["hash"]}
        of_run |= {key.rpartition(".")[2]: as_text(value) for key, value in differing.items()}
        of_run |= {"recipes": str(manifest["evaluations"]), "seconds": f"{manifest['seconds']:.0f}"}
        for text in evaluation[0]["texts"]:
            found = _found(run, evaluation)["name"]
            numbers = _of(evaluation, text)
            row = {**of_run, "held-out text": _short(text), "dense": _with_error(numbers[DENSE])}
            fixed = [each["name"] for each in of_the_search(evaluation)]
            best = min(fixed, key=lambda name: numbers[name]["perplexity"], default=None)
            if best is not None:
                row["best baseline"] = f"{best} {_with_error(numbers[best])}"
            row["found"] = _with_error(numbers[found])
            if best is not None and (gain := numbers[best]["fewer_nats"].get(found)):
                row["gain (nats/token)"] = f"{_gained(gain):+.4f} ± {gain['error']:.4f}"
            rows.append(row)
    return pd.DataFrame(rows).fillna("")


def markdown(table: pd.DataFrame) -> str:
    """The table for a page."""
    heads, *rows = cells(table)
    lines = [heads, ["---"] * len(heads), *rows]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped) + "\n"


def cells(table: pd.DataFrame) -> list[list[str]]:
    """The table as people read it, the titles first.

    `value ± error (low to high)` share a cell, to two digits of the error or else to four digits;
    keys are named by their last part, and the held-out text only where there are several.
    """
    columns = [str(c) for c in table.columns if not str(c).endswith((" ±", " low", " high"))]
    texts = {column.partition(": ")[0] for column in columns if ": " in column}
    short = [c.partition(": ")[2] if len(texts) == 1 and ": " in c else c for c in columns]
    last = [
        name if ": " in column else name.rpartition(".")[2] for name, column in zip(short, columns)
    ]
    heads = [s if last.count(s) == 1 else c for s, c in zip(last, short, strict=True)]
    rows = table.to_dict(orient="records")
    return [heads, *([_cell(row, column) for column in columns] for row in rows)]


def as_text(value: Any) -> str:
    """A setting or a number as a person would write it; of what has a name, `name(key=value)`, and
    of what is searched in it the key alone."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        inner = [
            str(key) if isinstance(each, Mapping) else f"{key}={as_text(each)}"
            for key, each in value.items()
            if key != "name"
        ]
        return f"{value.get('name', '')}({', '.join(inner)})" if inner else str(value["name"])
    if isinstance(value, list | tuple):
        return ", ".join(map(as_text, value))
    return str(value)


def differing_keys(runs: Sequence[RunDirectory]) -> list[str]:
    """The dotted keys of the configuration in which these runs differ."""
    return list(next(iter(_with_differences(runs)))[2]) if runs else []


def _with_differences(
    runs: Sequence[RunDirectory],
) -> list[tuple[RunDirectory, dict[str, Any], dict[str, Any]]]:
    """Each run with its manifest and what of its configuration is not the same in all of them."""
    manifests = [read_manifest(run.manifest, _Finished) for run in runs]
    flat = [_flat(_with_names(manifest["experiment"])) for manifest in manifests]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    varying = [key for key in keys if len({repr(settings.get(key)) for settings in flat}) > 1]
    return [
        (run, manifest, {key: settings.get(key) for key in varying})
        for run, manifest, settings in zip(runs, manifests, flat, strict=True)
    ]


def _found(run: RunDirectory, evaluation: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The row of what was found, beside one of the dense model."""
    names = [row["name"] for row in evaluation]
    found = found_in(evaluation) or FOUND
    for name in (DENSE, found):
        if name not in names:
            raise ConfigError(f"{run.evaluation}: has no row called {name!r}. {MEND}")
    return evaluation[names.index(found)]


def _of(evaluation: Sequence[Mapping[str, Any]], text: str) -> dict[str, Mapping[str, Any]]:
    return {row["name"]: row["texts"][text] for row in evaluation}


def _gained(gain: Mapping[str, float]) -> float:
    """Fewer nats a token are more gained; taken from 0, since the negative of 0 is written -0."""
    return 0.0 - gain["mean"]


def _short(text: str) -> str:
    """`SOURCE/SPLIT` of a text's full description."""
    return text.partition(",")[0]


def _with_names(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the recipe that it is around by its key: all of it is no cell."""
    named = dict(experiment)
    if (around := named.get("around")) is not None:
        named["around"] = Recipe.from_json(around, "around").key
    return named


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; a list is one value."""
    if not isinstance(data, Mapping):
        return {prefix: data}
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if prefix or key not in OF_NO_RESULT:
            flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return flat


def _with_error(numbers: Mapping[str, Any]) -> str:
    error = "" if numbers["error"] is None else f" ± {numbers['error']:.2f}"
    return f"{numbers['perplexity']:.2f}{error}"


def _cell(row: Mapping[str, Any], column: str) -> str:
    value, error = row[column], row.get(f"{column} ±")
    if value is None or value != value:
        return ""
    if error is None or error != error or error <= 0:
        form = as_text
    else:
        decimals = max(0, 1 - math.floor(math.log10(error)))

        def form(value: Any) -> str:
            return f"{value:.{decimals}f}"

    text = form(value)
    if form is not as_text:
        text += f" ± {form(error)}"
    low, high = row.get(f"{column} low"), row.get(f"{column} high")
    return f"{text} ({form(low)} to {form(high)})" if low != high else text
