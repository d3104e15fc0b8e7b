"""All that a run has measured as one table, from its files alone, while it runs or afterwards."""

import pandas as pd

from optishear.recipe.features import features
from optishear.recipe.layout import ModelLayout
from optishear.records.journal import read_journal, recipe_of
from optishear.records.run_directory import RunDirectory, read_json


def evaluations_table(run: RunDirectory) -> pd.DataFrame:
    """One row an evaluation, in the order made.

    Columns: `key`, `rung` (search tokens; values compare within one rung only), `seconds`, `reason`
    (empty where it succeeded), `value.QUANTITY` for all that was recorded, and the recipe's
    `features` under their own names. What does not apply to a row is missing there.
    """
    header, entries, _ = read_journal(run.journal)
    layout = layout_of_run(run)
    rows = [
        {
            "key": entry["key"],
            "rung": entry["rung"],
            "seconds": entry["seconds"],
            "reason": entry["reason"],
            **{f"value.{name}": value for name, value in (entry["values"] or {}).items()},
            **features(recipe_of(entry, (header or {})["layers"]), layout),
        }
        for entry in entries
    ]
    return pd.DataFrame(rows, columns=None if rows else ["key", "rung", "seconds", "reason"])


def layout_of_run(run: RunDirectory) -> ModelLayout:
    """The layers of the model that the run is about; older runs say it in the front."""
    if run.layout.exists():
        return ModelLayout.from_json(read_json(run.layout))
    return ModelLayout.from_json(read_json(run.front)["layout"])
