"""Finished runs as one file each, and their folders gone: what a repository or an archive keeps."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optishear.errors import ConfigError
from optishear.records.atomic import replace_file
from optishear.records.journal import has_writer, read_journal
from optishear.records.packed import FILES, SUFFIX, archive_of, content_of, is_there
from optishear.records.run_directory import RunDirectory, runs_under
from optishear.runs.results import finished


ASIDE = ("finalists", "curves", "descent", "slopes")
"""Journals that not every run has."""
DERIVED = ("figures", "report.html", "optuna.log", *(f"{one}.lock" for one in ("journal", *ASIDE)))
"""What `plot`, `report` and `dashboard` make again, and locks."""


@dataclass(frozen=True)
class Packed:
    """The archive, its bytes, and those of the files that it has taken in."""

    path: Path
    bytes: int
    unpacked: int


def pack(places: Sequence[Path]) -> list[Packed]:
    """Packs every finished run in and below these folders; packed and unfinished ones stay.

    All are looked at before the first is packed. A `ConfigError` where there is none to pack, where
    a file of one is damaged, or where a folder holds what is no part of a run and would be lost.
    """
    runs = {run.path: run for place in places for run in runs_under(place) if not run.packed}
    found = [(run, files) for run in runs.values() if (files := _files(run)) is not None]
    if not found:
        raise ConfigError(
            f"{', '.join(map(str, places))}: no finished run is there that is not packed yet."
        )
    return [_packed(run, files) for run, files in found]


def _files(run: RunDirectory) -> dict[str, bytes] | None:
    """What goes into the archive; None for a run that has not finished."""
    manifest, damage = finished(run)
    if damage:
        raise ConfigError(f"{damage} It is not packed; run the same `optishear search` again.")
    if manifest is None:
        return None
    if has_writer(run.journal):
        raise ConfigError(f"{run.path}: another process is writing to this run. Wait for it.")
    read_journal(run.journal)  # a damaged one is refused
    for journal in (run.finalists, run.curves, run.descent, run.slopes):
        if journal.exists():
            read_journal(journal)
    if others := sorted({path.name for path in run.path.iterdir()} - {*FILES, *DERIVED}):
        raise ConfigError(
            f"{run.path}: holds {', '.join(others)}, which is no part of a run and would be lost. "
            f"Move it away."
        )
    paths = [run.path / name for name in FILES]
    return {path.name: content_of(path) for path in paths if is_there(path)}


def _packed(run: RunDirectory, files: dict[str, bytes]) -> Packed:
    archive = Path(f"{run.path}{SUFFIX}")
    content = archive_of(run.path.name, files)
    replace_file(archive, content)
    try:
        whole = all(content_of(archive / name) == data for name, data in files.items())
    except ConfigError:  # becomes so much smaller that no reader would take it
        archive.unlink()
        raise
    if not whole:
        raise AssertionError(f"{archive} does not hold what was put into it.")
    shutil.rmtree(run.path)
    return Packed(archive, len(content), sum(map(len, files.values())))
