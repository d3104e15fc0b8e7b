"""The table of all that a run has measured, from its files alone, while it runs or afterwards."""

import pandas as pd

from optishear.errors import ConfigError
from optishear.recipe.features import features, in_one_table
from optishear.records.journal import read_journal, recipe_of
from optishear.records.run_directory import RunDirectory
from optishear.records.run_files import layout_of_run


def evaluations_table(run: RunDirectory) -> pd.DataFrame:
    """One row an evaluation, in the order made.

    Columns: `key`, `rung` (search tokens; values compare within one rung only), `seconds`, `reason`
    (empty where it succeeded), `value.QUANTITY` for all that was recorded, and the recipe's
    `features` under their own names. What does not apply to a row is missing there.
    """
    header, entries, _ = read_journal(run.journal)
    layout, layers = layout_of_run(run), (header or {}).get("layers", [])
    if entries and layers != list(layout.sizes):
        raise ConfigError(
            f"{run.journal}: is of other layers than {run.layout.name} names. Put back the journal "
            f"of this run."
        )
    said = in_one_table([features(recipe_of(entry, layers), layout) for entry in entries], layout)
    rows = [
        {
            "key": entry["key"],
            "rung": entry["rung"],
            "seconds": entry["seconds"],
            "reason": entry["reason"],
            **{f"value.{name}": value for name, value in (entry["values"] or {}).items()},
            **row,
        }
        for entry, row in zip(entries, said)
    ]
    return pd.DataFrame(rows, columns=None if rows else ["key", "rung", "seconds", "reason"])
