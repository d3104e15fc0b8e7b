"""A run's curves put to use: budgets split by them, and the recipe that this makes. No torch."""

from collections.abc import Sequence
from pathlib import Path

from optishear.calibration.origin import write_recipe
from optishear.errors import ConfigError
from optishear.reading.shapes import shaped
from optishear.recipe.storage import Storage
from optishear.records.run_directory import MEND, RunDirectory, find_run
from optishear.records.run_files import read_manifest
from optishear.report.measured_curves import MeasuredCurves, read_curves
from optishear.runs.results import Run
from optishear.search.budget_splits import Split, splits
from optishear.search.budget_units import BYTES, Budget
from optishear.search.space_file import SpaceSpec, build_space


def curves_at(place: Path) -> tuple[RunDirectory, MeasuredCurves]:
    """The run there, and the curves that it has measured; a `ConfigError` says what makes some."""
    directory = find_run(place)
    if (found := read_curves(directory)) is None:
        raise ConfigError(
            f"{directory.path}: has no curves of single layers. A search measures them with "
            f"search.seeds: [methods, rules, knapsack], with search.driver: knapsack, or with "
            f"search.variation: guided."
        )
    return directory, found


def splits_of(
    directory: RunDirectory, found: MeasuredCurves, budgets: Sequence[Budget]
) -> list[Split]:
    """These budgets, split within the bounds and patterns of the run's own space. Those in bytes
    are counted as the run's front counts them, so it has to have finished."""
    where = f"{directory.manifest}: experiment.space"
    said = read_manifest(directory.manifest)["experiment"].get("space")
    spec = shaped(SpaceSpec, said, where, MEND)
    try:
        space = build_space(spec, found.layout, {})
    except ConfigError as error:
        raise ConfigError(f"{where}: {error} {MEND}") from None
    in_bytes = any(budget.quantity == BYTES for budget in budgets)
    storage = _storage(directory) if in_bytes else None
    try:
        return splits(space, found.curves, budgets, storage)
    except ConfigError as error:
        raise ConfigError(f"--budget: {error}") from None


def _storage(directory: RunDirectory) -> Storage:
    if (found := Run(directory).front.storage) is None:
        raise ConfigError(
            f"{directory.front}: does not say what the checkpoint holds beside its layers "
            f"(storage), so no bytes can be counted. Give --budget as a sparsity, or search anew."
        )
    return found


def split_recipe(directory: RunDirectory, found: MeasuredCurves, split: Split, path: Path) -> None:
    """Writes what the curves were measured with, at the split's counts, as `optishear prune
    --recipe` reads it; with the origin of the run's own recipes, so it has to have finished."""
    write_recipe(path, found.recipe.with_drop(split.drop), Run(directory).front.origin)
