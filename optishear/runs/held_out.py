"""The held-out comparison after a search: the pick beside dense and baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optishear.allocation import UNIFORM
from optishear.calibration.origin import ONE_SHOT, SEQUENTIAL
from optishear.calibration.statistics import summed
from optishear.config.baselines import parse_baseline
from optishear.evaluation.perplexity import HeldOut, held_out
from optishear.models.weights import WorkingWeights, working_weights
from optishear.pruning.block_loop import InMemory, apply_by_block
from optishear.pruning.oneshot import PruneLayers, apply, prune
from optishear.recipe.canonical import MASK
from optishear.recipe.patterns import Patterns
from optishear.recipe.profile import Bounds, project
from optishear.recipe.recipe import Recipe
from optishear.report.comparison import BLOCK_BY_BLOCK, OWN_ROWS
from optishear.runs.held_out_memo import known, remember
from optishear.runs.keys import held_out_key
from optishear.runs.prepare import Calibrated, Prepared, rule_of
from optishear.runs.watcher import Watcher
from optishear.solvers.methods import needs_of
from optishear.tasks import Samples


DENSE, FOUND, _ = OWN_ROWS


def baseline_recipes(
    names: Sequence[str], picked: Recipe, patterns: Patterns, prepared: Prepared
) -> dict[str, Recipe]:
    """Each METHOD[:PATTERN][@RULE], dropping as many weights as `picked` does.

    On the method's own pattern, unless one is named, or in layers where `patterns`, on which
    `picked` was found, have N:M: so a name stands for what was published, and not for its metric on
    whatever was searched.
    """
    layout = prepared.layout
    budget = sum(picked.drop.values())
    found = {}
    for baseline in map(parse_baseline, names):
        mean, own = budget / layout.total, baseline.patterns_beside(patterns)
        if baseline.rule == UNIFORM:
            targets = dict.fromkeys(layout.sizes, mean)
        else:
            targets = rule_of(prepared, baseline.rule).targets(mean)
        drop = project(targets, layout, own, Bounds(), budget)
        found[baseline.name] = baseline.method.recipe(layout, drop, own)
    return found


def compare(
    calibrated: Calibrated,
    recipes: Mapping[str, Recipe],
    texts: Sequence[Samples],
    batch_tokens: int,
    watcher: Watcher,
    prune_layers: PruneLayers = prune,
    modes: Sequence[str] = (ONE_SHOT, SEQUENTIAL),
) -> list[dict[str, Any]]:
    """Rows for dense and each recipe: sparsity, and perplexity with its error on every text.

    All are applied as the search applies them, with statistics of the dense model or of what the
    experiment's `around` makes of it (`mode` one-shot), and all once more block by block, as
    `optishear prune` does (`mode` sequential): each row stands beside rows of its own mode; one
    with what only that mode knows has no other. A recipe that reads no statistics is the same in
    both, and is pruned and measured once. `modes`
    may leave one of them out. `fewer_nats` are paired: nats per token fewer than each other row,
    and the standard error.
    """
    rows, around = [_Row(DENSE)], calibrated.data.around
    for mode in modes:
        ending = BLOCK_BY_BLOCK if mode == SEQUENTIAL else ""
        rows += [
            _Row(f"{name}{ending}", recipe, mode)
            for name, recipe in recipes.items()
            if mode == SEQUENTIAL or not recipe.only_by_block(around)
        ]
    with working_weights(calibrated.loaded.model, calibrated.layout) as working:
        bench = _Bench(calibrated, working, texts, batch_tokens, watcher, prune_layers)
        found = {row.name: bench.measured(row) for row in rows}
    return [
        {
            "name": row.name,
            "mode": row.mode,
            "recipe": row.recipe and row.recipe.key,
            "sparsity": calibrated.layout.sparsity(row.recipe.drop) if row.recipe else 0.0,
            "pattern": row.recipe and row.recipe.patterns.text,
            "texts": {
                own.text: _numbers(
                    own, {n: rest[index] for n, rest in found.items() if n != row.name}
                )
                for index, own in enumerate(found[row.name])
            },
        }
        for row in rows
    ]


@dataclass(frozen=True)
class _Row:
    """One line of the comparison; no recipe and no mode for the dense model."""

    name: str
    recipe: Recipe | None = None
    mode: str | None = None


@dataclass(frozen=True)
class _Bench:
    """A model with working weights, and what to measure them on."""

    calibrated: Calibrated
    working: WorkingWeights
    texts: Sequence[Samples]
    batch_tokens: int
    watcher: Watcher
    prune_layers: PruneLayers

    def measured(self, row: _Row) -> list[HeldOut]:
        """One row, pruned and measured as far as the cache does not know it."""
        self.watcher.stage(f"comparing on held-out text: {row.name}")
        calibrated, batch_tokens, recipe = self.calibrated, self.batch_tokens, row.recipe
        reads = recipe is not None and bool(needs_of(recipe))
        mode = SEQUENTIAL if reads and row.mode == SEQUENTIAL else ONE_SHOT
        results, applied = [], False
        for text in self.texts:
            place = held_out_key(calibrated, recipe, mode, text, batch_tokens).path
            if (result := known(place, text.source)) is None:
                if not applied:
                    self._apply(recipe, mode)
                    applied = True
                result = held_out(calibrated.loaded.model, text, batch_tokens)
                remember(place, result)
            results.append(result)
        return results

    def _apply(self, recipe: Recipe | None, mode: str) -> None:
        calibrated, working = self.calibrated, self.working
        if recipe is None:
            working.restore()
            return
        # A mask is sooner made than sent.
        prune_layers = prune if all(x.solver == MASK for x in recipe.every) else self.prune_layers
        if mode == SEQUENTIAL:
            apply_by_block(
                InMemory(calibrated.loaded.model, working, calibrated.layout),
                recipe,
                calibrated.batches,
                gradients=calibrated.data.gradients,
                guide=calibrated.guide(recipe, self.watcher.stage),
                progress=self.watcher.pruned,
                prune_layers=prune_layers,
            )
        else:
            working.restore()  # norms, which a reconstruction may have moved
            layers, data = calibrated.layout.layers, calibrated.data
            if recipe.row_groups(layers):
                guide = calibrated.guide(recipe, self.watcher.stage)
                data = calibrated.calibrate(summed(needs_of(recipe)), guide=guide).data
            apply(layers, working, data, recipe, prune_layers)


def _numbers(own: HeldOut, others: Mapping[str, HeldOut]) -> dict[str, Any]:
    return {
        "perplexity": own.perplexity,
        "error": own.perplexity_error if len(own.nats) > 1 else None,
        "sequences": len(own.nats),
        "seq_len": own.seq_len,
        "nats": [round(x, 6) for x in own.nats],
        "fewer_nats": {
            name: dict(zip(("mean", "error"), own.better_than(other), strict=True))
            for name, other in others.items()
            if len(own.nats) > 1
        },
    }
