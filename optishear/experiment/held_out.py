"""After the search: the chosen recipe beside dense and baselines, on text no search has seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optishear.allocation import UNIFORM
from optishear.config.baselines import parse_baseline
from optishear.evaluation.perplexity import HeldOut, held_out
from optishear.experiment.held_out_memo import keep, known
from optishear.experiment.keys import held_out_key
from optishear.experiment.prepare import Calibrated, Prepared, rule_of
from optishear.experiment.watcher import Watcher
from optishear.models.weights import WorkingWeights, lent
from optishear.pruning.oneshot import PruneLayers, apply, prune
from optishear.pruning.sequential import apply_sequentially
from optishear.recipe.canonical import MASK
from optishear.recipe.pattern import Pattern
from optishear.recipe.profile import Bounds, project
from optishear.recipe.recipe import Recipe
from optishear.report.run_view import OWN_ROWS
from optishear.text.tokens import TokenBatches


DENSE, FOUND, SEQUENTIAL = OWN_ROWS


def baseline_recipes(
    names: Sequence[str], picked: Recipe, pattern: Pattern, prepared: Prepared
) -> dict[str, Recipe]:
    """Each METHOD or METHOD@RULE, dropping as many weights as `picked` does and on the same
    pattern, so that only the choice of weights differs."""
    layout = prepared.layout
    budget = sum(picked.drop.values())
    found = {}
    for baseline in map(parse_baseline, names):
        mean = budget / layout.total
        if baseline.rule == UNIFORM:
            wish = dict.fromkeys(layout.sizes, mean)
        else:
            wish = rule_of(prepared, baseline.rule).wishes(mean)
        drop = project(wish, layout, pattern, Bounds(), budget)
        found[baseline.name] = baseline.method.recipe(layout, drop, pattern.text)
    return found


def compare(
    calibrated: Calibrated,
    recipes: Mapping[str, Recipe],
    texts: Sequence[TokenBatches],
    batch_tokens: int,
    watcher: Watcher,
    prune_layers: PruneLayers = prune,
) -> list[dict[str, Any]]:
    """Rows for dense and each recipe: sparsity, and perplexity with its error on every text.

    All are applied as the search applies them, with statistics of the dense model, and the recipe
    called found once more block by block, as `optishear prune` does: the gap between the two.
    `fewer_nats` are paired: nats per token fewer than each other row, and the standard error.
    """
    recipes = {**recipes, SEQUENTIAL: recipes[FOUND]}
    with lent(calibrated.loaded.model, calibrated.layout) as working:
        bench = _Bench(calibrated, working, texts, batch_tokens, watcher, prune_layers)
        found = {name: bench.measured(name, recipes.get(name)) for name in (DENSE, *recipes)}
    return [
        {
            "name": name,
            "recipe": recipes[name].key if name in recipes else None,
            "sparsity": calibrated.layout.sparsity(recipes[name].drop) if name in recipes else 0.0,
            "texts": {
                own.text: _numbers(own, {n: rest[index] for n, rest in found.items() if n != name})
                for index, own in enumerate(results)
            },
        }
        for name, results in found.items()
    ]


@dataclass(frozen=True)
class _Bench:
    """A model that lent its weights, and what to measure them on."""

    calibrated: Calibrated
    working: WorkingWeights
    texts: Sequence[TokenBatches]
    batch_tokens: int
    watcher: Watcher
    prune_layers: PruneLayers

    def measured(self, name: str, recipe: Recipe | None) -> list[HeldOut]:
        """One row, pruned and measured as far as the cache does not know it."""
        self.watcher.stage(f"comparing on held-out text: {name}")
        calibrated, batch_tokens = self.calibrated, self.batch_tokens
        mode = "sequential" if name == SEQUENTIAL else "one-shot"
        results, applied = [], False
        for text in self.texts:
            place = held_out_key(calibrated, recipe, mode, text, batch_tokens).path
            if (result := known(place, text.source)) is None:
                if not applied:
                    self._apply(recipe, mode)
                    applied = True
                result = held_out(calibrated.loaded.model, text, batch_tokens)
                keep(place, result)
            results.append(result)
        return results

    def _apply(self, recipe: Recipe | None, mode: str) -> None:
        calibrated, working = self.calibrated, self.working
        if recipe is None:
            working.restore()
            return
        # A mask is sooner made than sent.
        prune_layers = prune if recipe.solver == MASK else self.prune_layers
        if mode == "sequential":
            apply_sequentially(
                calibrated.loaded.model,
                working,
                calibrated.layout,
                recipe,
                calibrated.batches,
                gradients=calibrated.evidence.gradients,
                progress=self.watcher.pruned,
                prune_layers=prune_layers,
            )
        else:
            layers, evidence = calibrated.layout.layers, calibrated.evidence
            apply(layers, working, evidence, recipe, prune_layers)


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
