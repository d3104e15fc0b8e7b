"""Paths in experiment files: what lies beside the file comes before what lies elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optishear.models.catalog import is_folder_meant


def located(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The content of an experiment file in `folder` with the paths in it as seen from here.

    `space`, `model`, `around` and the source of every text may be paths. One that is there beside
    the file is meant, wherever the command is run; any other stays as it is written: a name, or a
    path from where the command is run.
    """
    keys = ("space", "model", "around")
    here = {key: _beside(data[key], folder) for key in keys if key in data}
    if "text" in data:
        here["text"] = _texts(data["text"], folder)
    return {**data, **here}


def located_change(key: str, value: Any, folder: Path) -> Any:
    """The same for a value that the file gives to a dotted key elsewhere in it, under `vary`."""
    parts = key.split(".")
    data: Any = value
    for part in reversed(parts):
        data = {part: data}
    data = located(data, folder)
    for part in parts:
        data = data[part]
    return data


def _texts(texts: Any, folder: Path) -> Any:
    """Every `source` below, in texts by purpose and in lists of them."""
    if isinstance(texts, list):
        return [_texts(each, folder) for each in texts]
    if not isinstance(texts, Mapping):
        return texts
    return {
        key: _beside(inner, folder) if key == "source" else _texts(inner, folder)
        for key, inner in texts.items()
    }


def _beside(name: Any, folder: Path) -> Any:
    """The path of what is called so in `folder`; `name` itself where there is nothing."""
    if not isinstance(name, str) or not name or Path(name).expanduser().is_absolute():
        return name
    path = folder / name
    return str(path) if path.is_file() or is_folder_meant(name, path) else name
