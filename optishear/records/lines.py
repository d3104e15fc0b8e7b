"""A journal's lines as data that can be relied on: whatever is no header or entry is refused here.

Whoever reads a journal reads it through this, so nobody else has to ask what an entry holds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from optishear.errors import ConfigError
from optishear.reading.json_data import json_of
from optishear.reading.shapes import Shape, shaped
from optishear.reading.texts import decoded
from optishear.recipe.recipe import BY_BLOCK, SAID, Recipe
from optishear.recipe.recipe import FORMAT as RECIPE_FORMAT


FORMAT = "optishear-journal/1"
MOST = 2**53  # tokens
ANOTHER_HEADER = "Restore the file, or move it away: the same `optishear search` then begins anew."
WITHOUT_IT = (
    "Restore the file, or take that line out: the same `optishear search` then measures anew what "
    "it was about."
)


class Measure(Shape):
    """Of all that values depend on, what has to be in every one of them."""

    quantities: list[str] = Field(default_factory=list)


class Header(Shape):
    """What all values of a journal are of, and the layers that its counts are of."""

    format: str
    measure: Measure
    layers: list[str]


class Entry(Shape):
    """One evaluation. A failure has a reason and no values."""

    key: str
    rung: int = Field(ge=1, le=MOST)
    values: dict[str, float] | None
    reason: str
    seconds: float = Field(ge=0)
    memo: bool = False
    slopes: list[float] | None = None
    metric: dict[str, Any]
    pattern: str
    solver: dict[str, Any]
    quadratic: dict[str, Any] = Field(default_factory=dict)
    roles: list[dict[str, Any]] = Field(default_factory=list)
    order: str = BY_BLOCK
    reconstruct: dict[str, Any] = Field(default_factory=dict)
    drop: list[int]


def parsed(
    content: bytes, path: Path, header: dict[str, Any] | None, read: int = 0
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The header and the entries of whole lines, `read` of which came before, the header among them
    if it is given. Raises a `ConfigError` of the first line that is neither."""
    entries = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=read + 1):
        where = f"{path}, line {number}"
        data = _json(line, path, number, ANOTHER_HEADER if header is None else WITHOUT_IT)
        if header is None:
            header = _header(data, path, where)
        else:
            entries.append(_entry(data, header, where))
    return header, entries


def _json(line: bytes, path: Path, number: int, mend: str) -> Any:
    where = f"{path}, line {number}"
    try:
        return json_of(decoded(line, str(path), number), where, "")
    except ConfigError as error:
        why = str(error).removeprefix(f"{where}: ").strip()
        raise ConfigError(f"{where}: damaged in the middle, it {why} {mend}") from None


def _header(data: Any, path: Path, where: str) -> dict[str, Any]:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ConfigError(f"{path}: not a journal of this version ({FORMAT}). Move it away.")
    header = shaped(Header, data, where, ANOTHER_HEADER)
    if len(set(header.layers)) < len(header.layers):
        raise ConfigError(f"{where}: layers: one is named twice. {ANOTHER_HEADER}")
    return data


def _entry(data: Any, header: Mapping[str, Any], where: str) -> dict[str, Any]:
    if isinstance(data, dict) and "format" in data and "layers" in data:
        raise ConfigError(
            f"{where}: is the first line of a journal, so two were put into one file. {WITHOUT_IT}"
        )
    entry = shaped(Entry, data, where, WITHOUT_IT)
    if why := _contradiction(entry, header):
        raise ConfigError(f"{where}: {why}. {WITHOUT_IT}")
    layers = header["layers"]
    told = {"format": RECIPE_FORMAT, "drop": dict(zip(layers, entry.drop, strict=True))}
    told |= {key: data[key] for key in SAID if key in data}
    try:
        key = Recipe.from_json(told, where).key
    except ConfigError as error:
        raise ConfigError(f"{error} {WITHOUT_IT}") from None
    if key != entry.key:
        raise ConfigError(
            f"{where}: key: is {entry.key!r}, but its recipe has {key!r}: one of them was changed. "
            f"{WITHOUT_IT}"
        )
    return data


def _contradiction(entry: Entry, header: Mapping[str, Any]) -> str:
    """What of the line does not go with the rest of it or with the first line, if anything."""
    if len(entry.drop) != len(header["layers"]):
        return f"drop: has {len(entry.drop)} counts for {len(header['layers'])} layers"
    if entry.slopes is not None and len(entry.slopes) != len(header["layers"]):
        return f"slopes: has {len(entry.slopes)} numbers for {len(header['layers'])} layers"
    if (entry.values is None) != bool(entry.reason):
        return "values and reason: an evaluation has one of them, the values or why there are none"
    values = entry.values
    for name in () if values is None else header["measure"].get("quantities", ()):
        if name not in values:
            return f"values: {name!r} is missing, which is measured"
    return ""
