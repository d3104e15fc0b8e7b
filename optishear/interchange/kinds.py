"""Which foreign format a file is, by its content; where two are possible the user is asked."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optishear.errors import ConfigError
from optishear.interchange.profiles import json_of
from optishear.recipe.recipe import FORMAT, FORMAT_1


EVOPRESS, RATIOS, PROFILE, PRUNER_ZERO = "evopress", "ratios", "profile", "pruner-zero"
KINDS: Mapping[str, str] = {
    EVOPRESS: "lines of `layer: level`, as EvoPress writes them",
    RATIOS: "fractions by block or layer, as JSON, CSV or text",
    PROFILE: "profile.csv or profile.json of `optishear export`",
    PRUNER_ZERO: "a metric as a tree, as Pruner-Zero saves it, or as a formula",
}
MOST_BYTES = 2**26


def read_text(path: Path) -> str:
    """The file's text, or a `ConfigError` that says what to do with a file that is none."""
    if path.suffix == ".safetensors":
        raise ConfigError(
            f"{path}: is a safetensors file. Masks are used with `optishear prune --mask-from`."
        )
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path}: has over {MOST_BYTES // 2**20} MB, which no profile has.")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise ConfigError(f"{path}: could not be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is no text. Pickles and arrays are not read.") from None


def kind_of(text: str, where: str) -> str:
    """The only kind that the content can be, or a `ConfigError` that asks for `--kind`."""
    stripped = text.strip()
    if not stripped:
        raise ConfigError(f"{where}: is empty.")
    kind = _json_kind(stripped, where) if stripped[0] in "{[" else _text_kind(stripped)
    if kind is None:
        kinds = "; ".join(f"{name} ({what})" for name, what in KINDS.items())
        raise ConfigError(f"{where}: is of no kind that is recognised. Say --kind: {kinds}.")
    return kind


def _json_kind(text: str, where: str) -> str | None:
    if re.fullmatch(r"\[[\s\d.,eE+-]*\]", text):
        return RATIOS  # also as numpy prints it, which is no JSON
    data: Any = json_of(text, where)
    if isinstance(data, dict):
        if data.get("format") in (FORMAT, FORMAT_1):
            raise ConfigError(f"{where}: is a recipe already. Use `optishear prune --recipe`.")
        if isinstance(data.get("data"), str):
            return PRUNER_ZERO
        numbers = [v for v in data.values() if isinstance(v, int | float | list | dict)]
        return RATIOS if data and len(numbers) == len(data) else None
    if data and all(isinstance(row, dict) and "layer" in row for row in data):
        return PROFILE if "drop" in data[0] and "weights" in data[0] else RATIOS
    return None


def _text_kind(text: str) -> str | None:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    header = [column.strip() for column in lines[0].split(",")]
    if "layer" in header:
        return PROFILE if {"drop", "weights"} <= set(header) else RATIOS
    if all(":" in line for line in lines):
        values = [line.rpartition(":")[2].strip() for line in lines]
        if all(re.fullmatch(r"[+-]?\d+", value) for value in values):
            return EVOPRESS
        return RATIOS if all(map(_is_number, values)) else None
    words = re.sub(r"[\[\](),;]", " ", text).split()
    if all(map(_is_number, words)):
        return RATIOS
    return PRUNER_ZERO if re.fullmatch(r"[A-Za-z_]\w*\s*(\(.*\))?", text, re.DOTALL) else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
