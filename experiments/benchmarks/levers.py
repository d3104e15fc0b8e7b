"""Which lever is worth its time: what METHOD/lever=... gains on METHOD, and how long it takes."""

import json

import pandas as pd
from frames import where

from optishear.evaluation.paired import paired_difference


LEVER = "/"  # begins what a method is asked for beyond its name


def lever_lines(rows: pd.DataFrame) -> list[str]:
    """A table for each method with levers, of rows on one text; none where there are none."""
    lines: list[str] = []
    for method in dict.fromkeys(name.partition(LEVER)[0] for name in rows.method):
        own = where(rows, rows.method.str.startswith(method + LEVER))
        plain = where(rows, rows.method == method)
        if own.empty or plain.empty:
            continue
        settings = settings_of(own)
        lines += [
            f"What levers gain on {method}, in nats per token: the mean over calibration seeds, "
            f"± their standard deviation; of one seed (*) the paired difference ± its standard "
            f"error over sequences. Times: median of the lever's seconds over {method}'s on the "
            f"same calibration text.",
            "",
            "| lever | " + " | ".join(map(heading, settings)) + " | times |",
            "| --- |" + " --- |" * (len(settings) + 1),
        ]
        for name in dict.fromkeys(own.method):
            levered = where(own, own.method == name)
            cells = [gain_cell(of(plain, setting), of(levered, setting)) for setting in settings]
            words = name.removeprefix(method + LEVER).replace(LEVER, ", ")
            lines.append(f"| {words} | " + " | ".join([*cells, times_cell(plain, levered)]) + " |")
        lines.append("")
    return lines


def settings_of(rows: pd.DataFrame) -> list[str]:
    """Sparsities first, then patterns."""
    return sorted(set(rows.setting), key=lambda setting: (":" in setting, setting))


def of(rows: pd.DataFrame, setting: str) -> pd.DataFrame:
    return where(rows, rows.setting == setting)


def heading(setting: str) -> str:
    return setting if ":" in setting else f"{100 * float(setting):g} %"


def gain_cell(plain: pd.DataFrame, levered: pd.DataFrame) -> str:
    """Of the calibration texts on which both were measured."""
    before, after = (x.set_index("calibration") for x in (plain, levered))
    both = [text for text in after.index if text in before.index]
    if not both:
        return ""
    if len(both) == 1:
        nats = (json.loads(x.loc[both[0]].sequence_nats) for x in (before, after))
        gain, error = paired_difference(*nats)
        return f"{gain:+.4f} ± {error:.4f}*"
    gains = before.loc[both].nats - after.loc[both].nats
    return f"{gains.mean():+.4f} ± {gains.std():.4f} ({len(both)})"


def times_cell(plain: pd.DataFrame, levered: pd.DataFrame) -> str:
    by = ["setting", "calibration"]
    both = plain.merge(levered, on=by, suffixes=("_plain", "_levered"))
    ratios = (both.prune_seconds_levered / both.prune_seconds_plain).dropna()
    return "" if ratios.empty else f"{ratios.median():.1f}"
