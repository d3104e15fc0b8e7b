"""A finished run read from its files: front, picks, held-out comparison, figures. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optishear.calibration.origin import Origin, read_recipe
from optishear.errors import ConfigError
from optishear.export.place import RECIPE_FILE
from optishear.reading.shapes import Shape
from optishear.recipe.features import features
from optishear.recipe.layout import ModelLayout
from optishear.recipe.recipe import MADE_WITH, Recipe
from optishear.recipe.storage import Storage, sizes
from optishear.records.packed import is_packed, is_there
from optishear.records.run_directory import MEND, RunDirectory, find_run
from optishear.records.run_files import (
    FINISHED,
    layout_of_run,
    read_evaluation,
    read_front,
    read_manifest,
)
from optishear.records.run_files import FRONT_FORMAT as FORMAT
from optishear.search.finalists import Finalists
from optishear.search.pick import Row, parse_pick


if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PREFERRED = (
    "kl",
    "centred_reconstruction",
    "reconstruction",
    "relative_reconstruction",
    "perplexity",
)


@dataclass(frozen=True)
class Entry:
    """One recipe of the front with all that was measured of it."""

    recipe: Recipe
    values: Mapping[str, float]


@dataclass(frozen=True)
class Front:
    """The non-dominated recipes of a run, in the order of the first objective.

    - `objectives`: {name: whether it is maximised}.
    - `usual_pick`: the experiment's own `--pick`.
    - `origin`: on what it was found, as exported recipes carry it.
    - `storage`: what sizes in bytes depend on; older runs do not say.
    - `finalists`: where some were applied block by block before the pick; they need not be on the
      front.
    """

    experiment: str
    objectives: Mapping[str, bool]
    usual_pick: str
    layout: ModelLayout
    entries: tuple[Entry, ...]
    origin: Origin
    storage: Storage | None = None
    finalists: Finalists | None = None

    def row(self, entry: Entry) -> dict[str, float]:
        """All that is known of an entry: what was measured, then the sizes of its checkpoint."""
        if self.storage is None:
            return dict(entry.values)
        return {**entry.values, **sizes(entry.recipe, self.layout, self.storage)}

    def to_frame(self) -> "pd.DataFrame":
        """One row a recipe, in the front's order, under the recipe's key.

        Columns: `picked`, whether the experiment's own pick takes it (none, where that was made of
        finalists and is no point of the front); `dropped`, weights in all;
        those of `row`, by which `pick` chooses; the recipe's parts, `recipe.features`.
        """
        import pandas as pd

        picked = self.pick() if self.entries else None
        rows = [
            {
                "picked": entry is picked,
                "dropped": sum(entry.recipe.drop.values()),
                **self.row(entry),
                **features(entry.recipe, self.layout),
            }
            for entry in self.entries
        ]
        keys = [entry.recipe.key for entry in self.entries]
        return pd.DataFrame(rows, index=pd.Index(keys, name="key"))

    def pick(self, text: str | None = None) -> Entry:
        """`knee`, `lowest:NAME`, `highest:NAME`, `nearest:NAME=NUMBER …` or constraints such as
        `sparsity>=0.6,perplexity<=25`, of which the entry lowest in KL (or the next best error
        that was measured) is taken. Names are those of `row`. None is the experiment's own choice,
        made of the finalists where there are any; what is asked for is chosen of the front."""
        if not text and self.finalists is not None:
            final = self.finalists.final
            own = Entry(final.recipe, final.one_shot)
            return next((e for e in self.entries if e.recipe.key == final.recipe.key), own)
        return self.entries[self.choose([self.row(entry) for entry in self.entries], text)]

    def choose(self, rows: Sequence[Row], text: str | None = None) -> int:
        """The index of the one that a pick takes of these rows, on the front or off it."""
        pick, told = parse_pick(text or self.usual_pick), self._told(rows)
        return pick.choose(rows, *told)

    def in_turn(self, entries: Sequence[Entry], most: int) -> list[Entry]:
        """Those of these entries that the experiment's own pick takes one after the other."""
        rows = [self.row(entry) for entry in entries]
        order = parse_pick(self.usual_pick).in_turn(rows, *self._told(rows), most)
        return [entries[index] for index in order]

    def goes_by(self) -> tuple[str, ...]:
        """The quantities that the experiment's own pick chooses by."""
        prefer, _, objectives = self._told([entry.values for entry in self.entries])
        return parse_pick(self.usual_pick).goes_by(prefer, objectives)

    def _told(self, rows: Sequence[Row]) -> tuple[str, dict[str, bool], list[str]]:
        """What a pick is told beside the rows: what is preferred, what is minimised, objectives."""
        objectives = list(self.objectives)
        prefer = next((n for n in PREFERRED if rows and n in rows[0]), objectives[0])
        return prefer, {name: not up for name, up in self.objectives.items()}, objectives


class _Ended(Shape):
    """What the manifest of a finished run says beside."""

    finished: str
    ended: str
    evaluations: int
    failed: int
    measured_now: int
    seconds: float


@dataclass(frozen=True)
class Run:
    """A run directory with the answers in it."""

    directory: RunDirectory

    @property
    def front(self) -> Front:
        return front_from_json(read_front(self.directory), str(self.directory.front))

    @property
    def manifest(self) -> dict[str, Any]:
        return read_manifest(self.directory.manifest)

    @property
    def summary(self) -> dict[str, Any]:
        """What programs are told of a finished run: where it is, how it ended, what it cost. Older
        runs do not say `search_tokens`."""
        manifest = self.manifest
        keys = ("status", "hash", "evaluations", "failed", "measured_now", "search_tokens")
        said = {key: manifest[key] for key in (*keys, "seconds", "ended") if key in manifest}
        return {"run": str(self.directory.path), **said}

    @property
    def evaluation(self) -> list[dict[str, Any]]:
        """Rows of the held-out comparison: dense, the baselines, what was found."""
        return read_evaluation(self.directory)

    def evaluations(self) -> "pd.DataFrame":
        """All that the search measured, on and off the front: see `evaluations_table`."""
        from optishear.report.evaluations import evaluations_table

        return evaluations_table(self.directory)

    def figures(self) -> "dict[str, Figure]":
        """The run's figures by name, as `optishear plot` draws them; no file is written."""
        from optishear.report.curve_figures import curve_figures
        from optishear.report.figures import make_figures
        from optishear.report.run_view import read_run
        from optishear.report.style import paper_style

        with paper_style():
            view = read_run(self.directory)
            return {**make_figures(view), **curve_figures(self.directory, view.title)}


def finished(directory: RunDirectory) -> tuple[dict[str, Any] | None, str]:
    """The manifest of a run that is finished, with all its files as they should be; else None. And
    where one of them cannot be read, which one and why, in a sentence.

    A packed run that is not finished and whole is a `ConfigError`: nobody can go on with it.
    """
    manifest, damage = _finished(directory)
    if manifest is None and directory.packed:
        why = damage or f"{directory.path}: is packed, but not finished."
        raise ConfigError(
            f"{why} A search goes on in a folder only: unpack it (tar xf {directory.path.name}) "
            f"and move the archive away, or move it away to begin anew."
        )
    return manifest, damage


def _finished(directory: RunDirectory) -> tuple[dict[str, Any] | None, str]:
    run = Run(directory)
    try:
        if not is_there(directory.manifest):
            return None, ""
        if run.manifest["status"] != FINISHED:
            return None, ""
        read_manifest(directory.manifest, _Ended)
        layout_of_run(directory)
        _ = run.front, run.evaluation
    except ConfigError as error:
        return None, str(error).removesuffix(MEND).strip()
    return run.manifest, ""


def open_run(place: str | Path) -> Run:
    """The run in this folder, or the only one below it."""
    return Run(find_run(Path(place)))


def recipe_at(place: Path) -> tuple[Recipe, Origin]:
    """The recipe of a file or of a pruned folder, or the one that a run picks, packed or not; and
    its origin."""
    if (place / RECIPE_FILE).is_file():
        return read_recipe(place / RECIPE_FILE)
    if place.suffix == ".json" or (place.is_file() and not is_packed(place)):
        return read_recipe(place)
    front = open_run(place).front
    return front.pick().recipe, front.origin


def front_to_json(front: Front, units: Mapping[str, str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "experiment": front.experiment,
        "model": front.origin.model,
        "objectives": [
            {"name": name, "maximise": maximise, "unit": units[name]}
            for name, maximise in front.objectives.items()
        ],
        "pick": front.usual_pick,
        "picked": front.pick().recipe.key if front.entries else None,
        **({} if front.finalists is None else {"finalists": front.finalists.to_json()}),
        MADE_WITH: front.origin.to_json(),
        "layout": front.layout.to_json(),
        "storage": None if front.storage is None else asdict(front.storage),
        "entries": [
            {"key": e.recipe.key, "values": dict(e.values), "recipe": e.recipe.to_json()}
            for e in front.entries
        ],
    }


def front_from_json(data: Mapping[str, Any], where: str) -> Front:
    """Of what `read_front` has checked; `where` names its file in a `ConfigError`."""
    entries: Sequence[Mapping[str, Any]] = data["entries"]
    try:
        origin = Origin.from_json(data.get(MADE_WITH, {}), where)
    except ConfigError as error:
        raise ConfigError(f"{error} {MEND}") from None
    if origin.model is None:
        raise ConfigError(f"{where}: does not say {MADE_WITH}.model. {MEND}")
    size, finalists = data.get("storage"), data.get("finalists")
    return Front(
        data["experiment"],
        {objective["name"]: objective["maximise"] for objective in data["objectives"]},
        data["pick"],
        ModelLayout.from_json(data["layout"]),
        tuple(Entry(Recipe.from_json(e["recipe"], e["key"]), e["values"]) for e in entries),
        origin,
        Storage(size["other_weights"], size["bytes_per_weight"]) if size else None,
        Finalists.from_json(finalists) if finalists else None,
    )
