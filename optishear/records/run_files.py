"""The JSON files of a run, read and checked: whatever of them is damaged, `search` writes anew.

All that they hold follows from the journal and the experiment, so a file that cannot be read is no
loss. Each reader takes the whole of a file as plain data, once this has seen that all that anybody
reads of it is there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from optishear.errors import ConfigError
from optishear.reading.shapes import Shape, shaped
from optishear.recipe.layout import ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.records.packed import is_there
from optishear.records.run_directory import MEND, RunDirectory, read_json


FRONT_FORMAT = "optishear-front/1"
FINISHED = "finished"


class SearchPart(Shape):
    driver: str
    population: int = Field(ge=1)
    evaluations: int = Field(ge=1)
    rungs: list[int] = Field(default_factory=list)
    keep: float = Field(default=1, gt=0, le=1)


class TextPart(Shape):
    sequences: int = Field(ge=0)
    seq_len: int = Field(ge=2)


class TextsPart(Shape):
    search: TextPart


class ExperimentPart(Shape):
    """Of the experiment in a manifest what everybody reads."""

    name: str
    model: str
    objectives: list[str] = Field(min_length=1)
    pick: str
    search: SearchPart
    text: TextsPart


class Manifest(Shape):
    """`rungs` are not in the oldest ones."""

    status: str
    hash: str
    experiment: ExperimentPart
    started: str = ""
    rungs: list[int] | None = Field(default=None, min_length=1)
    code: dict[str, Any] = Field(default_factory=dict)
    machine: dict[str, Any] = Field(default_factory=dict)
    measure: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)


class _Objective(Shape):
    name: str
    maximise: bool
    unit: str


class _Entry(Shape):
    key: str
    values: dict[str, float]
    recipe: dict[str, Any]


class _Storage(Shape):
    other_weights: int
    bytes_per_weight: int


class _Finalist(Shape):
    key: str
    one_shot: dict[str, float]
    block_by_block: dict[str, float] | None
    reason: str
    recipe: dict[str, Any]


class _Finalists(Shape):
    quantity: str
    picked: str
    entries: list[_Finalist] = Field(min_length=1)


class _Front(Shape):
    experiment: str
    model: str
    objectives: list[_Objective] = Field(min_length=1)
    pick: str
    picked: str | None
    made_with: dict[str, Any] = Field(default_factory=dict)
    layout: list[Any]
    storage: _Storage | None = None
    finalists: _Finalists | None = None
    entries: list[_Entry]


class _Gain(Shape):
    mean: float
    error: float


class _Numbers(Shape):
    perplexity: float
    error: float | None
    fewer_nats: dict[str, _Gain]


class Row(Shape):
    """Of a method in evaluation.json what the search measured. Older runs say no mode."""

    name: str
    mode: Literal["one-shot", "sequential"] | None = None
    pattern: str | None = None
    sparsity: float
    search: dict[str, float] | None = None
    recipe: str | None = None


class Compared(Row):
    """The same with its held-out texts."""

    texts: dict[str, _Numbers] = Field(min_length=1)


class _Evaluation(Shape):
    picked: str
    rows: list[dict[str, Any]] = Field(min_length=1)


def read_manifest(path: Path, shape: type[Shape] = Manifest) -> dict[str, Any]:
    """Where the run comes from and how far it is; `shape` is what the caller reads of it."""
    data = read_json(path)
    shaped(shape, data, f"{path}: is no manifest of a search", MEND)
    return data


def layout_of_run(run: RunDirectory) -> ModelLayout:
    """The layers of the model that the run is about; older runs say it in the front."""
    if is_there(run.layout):
        return ModelLayout.from_json(read_json(run.layout), str(run.layout), MEND)
    front = read_json(run.front)
    layout = front.get("layout") if isinstance(front, dict) else None
    return ModelLayout.from_json(layout, f"{run.front}: layout", MEND)


def read_front(run: RunDirectory) -> dict[str, Any]:
    """The content of front.json: every entry has a recipe for the layers and all objectives."""
    where, data = str(run.front), read_json(run.front)
    found = data.get("format") if isinstance(data, dict) else None
    if found != FRONT_FORMAT:
        raise ConfigError(
            f"{where}: format is {found!r}, this version reads {FRONT_FORMAT!r}. Run the same "
            f"`optishear search` again to write it anew."
        )
    front = shaped(_Front, data, where, MEND)
    layout = ModelLayout.from_json(data["layout"], f"{where}: layout", MEND)
    names = [objective.name for objective in front.objectives]
    for entry in front.entries:
        _check_entry(entry.key, entry.recipe, [entry.values], names, layout, where)
    if (final := front.finalists) is not None:
        _check_finalists(final, names, layout, where)
        if front.picked != final.picked:
            raise ConfigError(
                f"{where}: {front.picked!r} is picked, but of its finalists {final.picked!r}. "
                f"{MEND}"
            )
    elif front.entries and front.picked not in [entry.key for entry in front.entries]:
        raise ConfigError(
            f"{where}: the picked recipe {front.picked!r} is none of its {len(front.entries)} "
            f"entries. {MEND}"
        )
    return data


def _check_finalists(
    final: _Finalists, objectives: Sequence[str], layout: ModelLayout, where: str
) -> None:
    for one in final.entries:
        rows = [one.one_shot, *([] if one.block_by_block is None else [one.block_by_block])]
        names = [*objectives, final.quantity]
        recipe = _check_entry(one.key, one.recipe, rows, names, layout, f"{where}: finalists")
        if recipe.key != one.key:  # by which it is picked
            raise ConfigError(
                f"{where}: finalists: entry {one.key}: its recipe has the key {recipe.key}. {MEND}"
            )
    measured = [one.key for one in final.entries if one.block_by_block is not None]
    if final.picked not in measured:
        raise ConfigError(
            f"{where}: the picked recipe {final.picked!r} is none of the {len(measured)} finalists "
            f"that were measured. {MEND}"
        )


def _check_entry(
    key: str,
    said: Mapping[str, Any],
    rows: Sequence[Mapping[str, float]],
    names: Sequence[str],
    layout: ModelLayout,
    where: str,
) -> Recipe:
    """A recipe for the layers, and in each of its rows all quantities of these names."""
    try:
        recipe = Recipe.from_json(said, f"{where}: entry {key}")
    except ConfigError as error:
        raise ConfigError(f"{error} {MEND}") from None
    if recipe.drop.keys() != layout.sizes.keys():
        raise ConfigError(f"{where}: entry {key}: is of other layers. {MEND}")
    if missing := [name for row in rows for name in names if name not in row]:
        raise ConfigError(f"{where}: entry {key}: has no {missing[0]!r}. {MEND}")
    return recipe


def read_evaluation(run: RunDirectory, shape: type[Row] = Compared) -> list[dict[str, Any]]:
    """The rows of evaluation.json, none twice and all on the same texts; `shape` is what of them
    the caller reads."""
    where, data = str(run.evaluation), read_json(run.evaluation)
    rows = shaped(_Evaluation, data, where, MEND).rows
    for number, row in enumerate(rows):
        shaped(shape, row, f"{where}: row {number}", MEND)
        if row["name"] in [other["name"] for other in rows[:number]]:
            raise ConfigError(f"{where}: row {number}: {row['name']} comes twice. {MEND}")
        if shape is Compared and row["texts"].keys() != rows[0]["texts"].keys():
            raise ConfigError(f"{where}: row {number}: is of other texts than the first. {MEND}")
    return data["rows"]
