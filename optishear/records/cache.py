"""The cache: what is computed once, where it lies, all that it depends on. The one list of both.

A value is found again by its key alone, so the key has to hold everything that the value depends
on: what it was made from, the libraries that computed, and a version of our own code. Whoever
changes what some code computes, be it in the last bit, raises the version of its kind below; then
nothing that the old code made is an answer any more, and nothing that was made from that.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from optishear.errors import StorageError


T = TypeVar("T")
log = logging.getLogger(__name__)

OTHER_CACHE = "set OPTISHEAR_CACHE to choose another cache folder"
DENSE = ("model", "layout", "dtype", "device", "threads")
"""The dense weights, what they are computed with, and where: sums depend on it in their last bits.

`model` is a hash of the weights and their configuration, `layout` one of the prunable layers."""
SEEN = ("calibration", "batch_tokens", "parts")
"""The calibration text as ids (so its source, split, seed, number and length of windows, and its
tokenizer), in which batches it goes through the model, and in how many parts it is summed up."""


AROUND = "around"
"""Of pruned layers: the recipe around which statistics were summed up (`pruning.around`), how
many sequences gave it gradients, and the version of `statistics_around`; None where they are of the
dense model, or block by block."""


@dataclass(frozen=True)
class Kind:
    """One kind of value.

    - `version`: of the code that makes it from its parts.
    - `parts`: what it depends on, all of it; None says that it does not in this case.
    - `libraries`: those whose code makes it.
    - `made_from`: the kinds that it is made from, so that their versions count, too.
    - `suffix`: of its file; without one it is a folder.
    """

    version: int
    parts: tuple[str, ...]
    libraries: tuple[str, ...] = ("torch", "transformers")
    made_from: tuple[str, ...] = ()
    suffix: str = ""


KINDS = {
    # A text as ids. `source` is a hash of its content or names a commit of the hub, `tokenizer` is
    # one of all that decides about ids; `limit`: only the first so many were read.
    "tokens": Kind(
        4, ("source", "tokenizer", "split", "field", "limit"), ("tokenizers",), suffix=".npy"
    ),
    # sha256 of a file that is as it was when it was read, by the times and size beside it:
    # optishear/assets.
    "hashes": Kind(1, ("path",), libraries=(), suffix=".json"),
    # A GGUF file written out as safetensors. `source` is a hash of the file.
    "models": Kind(2, ("source",), ("gguf", "transformers")),
    # What layers read: optishear/calibration. `needs` names what is summed up.
    "statistics": Kind(2, (*DENSE, *SEEN, "needs"), suffix=".safetensors"),
    # The same of the model as a recipe prunes it: optishear/pruning/around.
    "statistics_around": Kind(
        1,
        (*DENSE, *SEEN, AROUND, "needs", "kernels"),
        made_from=("statistics", "gradients", "levels"),
        suffix=".safetensors",
    ),
    # Gradients of each of these sequences: optishear/calibration. `sequences` is a hash of ids.
    "gradients": Kind(2, (*DENSE, "sequences")),
    # Squared gradients in what layers put out: optishear/calibration. `groups` of rows. Statistics
    # are weighted by them where a recipe asks for that; who raises this version raises theirs too.
    "token_weights": Kind(1, (*DENSE, "calibration", "groups"), suffix=".safetensors"),
    # Layer sparsities by a published rule: optishear/allocation. One that reads no inputs has no
    # calibration in its key.
    "rules": Kind(
        2, (*DENSE, *SEEN, "rule", "settings"), made_from=("statistics",), suffix=".json"
    ),
    # Solved layers of one model and calibration: optishear/solvers, metrics, pruning. Which layer,
    # level, metric, pattern, solver and quadratic is the key within (`recipe.layer_keys`).
    "levels": Kind(
        3,
        (*DENSE, *SEEN, AROUND, "gradient_sequences", "kernels"),
        made_from=("statistics", "gradients"),
    ),
    # Nats per token on held-out text: optishear/evaluation. Of the dense model only `text` counts.
    "held_out": Kind(
        2,
        (
            *(*DENSE, *SEEN, AROUND, "gradient_sequences", "kernels"),
            *("recipe", "mode", "text", "text_batch"),
        ),
        made_from=("statistics", "gradients", "levels"),
        suffix=".json",
    ),
    # Not in the cache: what a journal's values are of (`pipeline.identity_of` lists the parts).
    # The code is optishear/objectives and what runs the model.
    "measure": Kind(1, (), made_from=("statistics", "gradients", "levels")),
}


def code_versions(kind: str) -> dict[str, int]:
    """Of the code that makes it and of all that it is made from."""
    names = {kind}
    for name in KINDS[kind].made_from:
        names |= code_versions(name).keys()
    return {name: KINDS[name].version for name in sorted(names)}


def code_of(kind: str) -> str:
    """The same for whoever reads a file."""
    return ", ".join(f"{name} {number}" for name, number in code_versions(kind).items())


@dataclass(frozen=True)
class Key:
    """Where one value lies: equal if all that it depends on is.

    - `text`: that, in words, for whoever looks at the cache.
    """

    kind: str
    text: str

    @property
    def path(self) -> Path:
        return folder_of(self.kind) / f"{digest(self.text)}{KINDS[self.kind].suffix}"


def key(kind: str, parts: Mapping[str, Any]) -> Key:
    """The key of a value of this kind made from these parts: all that it has, and no others."""
    known = KINDS[kind]
    if parts.keys() != set(known.parts):
        raise ValueError(f"A key of {kind} has the parts {known.parts}, not {tuple(parts)}.")
    content = {
        "kind": kind,
        "code": code_versions(kind),
        "libraries": {name: library_version(name) for name in known.libraries},
        "parts": dict(parts),
    }
    return Key(kind, json.dumps(content, sort_keys=True, allow_nan=False))


def digest(text: str) -> str:
    """What files of this key are called."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def library_version(library: str) -> str | None:
    """The version that is installed here."""
    try:
        return version(library)
    except PackageNotFoundError:  # then it does not compute anything either
        return None


def cache_dir() -> Path:
    """Where downloads and what is made from them lie: $OPTISHEAR_CACHE or ~/.cache/optishear.

    Nothing in it is precious: whatever is deleted there is fetched or made again.
    """
    folder = os.environ.get("OPTISHEAR_CACHE")
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "optishear"


def folder_of(kind: str) -> Path:
    return cache_dir() / kind


def kept(path: Path, read: Callable[[Path], T], *damage: type[Exception]) -> T | None:
    """What is kept there; None where nothing is, or where it is damaged, which is logged.

    `read` raises `ValueError`, `LookupError`, `TypeError` or one of `damage` where it is not as it
    was written. It is then made again.
    """
    try:
        return read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be read ({error}). See to its permissions, or {OTHER_CACHE}."
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError, EOFError, *damage) as error:
        log.warning("%s is damaged (%s): it is made anew.", path, error)
        return None
