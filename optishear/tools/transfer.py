"""Transfer to another model of what was found on one and, if asked, measuring it there.

Papers claim that a metric or a profile found on one model serves others: this is the experiment.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optishear.calibration.origin import Origin, TransferredFrom, read_recipe, write_recipe
from optishear.errors import ConfigError
from optishear.models.discover import layout_of
from optishear.models.load import device_of, load
from optishear.recipe.layout import ModelLayout
from optishear.recipe.profile import Bounds, project
from optishear.recipe.recipe import Recipe
from optishear.recipe.transfer import Transferred, transfer
from optishear.runs.held_out import FOUND, baseline_recipes, compare
from optishear.runs.preconditions import text_for
from optishear.runs.prepare import GRADIENT_SEQUENCES, Prepared, prepare
from optishear.runs.results import open_run
from optishear.runs.watcher import Watcher
from optishear.solvers.methods import METHODS, check_parts, needs_of, needs_of_parts
from optishear.text.disjoint import refuse_overlap, refuse_shared_text
from optishear.text.sources import TextSpec
from optishear.tools.texts import usual_text


UNIFORM = "uniform, same metric"
WANDA = "wanda"


@dataclass(frozen=True)
class Source:
    """A recipe with the layout that it was found on, and what its file says of where."""

    recipe: Recipe
    layout: ModelLayout
    origin: Origin

    @property
    def model(self) -> str:
        return str(self.origin.model)


@dataclass(frozen=True)
class Target:
    """Onto which model, at which sparsity (None: the source's), and how it is loaded.

    - `calibration`: text for its statistics, now and when it is pruned; None is its usual one.
    - `compare_on`: held-out text for the comparison; None makes none.
    """

    model: str
    sparsity: float | None = None
    dtype: str = "float32"
    device: str = "cpu"
    calibration: TextSpec | None = None
    compare_on: TextSpec | None = None


def source_of_run(place: Path, pick: str | None) -> Source:
    """A recipe of a finished run's front; the run has the layout, so nothing is loaded."""
    front = open_run(place).front
    return Source(front.pick(pick).recipe, front.layout, front.origin)


def source_of_file(path: Path) -> Source:
    """A recipe file. It holds counts by layer name and no layout (which block, which role, how
    big), so the model that it was made for is loaded for that."""
    recipe, origin = read_recipe(path)
    check_parts(recipe, str(path))
    if origin.model is None:
        raise ConfigError(
            f"{path}: does not say for which model it was made (made_with.model), and a recipe "
            f"alone holds no layout. Write it again with `optishear export`, or give its RUN."
        )
    layout = layout_of(load(str(origin.pinned_model)).model)
    recipe.check(layout)  # the model of that name may have been another one
    return Source(recipe, layout, origin)


def transfer_to(
    source: Source, target: Target, to: Path, watcher: Watcher
) -> tuple[Transferred, list[dict[str, Any]] | None]:
    """Writes the recipe for the target; with the rows of the comparison where one was asked for."""
    calibration = target.calibration or usual_text(target.model, "train")
    if target.compare_on is not None:
        refuse_overlap({"calibration": calibration, "comparison": target.compare_on})
    watcher.stage(f"loading {target.model}")
    if target.compare_on is None:
        loaded = load(target.model, dtype=target.dtype, device=target.device)
        found = transfer(source.recipe, source.layout, layout_of(loaded.model), target.sparsity)
        rows, device = None, device_of(target.device).type
        origin = Origin(
            target.model,
            loaded.hash,
            target.dtype,
            device,
            calibration,
            model_commit=loaded.commit,
        )
    else:
        prepared = prepare(target.model, target.dtype, target.device, calibration)
        loaded = prepared.loaded
        found = transfer(source.recipe, source.layout, prepared.layout, target.sparsity)
        rows = _compare(prepared, found.recipe, target.compare_on, watcher)
        origin = prepared.origin(calibration, None, None)
    came = TransferredFrom(
        source.origin.run, source.recipe.key, source.model, source.origin.model_hash
    )
    write_recipe(to, found.recipe, replace(origin, transferred_from=came))
    return found, rows


def _compare(
    prepared: Prepared, recipe: Recipe, text: TextSpec, watcher: Watcher
) -> list[dict[str, Any]]:
    """The transferred recipe beside the same without its profile, uniform Wanda (on rows, which is
    its own pattern, unless the recipe's is N:M) and dense; all in both modes."""
    held = text_for(prepared.loaded, text)
    refuse_shared_text({"calibration": prepared.calibration, "comparison": held})
    watcher.stage("collecting statistics")
    needs = needs_of(recipe) | needs_of_parts(METHODS[WANDA].parts, mixed=False)
    calibrated = prepared.calibrate(needs, GRADIENT_SEQUENCES, watcher.stage)
    patterns = recipe.patterns
    [wanda] = baseline_recipes([WANDA], recipe, patterns, calibrated).values()
    dropped = sum(recipe.drop.values())
    targets = dict.fromkeys(calibrated.layout.sizes, dropped / calibrated.layout.total)
    same = project(targets, calibrated.layout, patterns, Bounds(), dropped)
    uniform = recipe.with_drop(same)
    recipes = {WANDA: wanda, UNIFORM: uniform, FOUND: recipe}
    if uniform == wanda:
        del recipes[UNIFORM]
    return compare(calibrated, recipes, [held], prepared.batch_tokens, watcher)
