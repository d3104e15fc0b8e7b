"""Columns of what differed between a run's recipes, few, and each saying something of its own.

A recipe has a sparsity a block and one a role, and so has λ; of what repeats the rest, one is kept.
"""

import re

import numpy as np
import pandas as pd

from optishear.recipe.features import OF_ROLE
from optishear.report.profile_figure import short_names


BANDS = 8  # more blocks than these are put together to so many bands of neighbours
# Blocks (or roles) that never differ by more within one recipe differ by rounding alone.
ROUNDING = 0.02


def varying(evaluations: pd.DataFrame) -> pd.DataFrame:
    """The features in which these evaluations differ, one a column under a name for readers.

    Numbers stay numbers, names stay text, and what does not apply to a recipe is missing. Of
    many blocks neighbours are averaged to a band. Blocks are left out where all are alike in each
    recipe, roles likewise; if both are alike and only the whole varies, it is one column. A recipe
    that mixes no λ has λ = 1.
    """
    columns = _settings(evaluations)
    for prefix, word in (("sparsity", "sparsity"), ("lambda", "λ")):
        columns |= _profile(evaluations, prefix, word)
    return pd.DataFrame(columns, index=evaluations.index)


def _settings(evaluations: pd.DataFrame) -> dict[str, pd.Series]:
    """Of roles with parts of their own those that are alike in every recipe are one column."""
    found: list[tuple[str, list[str], pd.Series]] = []
    for name, column in evaluations.items():
        if not re.match(r"(metric|solver|pattern|damping)\b", str(name)) or not _differs(column):
            continue
        setting, _, role = str(name).partition(OF_ROLE)
        same = [roles for other, roles, seen in found if other == setting and column.equals(seen)]
        if role and same:
            same[0].append(role)
        else:
            found.append((setting, [role] if role else [], column))
    return {
        ", ".join([_setting(setting), *short_names(roles)]): column
        for setting, roles, column in found
    }


def _profile(evaluations: pd.DataFrame, prefix: str, word: str) -> dict[str, pd.Series]:
    neutral = 1.0 if prefix == "lambda" else np.nan
    blocks = _differing(evaluations.filter(regex=rf"^{prefix}\.block\.").fillna(neutral))
    roles = _differing(evaluations.filter(regex=rf"^{prefix}\.role\.").fillna(neutral))
    columns: dict[str, pd.Series] = {}
    if _spread(blocks) > ROUNDING:
        columns |= _bands(blocks, word)
    if _spread(roles) > ROUNDING:
        names = short_names([name.removeprefix(f"{prefix}.role.") for name in roles])
        columns |= {f"{word}, {name}": roles[role] for name, role in zip(names, roles)}
    if not columns and (blocks or roles):
        columns = {f"{word}, all alike": pd.DataFrame(blocks or roles).mean(axis=1)}
    return columns


def _bands(blocks: dict[str, pd.Series], word: str) -> dict[str, pd.Series]:
    """A column a block, or means of neighbouring blocks under `word, blocks 0–3`."""
    if len(blocks) <= BANDS:
        return {f"{word}, block {_number(name)}": column for name, column in blocks.items()}
    columns = {}
    for names in np.array_split(list(blocks), BANDS):
        band = pd.DataFrame({name: blocks[name] for name in names.tolist()})
        title = f"{word}, blocks {_number(names[0])}–{_number(names[-1])}"
        columns[title] = band.mean(axis=1)
    return columns


def _number(name: str) -> int:
    return int(name.rsplit(".", 1)[1])


def _setting(name: str) -> str:
    """`metric.alpha` as "metric: alpha"; the first part alone is the choice itself."""
    part, _, setting = name.partition(".")
    return f"{part}: {setting}" if setting else part


def _differing(columns: pd.DataFrame) -> dict[str, pd.Series]:
    return {str(name): column for name, column in columns.items() if _differs(column)}


def _differs(column: pd.Series) -> bool:
    return column.nunique() > 1


def _spread(columns: dict[str, pd.Series]) -> float:
    """The most by which these differ within one row."""
    if len(columns) < 2:
        return 0.0
    return float(np.ptp(np.stack([column.to_numpy(float) for column in columns.values()]), 0).max())
