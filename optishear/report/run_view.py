"""What figures are drawn from: a finished search's front, all measured beside it, the pick."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from optishear.errors import ConfigError
from optishear.recipe.layout import ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.records.packed import is_there
from optishear.records.run_directory import RunDirectory
from optishear.records.run_files import Row, read_evaluation, read_front
from optishear.report.comparison import name_of, of_the_search
from optishear.report.convergence_figure import Outcome
from optishear.report.evaluations import evaluations_table
from optishear.report.front_figure import FrontView
from optishear.report.style import Quantity
from optishear.search.finalists import Finalists


@dataclass(frozen=True)
class RunView:
    """What the figures of one run are drawn from.

    - `evaluations`: rows of `evaluations_table` at the front's rung, in the order made; values of
      other rungs cannot be compared with them.
    - `outcomes`: their objectives, None for a failure.
    - `found`: the row of `evaluations` that is the pick.
    """

    title: str
    layout: ModelLayout
    pick: Recipe
    front: FrontView
    front_keys: tuple[str, ...]
    evaluations: pd.DataFrame
    outcomes: tuple[Outcome, ...]
    found: int

    @property
    def made(self) -> pd.DataFrame:
        """The evaluations that succeeded."""
        return self.evaluations.query("reason == ''")

    def values(self, quantity: str) -> pd.Series:
        """A recorded quantity of every evaluation; missing where it failed."""
        return pd.Series(self.evaluations[f"value.{quantity}"])


def read_run(run: RunDirectory) -> RunView:
    """From front.json, journal.jsonl and, where it is there, evaluation.json.

    A run without an evaluation has no baselines to show. A `ConfigError` says which file is
    missing, or does not go with the others.
    """
    front = read_front(run)
    quantities = tuple(
        Quantity(data["name"], data["unit"], data["maximise"]) for data in front["objectives"]
    )
    names = [quantity.name for quantity in quantities]
    keys = [entry["key"] for entry in front["entries"]]
    needed = list(dict.fromkeys([*keys, front["picked"]] if keys else keys))
    evaluations = _at_the_fronts_rung(run, needed, names)
    outcomes = [
        None if row[0] is None else tuple(row)
        for row in evaluations[[f"value.{name}" for name in names]]
        .astype(object)
        .where(evaluations.reason == "", None)
        .to_numpy()
        .tolist()
    ]
    if not keys:
        raise ConfigError(f"{run.front}: holds no recipe, so there is nothing to draw.")
    layout, picked = ModelLayout.from_json(front["layout"]), _picked(front)
    view = FrontView(
        quantities=quantities,
        candidates=np.array([outcome for outcome in outcomes if outcome is not None]),
        front=np.array([_point(entry["values"], names) for entry in front["entries"]]),
        picked=_point(picked.values, names),
        pick=front["pick"],
        baselines=_baselines(run, names),
        failed=outcomes.count(None),
    )
    return RunView(
        title=f"{front['experiment']} · {front['model']}",
        layout=layout,
        pick=picked.recipe,
        front=view,
        front_keys=tuple(keys),
        evaluations=evaluations,
        outcomes=tuple(outcomes),
        found=evaluations.key.tolist().index(front["picked"]),
    )


@dataclass(frozen=True)
class _Picked:
    """The pick as the search has measured it: a finalist need not be on the front."""

    recipe: Recipe
    values: Mapping[str, float]


def _picked(front: Mapping[str, Any]) -> _Picked:
    if said := front.get("finalists"):
        final = Finalists.from_json(said).final
        return _Picked(final.recipe, final.one_shot)
    [entry] = [entry for entry in front["entries"] if entry["key"] == front["picked"]]
    return _Picked(Recipe.from_json(entry["recipe"], entry["key"]), entry["values"])


def _at_the_fronts_rung(run: RunDirectory, keys: list[str], objectives: list[str]) -> pd.DataFrame:
    """The evaluations of the rung that the front is from, which is the one with most tokens."""
    if not is_there(run.journal):
        raise ConfigError(f"{run.journal}: is not there, and the figures show what is in it.")
    table = evaluations_table(run)
    top = table.rung[table.key.isin(keys)].max()
    table = pd.DataFrame(table[table.rung == top]).reset_index(drop=True)
    if missing := sorted(set(keys) - set(table.key)):
        raise ConfigError(
            f"{run.journal}: {len(missing)} of the {len(keys)} recipes in {run.front.name} were "
            f"not evaluated here, first {missing[0]!r}. Run the search again to go on."
        )
    if missing := [name for name in objectives if f"value.{name}" not in table]:
        raise ConfigError(f"{run.journal}: has no {missing[0]!r}, which {run.front.name} is of.")
    return table


def _baselines(run: RunDirectory, names: list[str]) -> dict[str, tuple[float, ...]]:
    if not is_there(run.evaluation):
        return {}
    rows = read_evaluation(run, Row)
    return {
        name_of(row): _point(row["search"], names)
        for row in of_the_search(rows)
        if row.get("search") and set(names) <= set(row["search"])
    }


def _point(values: Mapping[str, float], names: list[str]) -> tuple[float, ...]:
    return tuple(float(values[name]) for name in names)
