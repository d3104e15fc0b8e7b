"""Files beside a dense model's weights that go with the pruned one: tokenizer, licence, code.

Carried is every file that is no weight, index of weights, pickle or cache, byte for byte. Only
what would no longer be true is changed: the dtype in config.json, and an `auto_map` that names
code which is not there.
"""

import json
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch


WEIGHTS = {
    ".safetensors", ".gguf", ".ggml", ".h5", ".hdf5", ".msgpack", ".onnx", ".onnx_data", ".tflite",
    ".npz", ".npy", ".mlmodel", ".mlpackage", ".engine", ".llamafile",
}  # fmt: skip
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".pickl", ".joblib", ".ot", ".nemo"}
INDEX = re.compile(r".+\.index(\.\w+)?\.json")
CACHES = {"__pycache__"}
NAMED = 5  # files that a note names


def carry(
    source: Path,
    to: Path,
    weights: Collection[Path],
    ours: Collection[str],
    dtype: torch.dtype,
    saved_as: torch.dtype | None,
) -> list[str]:
    """Copies them into `to`, and returns notes on what was left behind or changed.

    - `weights`: the files of the checkpoint itself. `ours`: names of what is written anew.
    - `dtype`: of most numbers that are written. `saved_as`: the type of all, if one was asked for.
    """
    left: list[Path] = []
    notes: list[str] = []
    for path in sorted(_files(source, to, left)):
        if path.name in ours or INDEX.fullmatch(path.name):
            continue
        inside = path.relative_to(source)
        if path.suffix.lower() in WEIGHTS | PICKLES:
            left.append(inside)
            continue
        target = to / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        if path.suffix == ".json":
            notes += _correct(target, source, dtype, saved_as, inside == Path("config.json"))
    known = {path.relative_to(source) for path in weights}
    if left := sorted(set(left) - known):
        names = ", ".join(map(str, left[:NAMED]))
        more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
        notes.append(
            f"not carried over, for they are pickles, other weights or links out of the folder: "
            f"{names}{more}"
        )
    return notes


def _files(folder: Path, to: Path, left: list[Path], top: Path | None = None) -> Iterator[Path]:
    """All files but those in hidden folders, caches, `to`, and checkpoints of their own; links that
    lead out of the model's folder are written into `left`."""
    top = top or folder
    for path in folder.iterdir():
        if path.is_symlink() and not _inside(path, top):
            left.append(path.relative_to(top))
        elif path.is_dir():
            own = (path / "config.json").exists() and any(path.glob("*.safetensors"))
            hidden = path.name.startswith(".") or path.name in CACHES or path.is_symlink()
            if not (hidden or own or path.resolve() == to.resolve()):
                yield from _files(path, to, left, top)
        elif path.is_file():
            yield path


def _inside(link: Path, top: Path) -> bool:
    """Whether it leads to what is the model's: in its folder, or where the hub's cache keeps it."""
    roots = [top.resolve()]
    if top.parent.name == "snapshots":
        roots.append(top.parent.parent.resolve() / "blobs")
    try:
        return any(link.resolve(strict=True).is_relative_to(root) for root in roots)
    except (OSError, RuntimeError):  # dangling, or in a circle
        return False


def _correct(
    path: Path, source: Path, dtype: torch.dtype, saved_as: torch.dtype | None, config: bool
) -> list[str]:
    """Rewrites a file where it would say what is not so; returns what was dropped of it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return []  # not ours to judge: it is carried as it is
    if not isinstance(data, dict):
        return []
    before = json.dumps(data)
    dropped = _drop_dead_code(data, source)
    if config:
        _say_dtype(data, dtype, saved_as)
    if json.dumps(data) != before:
        text = json.dumps(data, indent=2, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
    name = path.name
    return [f"{name}: auto_map dropped {what}, whose code is not in the folder" for what in dropped]


def _drop_dead_code(data: dict[str, Any], source: Path) -> list[str]:
    """Takes out of `auto_map` what names a module that is not there; code on the hub stays."""
    auto_map = data.get("auto_map")
    if not isinstance(auto_map, dict):
        return []
    dead = []
    for what, classes in list(auto_map.items()):
        names = classes if isinstance(classes, list) else [classes]
        modules = [name.rpartition(".")[0] for name in names if isinstance(name, str)]
        here = [module for module in modules if "--" not in module]
        if any(not _has_code(source, module) for module in here):
            dead.append(what)
            del auto_map[what]
    if not auto_map:
        del data["auto_map"]
    return dead


def _has_code(source: Path, module: str) -> bool:
    path = source.joinpath(*module.split(".")).with_suffix(".py")
    return path.is_file() and (not path.is_symlink() or _inside(path, source))


def _say_dtype(data: dict[str, Any], dtype: torch.dtype, saved_as: torch.dtype | None) -> None:
    """Under the name that the file has for it (older ones say `torch_dtype`). Parts of a model that
    have their own say the same only where all of it was saved in one type."""
    keys = [key for key in ("dtype", "torch_dtype") if key in data] or ["dtype"]
    for key in keys:
        data[key] = str(dtype).removeprefix("torch.")
    if saved_as is None:
        return
    for part in data.values():
        if isinstance(part, dict) and ("dtype" in part or "torch_dtype" in part):
            _say_dtype(part, saved_as, saved_as)
