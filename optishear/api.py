"""The functions of a notebook: search, prune and measure, with whoever wants to watch."""

from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path

from optishear.calibration.origin import Origin
from optishear.cli.progress import LiveWatcher, Stages
from optishear.config import load_experiment
from optishear.export.checkpoint import Checked
from optishear.recipe.recipe import Recipe
from optishear.report.progress import goal_of
from optishear.runs.prepare import BATCH_TOKENS, GRADIENT_SEQUENCES
from optishear.runs.results import Run
from optishear.runs.search import search
from optishear.runs.watcher import Watcher, Watchers
from optishear.text.sources import TextSpec
from optishear.tools.named import NamedMethod
from optishear.tools.prune import How, prune_to
from optishear.tools.texts import usual_text


def run_search(
    experiment: str,
    settings: Sequence[str] = (),
    out: str | Path = "results",
    *,
    watchers: Sequence[Watcher] = (),
    show: bool = False,
) -> Run:
    """Runs, resumes or finds a search: `optishear search` for notebooks.

    `experiment` is a YAML file or a shipped experiment's name, `settings` are `key=value` texts.
    Every one of `watchers` is told of every stage and evaluation; `show` is the terminal's own
    progress on stderr beside them. Raises `ConfigError` for what the caller can put right.
    """
    asked = load_experiment(experiment, settings)
    goal = goal_of(asked.model_dump(mode="json"))
    with closing(LiveWatcher(goal)) if show else nullcontext() as terminal:
        shown = () if terminal is None else (terminal,)
        return search(asked, Path(out), Watchers(*shown, *watchers))


def prune(
    model: str,
    recipe: Recipe | NamedMethod,
    to: str | Path,
    *,
    calibration: TextSpec | None = None,
    found_with: Origin | None = None,
    sequential: bool = True,
    dtype: str = "float32",
    device: str = "cpu",
    watchers: Sequence[Watcher] = (),
    show: bool = False,
) -> Checked:
    """Writes a pruned checkpoint and checks it by opening it again: `optishear prune`.

    - `recipe`: one of a front, or a named method with its sparsity.
    - `calibration`: None is the text of `found_with`, else the model's usual one.
    - `found_with`: on what a recipe of a front was found, `run.front.origin`.
    - `sequential`: block by block; else all layers with statistics of the dense model.

    A folder that holds just this already is checked and left as it is. Raises `ConfigError` where
    recipe and model do not fit or the folder holds something else.
    """
    found = found_with or Origin()
    how = How(
        calibration or found.calibration or usual_text(model, "train"),
        dtype,
        device,
        sequential,
        found.gradient_sequences or GRADIENT_SEQUENCES,
        found.batch_tokens or BATCH_TOKENS,
        found.calibration_parts or 1,
        found_with,
    )
    recipe_for = recipe.on if isinstance(recipe, NamedMethod) else lambda prepared: recipe
    with closing(Stages()) if show else nullcontext() as terminal:
        shown = () if terminal is None else (terminal,)
        watcher = Watchers(*shown, *watchers)
        return prune_to(model, recipe_for, Path(to), how, watcher=watcher)[0]
