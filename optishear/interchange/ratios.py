"""Lists of layer or block ratios, as OWL, AlphaPruning and others print or save them.

The trap is what a number means. OWL's own `all_layer_ratio` is the fraction that is kept, its
`--sparsity_ratio` the fraction that goes, and llm-compressor's `sparsity` list the one that goes.
So a list without a name for its numbers is only read with the meaning said.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optishear.errors import ConfigError
from optishear.interchange.profiles import check_names, checked_number, json_of, rows_of
from optishear.recipe.layout import ModelLayout
from optishear.recipe.lookup import lookup


KEEP, DROP = "keep", "drop"
MEANINGS = {KEEP: KEEP, DROP: DROP}
NAMES = {"sparsity": DROP, "density": KEEP, DROP: DROP, KEEP: KEEP}  # of columns and JSON keys


@dataclass(frozen=True)
class Ratios:
    """Numbers by layer name, or one after the other; `meaning` where the file itself says it."""

    values: Mapping[str, float] | tuple[float, ...]
    meaning: str | None = None


def parse_ratios(text: str, where: str) -> Ratios:
    """JSON ([0.7, ...], {"layer": 0.7}, {"density": [...]}), CSV (layer and sparsity or density),
    lines of `layer: 0.7`, or plain numbers with commas, blanks, lines or brackets between them."""
    stripped = text.strip()
    if stripped.startswith("{") or re.match(r"\[\s*\{", stripped):
        return _of_json(json_of(stripped, where), where)
    if ":" in stripped:
        return Ratios(_named_lines(stripped, where))
    first = stripped.splitlines()[0] if stripped else ""
    if re.search("[A-Za-z_]+ *,", first) and "nan" not in first:
        return _of_rows(rows_of(stripped, where), where)
    words = re.sub(r"[\[\](),;]", " ", stripped).split()
    return Ratios(tuple(_number(word, f"{where}: number {i}") for i, word in enumerate(words, 1)))


def sparsities_of(
    ratios: Ratios, meaning: str | None, layout: ModelLayout, where: str
) -> dict[str, float]:
    """The fraction to drop of every layer. A list is by block or by layer, as its length says."""
    if meaning is not None:
        lookup(MEANINGS, meaning, kind="meaning of ratios")
    if None not in (meaning, ratios.meaning) and meaning != ratios.meaning:
        raise ConfigError(
            f"{where}: its numbers are called {ratios.meaning} there, but --meaning says {meaning}."
        )
    told = meaning or ratios.meaning
    if told is None:
        raise ConfigError(
            f"{where}: does not say whether a ratio is what goes or what stays. Add --meaning drop "
            f"(sparsities) or --meaning keep (densities, as OWL prints them)."
        )
    by_name = _by_name(ratios.values, layout, where)
    drop = {name: value if told == DROP else 1 - value for name, value in by_name.items()}
    for name, sparsity in drop.items():
        if not 0 <= sparsity < 1:
            hint = " Are they percentages?" if by_name[name] > 1 else ""
            raise ConfigError(
                f"{where}: the ratio of {name} is {by_name[name]:g} ({told}), but a layer drops a "
                f"fraction in [0, 1).{hint}"
            )
    return drop


def _by_name(
    values: Mapping[str, float] | Sequence[float], layout: ModelLayout, where: str
) -> dict[str, float]:
    if isinstance(values, Mapping):
        check_names(values, layout, where)
        return {name: values[name] for name in layout.sizes}
    if len(values) == layout.blocks:
        return {layer.name: values[layer.block] for layer in layout.layers}
    if len(values) == len(layout.layers):
        return dict(zip(layout.sizes, values, strict=True))
    raise ConfigError(
        f"{where}: has {len(values)} numbers, but the model has {layout.blocks} blocks and "
        f"{len(layout.layers)} layers. Give one a block, or one a layer in profile.csv's order."
    )


def _of_json(data: Any, where: str) -> Ratios:
    if isinstance(data, list):
        return _of_rows(data, where)
    if len(data) == 1 and next(iter(data)) in NAMES:
        [(name, values)] = data.items()
        if isinstance(values, list):
            return Ratios(_numbers(values, where), NAMES[name])
        if isinstance(values, dict):
            return Ratios(_checked(values, where), NAMES[name])
    return Ratios(_checked(data, where))


def _of_rows(rows: Sequence[Any], where: str) -> Ratios:
    first = rows[0] if rows and isinstance(rows[0], dict) else {}
    columns = [name for name in first if name in NAMES]
    if "layer" not in first or len(columns) != 1:
        raise ConfigError(
            f"{where}: its columns are {', '.join(map(str, first)) or 'none'}; expected layer, and "
            f"one of sparsity (drop) and density (keep)."
        )
    [column] = columns
    values: dict[str, float] = {}
    for row in rows:
        if not isinstance(row, dict) or not {"layer", column} <= set(row):
            raise ConfigError(f"{where}: a row has no layer or no {column}: {row!r}.")
        if (name := str(row["layer"])) in values:
            raise ConfigError(f"{where}: names {name!r} twice.")
        values[name] = checked_number(row[column], f"{where}: {column} of {name}")
    return Ratios(values, NAMES[column])


def _named_lines(text: str, where: str) -> dict[str, float]:
    values: dict[str, float] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, _, ratio = (part.strip() for part in line.rpartition(":"))
        if name in values:
            raise ConfigError(f"{where}: line {number} names {name!r} for the second time.")
        values[name] = _number(ratio, f"{where}: line {number}")
    return values


def _checked(values: Mapping[str, Any], where: str) -> dict[str, float]:
    return {
        name: checked_number(value, f"{where}: the ratio of {name}")
        for name, value in values.items()
    }


def _numbers(values: Sequence[Any], where: str) -> tuple[float, ...]:
    return tuple(checked_number(v, f"{where}: number {i}") for i, v in enumerate(values, 1))


def _number(word: str, where: str) -> float:
    try:
        return checked_number(float(word), where)
    except ValueError:
        raise ConfigError(f"{where} is {word[:40]!r}, expected a number.") from None
