"""Finished models side by side, on held-out texts and zero-shot tasks: `optishear evaluate`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from optishear.allocation import UNIFORM
from optishear.calibration.origin import SEQUENTIAL, Origin, read_recipe
from optishear.config.baselines import parse_baseline
from optishear.errors import ConfigError
from optishear.evaluation.perplexity import HeldOut, held_out
from optishear.evaluation.zero_shot import Tasks, TaskScore, check_tasks, score
from optishear.export.checkpoint import RECIPE_FILE
from optishear.models.discover import layout_of
from optishear.models.load import AS_STORED, LoadedModel, load
from optishear.models.weights import read, working_weights
from optishear.recipe.recipe import MADE_WITH, Recipe
from optishear.runs.held_out import DENSE, baseline_recipes
from optishear.runs.preconditions import check_context, known_ids_only, text_for
from optishear.runs.prepare import GRADIENT_SEQUENCES, Prepared
from optishear.runs.watcher import Watcher
from optishear.text.bos import PLACES, place_of
from optishear.text.sources import TextSpec, source_of
from optishear.tools.prune import SILENT, apply_to


BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Conditions:
    """What every model is measured on, and how it is loaded; `bars` shows lm-eval's on stderr."""

    texts: tuple[TextSpec, ...] = ()
    tasks: Tasks | None = None
    dtype: str = "float32"
    device: str = "cpu"
    bars: bool = False


@dataclass(frozen=True)
class Measured:
    """One row: a model and what was found. `text_hashes` are those of the windows it read, `bos`
    says where each of them has one.

    - `sparsity`: the share of its prunable weights that are zero, counted.
    - `recipe`: key of the recipe that it was pruned with, where that is known.
    - `mode`: how it was pruned, one-shot or sequential, where that is known.
    """

    name: str
    model_hash: str
    sparsity: float
    recipe: str | None
    texts: tuple[HeldOut, ...]
    text_hashes: tuple[str, ...]
    bos: tuple[str, ...]
    tasks: tuple[TaskScore, ...]
    mode: str | None = None


def evaluate(
    model: str,
    text: TextSpec,
    dtype: str = "float32",
    device: str = "cpu",
) -> tuple[HeldOut, dict[str, Any]]:
    """Perplexity of a model or pruned folder on a text, each window on its own, with the hashes of
    model and windows."""
    [row] = evaluate_all([model], Conditions(texts=(text,), dtype=dtype, device=device))
    return row.texts[0], {"model_hash": row.model_hash, "text_hash": row.text_hashes[0]}


def evaluate_loaded(loaded: LoadedModel, text: TextSpec) -> HeldOut:
    """Perplexity of a model in memory as it is now, so also of one inside `pruned`.

    Two results on the same text compare by `HeldOut.better_than`.
    """
    return _measure(loaded.name, loaded, Conditions(texts=(text,))).texts[0]


def evaluate_all(
    models: Sequence[str],
    on: Conditions,
    beside: Sequence[str] = (),
    watcher: Watcher = SILENT,
) -> list[Measured]:
    """A row for each model, then for each name in `beside`, in the order given.

    `beside`: `dense`, the model that the first one was pruned from; or METHOD[:PATTERN][@RULE], on
    its own pattern and uniform over the layers unless told, at the sparsity of the first, pruned in
    memory with the calibration text and mode that made the first. Raises `ConfigError` before
    anything is loaded where a name, text or task is unknown, or the first model's recipe does not
    say what is needed.
    """
    baselines = [parse_baseline(name) for name in beside if name != DENSE]
    names = [*models, *beside]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{doubled[0]} is named twice. Name every model and method once.")
    made = _made(models[0]) if beside else None
    by_block = [baseline.name for baseline in baselines if baseline.method.only_by_block]
    if made is None or made.origin.around is not None:
        by_block = []  # the dense model's inputs stand beside those of a pruned one
    if made is not None and by_block and made.origin.mode != SEQUENTIAL:
        raise ConfigError(
            f"--beside {by_block[0]}: is pruned block by block only, and {models[0]} was pruned "
            f"one-shot. Leave it out, or prune that block by block."
        )
    for text in on.texts:
        source_of(text.source)
    if on.tasks is not None:
        check_tasks(on.tasks)
    rows = []
    for name in models:
        watcher.stage(f"evaluating {name}")
        rows.append(_measure(name, load(name, dtype=on.dtype, device=on.device), on))
    if made is not None:
        rows += _measure_beside(made, beside, on, watcher)
    return rows


@dataclass(frozen=True)
class _Made:
    """What the recipe file of a pruned folder says of how it was made."""

    file: Path
    recipe: Recipe
    origin: Origin


def _made(folder: str) -> _Made:
    file = Path(folder).expanduser() / RECIPE_FILE
    if not file.is_file():
        raise ConfigError(
            f"--beside: {folder} is no folder of `optishear prune` (it has no {RECIPE_FILE}), so "
            f"nobody knows what to put beside it. Name other models after it instead."
        )
    recipe, origin = read_recipe(file)
    needed = ("model", "model_hash", "calibration", "calibration_hash", "mode")
    if missing := origin.lacks(*needed):
        raise ConfigError(
            f"--beside: {file} does not say {MADE_WITH}.{missing[0]}. Prune it anew, or name other "
            f"models after it instead."
        )
    return _Made(file, recipe, origin)


def dense_of(model: str) -> str:
    """The model that this pruned folder was made from; other models are their own."""
    if not (Path(model).expanduser() / RECIPE_FILE).is_file():
        return model
    return str(_made(model).origin.model)


def _measure_beside(
    made: _Made, beside: Sequence[str], on: Conditions, watcher: Watcher
) -> Iterator[Measured]:
    origin, place = made.origin, made.file.parent
    watcher.stage(f"loading {origin.model}")
    saved_as = origin.save_dtype or AS_STORED
    dense = load(str(origin.pinned_model), dtype=on.dtype, device=on.device, saved_as=saved_as)
    if dense.hash != origin.model_hash:
        raise ConfigError(
            f"--beside: {origin.model} has the hash {dense.hash}, but {place} was made from "
            f"{origin.model_hash}. Put the model back that it was made from."
        )
    layout = layout_of(dense.model)
    prepared, recipes = None, {}
    if methods := [name for name in beside if name != DENSE]:
        assert origin.calibration is not None  # asked of the file before
        calibration = text_for(dense, origin.calibration)
        if calibration.hash != origin.calibration_hash:
            raise ConfigError(
                f"--beside: the calibration text {calibration.source} is not what it was when "
                f"{place} was pruned. Prune it anew."
            )
        batch_tokens, parts = origin.batch_tokens or BATCH_TOKENS, origin.calibration_parts or 1
        prepared = Prepared(dense, layout, calibration, batch_tokens, parts, around=origin.around)
        recipes = _recipes_beside(methods, made.recipe, prepared)
    for name in beside:
        if prepared is None or name == DENSE:
            watcher.stage(f"evaluating {DENSE}: {origin.model}")
            yield _measure(name, dense, on)
            continue
        watcher.stage(f"pruning with {name}")
        with working_weights(dense.model, layout) as working:
            apply_to(
                prepared,
                working,
                recipes[name],
                origin.mode == SEQUENTIAL,
                origin.gradient_sequences or GRADIENT_SEQUENCES,
                watcher=watcher,
            )
            watcher.stage(f"evaluating {name}")
            yield _measure(name, dense, on, recipes[name], origin.mode)


def _recipes_beside(
    methods: Sequence[str], recipe: Recipe, prepared: Prepared
) -> dict[str, Recipe]:
    """Each method with as many weights dropped as by `recipe`, on the method's own pattern, unless
    another is named or the recipe's is N:M.

    Where `recipe` is uniform itself, up to less than one weight of a row, uniform methods take its
    counts as they are: one beside a folder that the same method made is then that very folder.
    """
    layout = prepared.layout
    mean = layout.sparsity(recipe.drop)
    found = baseline_recipes(methods, recipe, recipe.patterns, prepared)
    if all(
        abs(recipe.drop[layer.name] / layer.size - mean) < 1 / layer.in_features
        for layer in layout.layers
    ):
        for baseline in map(parse_baseline, methods):
            if baseline.rule == UNIFORM:
                patterns = baseline.patterns_beside(recipe.patterns)
                own = baseline.method.recipe(layout, recipe.drop, patterns)
                found[baseline.name] = own
    return found


def _measure(
    name: str,
    loaded: LoadedModel,
    on: Conditions,
    recipe: Recipe | None = None,
    mode: str | None = None,
) -> Measured:
    """`recipe` is what the model's weights are in memory, and `mode` how they came to be so, where
    they are not those of its file."""
    sparsity = _sparsity(loaded.model)  # first, for it asks whether this is a model to measure
    texts, hashes, places = [], [], []
    for spec in on.texts:
        check_context(loaded.model, spec.seq_len)
        tokens = text_for(loaded, spec)
        places.append(PLACES[place_of(spec.bos, loaded.tokenizer)])
        texts.append(held_out(loaded.model, tokens, BATCH_TOKENS))
        hashes.append(tokens.hash)
    tasks = ()
    if on.tasks is not None:
        with known_ids_only(loaded):
            tasks = tuple(score(loaded.model, loaded.tokenizer, on.tasks, on.bars))
    key = None if recipe is None else recipe.key
    if key is None and (file := loaded.folder / RECIPE_FILE).is_file():
        of_file, origin = read_recipe(file)
        key, mode = of_file.key, origin.mode
    read_by = (tuple(texts), tuple(hashes), tuple(places))
    return Measured(name, loaded.hash, sparsity, key, *read_by, tasks, mode)


def _sparsity(model: nn.Module) -> float:
    zeros, total = 0, 0
    for layer in layout_of(model).layers:
        zeros += int((read(model, layer) == 0).sum())
        total += layer.size
    return zeros / total
