"""A run's evaluations as the trials of an Optuna study, for Optuna's plots and dashboard.

The study is a copy: it is made of the journal, brought up to date from it, and never read back.
"""

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from optishear.errors import ConfigError, StorageError
from optishear.recipe.features import OF_ROLE, Feature, features, in_one_table
from optishear.recipe.parts import first_match
from optishear.records.journal import recipe_of
from optishear.records.run_directory import RunDirectory
from optishear.report.evaluations import layout_of_run
from optishear.report.watching import RunSnapshot, RunWatch
from optishear.search.optuna_driver import quiet


SQLITE = (".db", ".sqlite", ".sqlite3")
OURS = "optishear"  # a study's attribute: the hash of the run that it mirrors
FRACTIONS = ("sparsity.", "lambda.")

Entry = Mapping[str, Any]
Row = Mapping[str, Feature]
Given = Mapping[str, BaseDistribution]


def open_storage(place: Path | str) -> BaseStorage:
    """Optuna's storage in this file, which may hold other studies, too: SQLite for `*.db`,
    `*.sqlite` and `*.sqlite3`, else Optuna's journal. Or in the database of this URL."""
    if "://" in str(place):
        return _database(str(place))
    path = Path(place)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):  # says now, and in one sentence, what Optuna would say later
            pass
    except OSError as error:
        raise StorageError(
            f"{path}: could not be written ({error.strerror}). Choose another place with --study."
        ) from error
    with path.open("rb") as file:
        begin = file.readline(4096)
    sqlite = path.suffix in SQLITE
    if begin and not (begin.startswith(b"SQLite format 3") if sqlite else _is_optuna(begin)):
        kind = "SQLite database" if sqlite else "journal of Optuna's"
        raise ConfigError(f"{path}: is no {kind}. Choose another file with --study.")
    with quiet():
        if sqlite:
            return RDBStorage(f"sqlite:///{path.resolve()}")
        # Its other lock is a symbolic link, which not every system has.
        lock = JournalFileOpenLock(str(path)) if os.name == "nt" else None
        return JournalStorage(JournalFileBackend(str(path), lock))


def _database(url: str) -> BaseStorage:
    """Errors name the place without what may be a password in it."""
    shown = re.sub(r"//[^@/]*@", "//…@", url)
    try:
        return _at_once(url)
    except ImportError as error:
        raise ConfigError(
            f"--study {shown}: {error.name or error} is not installed, which this database needs. "
            f'For PostgreSQL: pip install "optishear[postgres]".'
        ) from None
    except (SQLAlchemyError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"--study {shown}: cannot be opened ({type(error).__name__}: {first}). Check address, "
            f"user and database."
        ) from None


def _at_once(url: str, tries: int = 60) -> BaseStorage:
    """Processes that begin together all make the tables, and all but one find them half made: for
    as long as the one takes, on a machine or a database that may be busy."""
    with quiet():
        for _ in range(tries - 1):
            try:
                return RDBStorage(url)
            except (IntegrityError, ProgrammingError):
                time.sleep(1)
        return RDBStorage(url)


class Mirror:
    """One study that follows one run on one rung: an evaluation of the search is a trial.

    - Values are the objectives in their own direction, under their names.
    - Parameters are those of the recipe's `features` that vary. Sparsities and λ are fractions; any
      other number lies between the ends that the search space gives it and that were seen; what
      is no number is one of what was listed or seen.
    - User attributes: `key`, `rung`, `seconds`, the quantities that are no objectives, `reason` of
      a failure, `remembered` for what another run had measured.
    - Trials start when everything before them was measured, counted from the start of the run:
      how long each took is right, and pauses are not seen.

    Optuna compares parameters only if their distributions are alike in all trials. So where a
    further evaluation widens one, or makes another feature vary, the study is written anew.
    """

    def __init__(self, run: RunDirectory, storage: BaseStorage, rung: int | None = None):
        self.storage = storage
        self.name, self.study_id = "", -1
        self.trials = self.failed = 0
        self.anew = False  # whether the last update wrote all trials again
        self._watch, self._run, self._asked_rung = RunWatch(run), run, rung
        self._rows: list[tuple[str, Row]] = []  # of the entries on the rung, in their order
        self._said: list[dict[str, Feature]] = []  # the same, each as its own recipe says it

    def update(self) -> int:
        """Brings the study up to date; how many evaluations had not been in it."""
        snapshot = self._watch.snapshot()
        rung = _rung(snapshot, self._asked_rung)
        entries = self._with_starts(rung)
        keys = [entry["key"] for entry, _ in entries]
        if [key for key, _ in self._rows] != keys[: len(self._rows)]:
            self._said = []
        if len(self._said) < len(entries):
            layers, layout = self._watch.reader.layers, layout_of_run(self._run)
            self._said += [
                features(recipe_of(entry, layers), layout)
                for entry, _ in entries[len(self._said) :]
            ]
            self._rows = list(zip(keys, in_one_table(self._said, layout)))
        rows = [row for _, row in self._rows]
        roles = layout_of_run(self._run).roles if rows else ()
        given = distributions(rows, declared(snapshot.manifest["experiment"]["space"], roles))
        begun = datetime.fromisoformat(snapshot.manifest["started"]).astimezone()
        objectives = list(snapshot.goal.objectives)
        with quiet():
            study, before = self._open(snapshot, rung, given)
            stand = 0 if self.anew else before
            for (entry, spent), row in list(zip(entries, rows, strict=True))[stand:]:
                start = begun + timedelta(seconds=spent)
                study.add_trial(trial_of(entry, row, given, objectives, start))
        self.trials = len(entries)
        self.failed = sum(entry["values"] is None for entry, _ in entries)
        return max(self.trials - before, 0)

    def _with_starts(self, rung: int) -> list[tuple[Entry, float]]:
        """The rung's entries, each with the seconds that all before it took, on whatever rung."""
        spent, found = 0.0, []
        for entry in self._watch.entries:
            if entry["rung"] == rung:
                found.append((entry, spent))
            spent += entry["seconds"]
        return found

    def _open(self, snapshot: RunSnapshot, rung: int, given: Given) -> tuple[optuna.Study, int]:
        """The study, begun or emptied where it has to be, and how many trials it had."""
        experiment, mine = snapshot.manifest["experiment"], snapshot.manifest["hash"]
        self.name = f"{experiment['name']} {mine}, {rung} tokens"
        study = self._study(snapshot)
        trials = study.get_trials(deepcopy=False)
        if trials and study.user_attrs.get(OURS) != mine:
            raise ConfigError(
                f"The study {self.name!r} is no mirror of this run. Choose another file with "
                f"--study."
            )
        self.anew = not self._stand(trials, given)
        if self.anew:
            optuna.delete_study(study_name=self.name, storage=self.storage)
            study = self._study(snapshot)
        if self.anew or not trials:
            study.set_user_attr(OURS, mine)
            study.set_user_attr("model", experiment["model"])
            study.set_metric_names(list(snapshot.goal.objectives))
        self.study_id = self.storage.get_study_id_from_name(self.name)
        return study, len(trials)

    def _study(self, snapshot: RunSnapshot) -> optuna.Study:
        # Not load_if_exists, which writes a line into Optuna's journal each time.
        if self.name in optuna.get_all_study_names(self.storage):
            return optuna.load_study(study_name=self.name, storage=self.storage)
        directions = [
            StudyDirection.MAXIMIZE if maximise else StudyDirection.MINIMIZE
            for maximise in snapshot.goal.objectives.values()
        ]
        return optuna.create_study(
            storage=self.storage, study_name=self.name, directions=directions
        )

    def _stand(self, trials: Sequence[FrozenTrial], given: Given) -> bool:
        """Whether these trials are the first of what would be written now."""
        return len(trials) <= len(self._rows) and all(
            trial.user_attrs.get("key") == key
            and trial.distributions == {name: kind for name, kind in given.items() if name in row}
            for trial, (key, row) in zip(trials, self._rows)
        )


def trial_of(
    entry: Entry, row: Row, given: Given, objectives: Sequence[str], start: datetime
) -> FrozenTrial:
    """One evaluation as a finished trial; `given` are the parameters, their values in `row`."""
    values = entry["values"]
    attributes = {"key": entry["key"], "rung": entry["rung"], "seconds": entry["seconds"]}
    if values is None:
        attributes["reason"] = entry["reason"]
    else:
        attributes |= {name: value for name, value in values.items() if name not in objectives}
    if entry.get("memo", False):
        attributes["remembered"] = True
    params = {
        name: str(row[name]) if isinstance(kind, CategoricalDistribution) else row[name]
        for name, kind in given.items()
        if name in row
    }
    trial = create_trial(
        state=TrialState.FAIL if values is None else TrialState.COMPLETE,
        values=None if values is None else [values[name] for name in objectives],
        params=params,
        distributions={name: given[name] for name in params},
        user_attrs=attributes,
    )
    trial.datetime_start = start.replace(tzinfo=None)  # Optuna's are local times
    trial.datetime_complete = trial.datetime_start + timedelta(seconds=entry["seconds"])
    return trial


def distributions(
    rows: Sequence[Row], known: Mapping[str, Sequence[Feature]]
) -> dict[str, BaseDistribution]:
    """The features that differ between rows, with what they may be.

    `known`: {feature: ends or options} beside what the rows have; may have other features, too.
    """
    seen: dict[str, dict[Feature, None]] = {}
    for row in rows:
        for name, value in row.items():
            seen.setdefault(name, {})[value] = None
    return {
        name: _distribution(name, [*values, *known.get(name, ())])
        for name, values in seen.items()
        if len(values) > 1
    }


def _distribution(name: str, values: Sequence[Feature]) -> BaseDistribution:
    numbers = [value for value in values if not isinstance(value, str)]
    if len(numbers) < len(values):
        return CategoricalDistribution(sorted({str(value) for value in values}))
    if name.startswith(FRACTIONS):
        return FloatDistribution(0.0, 1.0)
    low, high = min(numbers), max(numbers)
    if all(isinstance(value, int) for value in numbers):
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high)


def declared(space: Mapping[str, Any], roles: Sequence[str] = ()) -> dict[str, list[Feature]]:
    """{feature: ends or options} of the genes that metrics and solvers have in a space's file;
    where it says some by role, of each of the model's `roles`, too."""
    said = [("", space)]
    if entries := list((space.get("roles") or {}).items()):
        own = {role: first_match(entries, role, {}) for role in roles}
        parts = ("metric", "solver")
        said += [(role, {p: own[role].get(p) or space.get(p) for p in parts}) for role in own]
    found: dict[str, list[Feature]] = {}
    for role, spec in said:
        for part in ("metric", "solver"):
            for template in spec.get(part) or ():
                for key, gene in template.items():
                    if isinstance(gene, Mapping) and gene.keys() <= {"choice", "real", "integer"}:
                        name = f"{part}.{key}{OF_ROLE}{role}" if role else f"{part}.{key}"
                        for options in gene.values():
                            found.setdefault(name, []).extend(map(_feature, options))
    return found


def _feature(option: Any) -> Feature:
    return option if type(option) in (int, float) else str(option)


def _rung(snapshot: RunSnapshot, asked: int | None) -> int:
    rungs = snapshot.goal.rungs
    if asked is None:
        if rungs is None:
            raise ConfigError(
                f"{snapshot.title}: nothing is measured yet, so that the number of its search "
                f"tokens is not known. Come back later."
            )
        return rungs[-1]
    if rungs is not None and asked not in rungs:
        raise ConfigError(
            f"--rung {asked}: this run measures on {', '.join(map(str, rungs))} search tokens."
        )
    return asked


def _is_optuna(line: bytes) -> bool:
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):  # whatever else is no JSON either
        return False
    return isinstance(first, dict) and "op_code" in first
