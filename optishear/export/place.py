"""The folder of a pruned checkpoint: free before any work, and recognised when it is whole."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from optishear.assets.fetch import sha256_of
from optishear.errors import ConfigError
from optishear.records.atomic import replace_file
from optishear.records.output import folder_for


RECIPE_FILE = "optishear_recipe.json"
REPORT_FILE = "optishear_layers.json"  # what happened to each layer
STATE_FOLDER = "optishear_stream"  # inside a checkpoint that is written part by part
HASHES_FILE = "optishear.sha256"  # as `sha256sum --check` reads it
ANOTHER = "name another --to"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


@contextmanager
def place_for(folder: Path, goes_on: str | None = None) -> Iterator[bool]:
    """Whether `folder` holds a finished checkpoint, of which has to be found out if it is the same;
    else it is empty or not there, and can be written.

    `goes_on` is the folder inside which says how far it came, for one that is written there part by
    part; else it is written beside its place. A `ConfigError` before any work where it cannot be.
    """
    if (folder / RECIPE_FILE).exists():
        yield True
        return
    if goes_on is None or not (folder / goes_on / "state.json").exists():
        refuse_filled(folder, goes_on)
    if goes_on is None and os.path.ismount(folder):
        raise ConfigError(f"--to {folder}: is a mount point. Name a folder in it, to be made.")
    place = folder.resolve() if folder.is_symlink() else folder
    with folder_for(place.parent if goes_on is None else place, "--to"):
        yield False


def refuse_filled(folder: Path, ours: str | None = None) -> None:
    """A `ConfigError` unless the folder is empty, but for `ours`, or not there."""
    if folder.is_dir():
        if found := sorted(path.name for path in folder.iterdir() if path.name != ours):
            raise ConfigError(
                f"{folder}: is not empty (it holds {found[0]}). Name another --to, or empty it "
                f"first."
            )
    elif folder.exists() or folder.is_symlink():
        what = "a link to nothing" if folder.is_symlink() else "a file"
        raise ConfigError(f"--to {folder}: is {what}. Name a folder that is empty or not there.")


def seal(folder: Path) -> None:
    """Writes down what every file holds but the recipe's, which is read and compared itself."""
    lines = [f"{sha256_of(path)}  {name}\n" for name, path in _files(folder).items()]
    replace_file(folder / HASHES_FILE, "".join(lines).encode(), ANOTHER)


def refuse_changed(folder: Path) -> None:
    """A `ConfigError` unless every file is as `seal` found it, and none with weights came since."""
    known, there = _sealed(folder / HASHES_FILE), _files(folder)
    for name, digest in known.items():
        if name not in there or sha256_of(there[name]) != digest:
            raise ConfigError(
                f"{folder}: {name} {'has changed' if name in there else 'has gone'} since it was "
                f"written with this recipe and checked. Name another --to, or empty the folder "
                f"first."
            )
    for name in there:
        if name.endswith(WEIGHTS) and name not in known:
            raise ConfigError(
                f"{folder}: {name} came there after the checkpoint was checked. Remove it, or name "
                f"another --to."
            )


def _sealed(path: Path) -> Mapping[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error}), so nobody can tell whether the weights are still "
            f"those that were checked. Name another --to, or empty the folder first."
        ) from None
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _files(folder: Path) -> Mapping[str, Path]:
    ours = (RECIPE_FILE, HASHES_FILE)
    return {p.name: p for p in sorted(folder.iterdir()) if p.is_file() and p.name not in ours}
