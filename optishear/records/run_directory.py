"""Names of files inside results/: the only module that knows them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optishear.errors import ConfigError
from optishear.reading.json_data import json_of
from optishear.reading.texts import text_in
from optishear.records.atomic import replace_file
from optishear.records.packed import SUFFIX, content_of, is_packed


MEND = (
    "It is damaged; run the same `optishear search` again, which writes it anew from the journal."
)


@dataclass(frozen=True)
class RunDirectory:
    """`results/<experiment>/<hash of its configuration>/`: one run and all that it leaves.

    `path` may be a packed run, `<hash>.tar.xz`. Its files are then inside, which `content_of` and
    `is_there` read as they do a folder's, and what is drawn or written of it lies beside it, as
    `<hash>.figures` and so on.
    """

    path: Path

    @property
    def packed(self) -> bool:
        return is_packed(self.path)

    @property
    def name(self) -> str:
        """Of its folder, whether it is packed or not."""
        return self.path.name.removesuffix(SUFFIX) if self.packed else self.path.name

    def _derived(self, name: str) -> Path:
        """Where something is written that is made from the run's files."""
        return self.path.with_name(f"{self.name}.{name}") if self.packed else self.path / name

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def layout(self) -> Path:
        return self.path / "layout.json"

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def finalists(self) -> Path:
        """The journal of what was measured again block by block."""
        return self.path / "finalists.jsonl"

    @property
    def curves(self) -> Path:
        """The journal of single layers pruned, all others dense."""
        return self.path / "curves.jsonl"

    @property
    def descent(self) -> Path:
        """The journal of the slopes that the search's seeds went down."""
        return self.path / "descent.jsonl"

    @property
    def slopes(self) -> Path:
        """The journal of the slopes that a driver asked for."""
        return self.path / "slopes.jsonl"

    @property
    def front(self) -> Path:
        return self.path / "front.json"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def figures(self) -> Path:
        return self._derived("figures")

    @property
    def report(self) -> Path:
        return self._derived("report.html")

    @property
    def study(self) -> Path:
        """The evaluations as an Optuna study: made from the journal, and of no use to a search."""
        return self._derived("optuna.log")

    def siblings(self, name: str = "journal.jsonl") -> list[Path]:
        """Journals of all other runs under the same results folder, packed ones among them, in
        which one that is called otherwise need not be."""
        results = self.path.parent.parent
        everywhere = [*results.glob(f"*/*/{name}")]
        everywhere += [archive / name for archive in results.glob(f"*/*{SUFFIX}")]
        return sorted(path for path in everywhere if path != self.path / name)


def write_json(path: Path, data: Mapping[str, Any] | Sequence[Any]) -> None:
    """The file is replaced whole or not at all."""
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    replace_file(path, text.encode())


def read_json(path: Path) -> Any:
    """The content of a run's file; a `ConfigError` says what is missing and what makes it."""
    try:
        return json_of(text_in(content_of(path), str(path), MEND), str(path), MEND)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: is not there. A search that has finished writes it; run the search again to "
            f"go on where it stopped."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None


def run_at(folder: Path) -> RunDirectory:
    """The run whose folder this is or was: the folder, or what it was packed into."""
    archive = Path(f"{folder}{SUFFIX}")
    if not archive.is_file():
        return RunDirectory(folder)
    if (folder / "manifest.json").exists() or (folder / "journal.jsonl").exists():
        raise ConfigError(
            f"{folder}: is there as a folder and packed, as {archive.name}, and nothing says which "
            f"of them counts. Move one of them away."
        )
    return RunDirectory(archive)


def find_run(place: Path) -> RunDirectory:
    """The run in this folder, or the only one below it; packed or not."""
    run = run_at(_folder_of(place))
    if run.packed or (run.path / "manifest.json").exists():
        return run
    if not place.exists():
        raise ConfigError(f"{place}: there is no such run. `optishear search` prints where it is.")
    below = _runs(place.glob("*/manifest.json"), place.glob(f"*{SUFFIX}"))
    if len(below) == 1:
        return below[0]
    if not below:
        raise ConfigError(f"{place}: holds no run (no manifest.json in it or one level below).")
    raise ConfigError(
        f"{place}: holds {len(below)} runs, name one: {', '.join(str(run.path) for run in below)}."
    )


def runs_under(place: Path) -> list[RunDirectory]:
    """All runs in this folder and below, packed or not, by name; a `ConfigError` where nothing is
    called so."""
    run = run_at(_folder_of(place))
    if run.packed:
        return [run]
    if not place.exists():
        raise ConfigError(f"{place}: there is no such folder. Name a run, or where runs are.")
    return _runs(place.rglob("manifest.json"), place.rglob(f"*{SUFFIX}"))


def _folder_of(place: Path) -> Path:
    """The folder that a packed run was, or the place itself."""
    return place.with_name(place.name.removesuffix(SUFFIX)) if is_packed(place) else place


def _runs(manifests: Iterable[Path], archives: Iterable[Path]) -> list[RunDirectory]:
    folders = {path.parent for path in manifests} | {_folder_of(path) for path in archives}
    return [run_at(folder) for folder in sorted(folders)]
