"""The only module that knows the names of files inside results/."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optishear.errors import ConfigError
from optishear.reading.json_data import json_in
from optishear.records.atomic import replace_file


MEND = (
    "It is damaged; run the same `optishear search` again, which writes it anew from the journal."
)


@dataclass(frozen=True)
class RunDirectory:
    """`results/<experiment>/<hash of its configuration>/`: one run and all that it leaves."""

    path: Path

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
    def front(self) -> Path:
        return self.path / "front.json"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def study(self) -> Path:
        """The evaluations as an Optuna study: made from the journal, and of no use to a search."""
        return self.path / "optuna.log"

    def siblings(self) -> list[Path]:
        """Journals of all other runs under the same results folder."""
        everywhere = self.path.parent.parent.glob("*/*/journal.jsonl")
        return sorted(path for path in everywhere if path != self.journal)


def write_json(path: Path, data: Mapping[str, Any] | Sequence[Any]) -> None:
    """The file is replaced whole or not at all."""
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    replace_file(path, text.encode())


def read_json(path: Path) -> Any:
    """The content of a run's file; a `ConfigError` says what is missing and what makes it."""
    try:
        return json_in(path, MEND)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: is not there. A search that has finished writes it; run the search again to "
            f"go on where it stopped."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None


def find_run(place: Path) -> RunDirectory:
    """The run in this folder, or the only one below it."""
    if (place / "manifest.json").exists():
        return RunDirectory(place)
    if not place.exists():
        raise ConfigError(f"{place}: there is no such run. `optishear search` prints where it is.")
    below = sorted(path.parent for path in place.glob("*/manifest.json"))
    if len(below) == 1:
        return RunDirectory(below[0])
    if not below:
        raise ConfigError(f"{place}: holds no run (no manifest.json in it or one level below).")
    raise ConfigError(
        f"{place}: holds {len(below)} runs, name one: {', '.join(str(path) for path in below)}."
    )
