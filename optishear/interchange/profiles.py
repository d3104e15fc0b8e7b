"""Layer counts from a foreign file's numbers, and how far from the numbers the counts are."""

import csv
import io
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from optishear.errors import ConfigError
from optishear.reading.json_data import json_of as strict_json
from optishear.recipe.layout import ModelLayout
from optishear.recipe.lookup import did_you_mean


@dataclass(frozen=True)
class Deviation:
    """The layer whose sparsity moved most by rounding, and what became of the whole."""

    layer: str
    by: float
    wanted: float
    got: float

    def __str__(self) -> str:
        if self.by == 0:
            return f"every layer keeps its exact count; sparsity {100 * self.got:.4f} %"
        return (
            f"largest deviation {100 * self.by:+.4f} percentage points, in {self.layer}; "
            f"sparsity {100 * self.wanted:.4f} % became {100 * self.got:.4f} %"
        )


def deviation(
    wanted: Mapping[str, int | float], got: Mapping[str, int | float], layout: ModelLayout
) -> Deviation:
    """Both are weights dropped by layer; `wanted` may be fractions of a weight."""
    by = {
        layer.name: (got[layer.name] - wanted[layer.name]) / layer.size for layer in layout.layers
    }
    worst = max(by, key=lambda name: abs(by[name]))
    sums = (sum(counts.values()) / layout.total for counts in (wanted, got))
    return Deviation(worst, by[worst], *sums)


def check_names(names: Iterable[str], layout: ModelLayout, where: str) -> None:
    """Raises a `ConfigError` unless these are the layout's layers, each once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConfigError(f"{where}: names {name!r} twice.")
        if name not in layout.by_name:
            raise ConfigError(
                f"{where}: names a layer {name!r} that the model lacks."
                f"{did_you_mean(name, layout.by_name)} Was it made for another model?"
            )
        seen.add(name)
    if missing := [name for name in layout.sizes if name not in seen]:
        raise ConfigError(
            f"{where}: says nothing of {len(missing)} of the model's {len(layout.layers)} layers, "
            f"first {missing[0]!r}. Was it made for another model?"
        )


def refuse_fused_experts(layout: ModelLayout, tool: str) -> None:
    """Tools that know layers by module cannot name one expert of a 3-D parameter."""
    for layer in layout.layers:
        if layer.name.rpartition(".")[2].isdigit():
            raise ConfigError(
                f"{layer.name} is one expert inside a 3-D parameter: {tool} names whole modules, "
                f"so this profile cannot be written for it. Export the recipe or the profile."
            )


def rows_of(text: str, where: str) -> list[dict[str, Any]]:
    """A table as CSV with a header, or as a JSON list of objects; numbers are numbers."""
    if text.lstrip().startswith("["):
        return json_of(text, where)
    rows = list(csv.DictReader(io.StringIO(text)))
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ConfigError(f"{where}: line {number} has not as many fields as the header.")
    return [{key: _number(value) for key, value in row.items()} for row in rows]


def json_of(text: str, where: str) -> Any:
    return strict_json(text, where, fault="is no JSON")


def read_profile(
    text: str, where: str, layout: ModelLayout
) -> tuple[dict[str, int], dict[str, float]]:
    """Weights to drop by layer, and λ by layer where the profile has it.

    What `optishear export` writes as profile.csv or profile.json; of its columns `layer` and `drop`
    are read, and `lambda` if it is there. `weights`, if there, must be the model's.
    """
    rows = rows_of(text, where)
    drop: dict[str, int] = {}
    lambdas: dict[str, float] = {}
    check_names((str(row.get("layer")) for row in rows), layout, where)
    for row in rows:
        name, count = str(row["layer"]), row.get("drop")
        size = layout.sizes[name]
        if row.get("weights", size) != size:
            raise ConfigError(
                f"{where}: {name} has {row['weights']} weights there and {size} in the model. Was "
                f"it made for another model?"
            )
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < size:
            raise ConfigError(
                f"{where}: drop of {name} is {count!r}, expected a count of its {size} weights."
            )
        drop[name] = count
        if "lambda" in row:
            lambdas[name] = checked_number(row["lambda"], f"{where}: lambda of {name}")
    return {name: drop[name] for name in layout.sizes}, lambdas


def checked_number(value: Any, where: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not abs(value) <= sys.float_info.max:  # which nan is not, nor a huge integer
        raise ConfigError(f"{where} is {value!r}, expected a number.")
    return float(value)


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
