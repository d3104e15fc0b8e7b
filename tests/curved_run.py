"""A run that has measured curves of single layers, as a search leaves it, without a model."""

import numpy as np
from layouts import small_layout

from optishear.recipe.recipe import Recipe
from optishear.records.journal import Journal
from optishear.records.run_directory import RunDirectory, write_json
from optishear.search.curves import Curves


WANDA = {"name": "wanda"}
RISE = 1.2  # what recipes cost more than the sum of their layers
STEPS = {"by": "layer", "low": 0.0, "high": 0.75, "steps": 4, "budget": 0.5}


def curves_for(layout, levels=4, high=0.9):
    """Exponential in the sparsity, every layer at another height and slope."""
    random = np.random.default_rng(3)
    shares = np.linspace(high / levels, high, levels)
    return Curves(
        {
            layer.name: tuple(
                (int(layer.size * share), float(height * np.exp(slope * share))) for share in shares
            )
            for layer in layout.layers
            for height, slope in [(10 ** random.uniform(-5, -4), random.uniform(5, 9))]
        }
    )


def write_curves(run, layout, curves, quantity="kl", tokens=512, failing=0, metric=WANDA):
    """The journal of these points; of the last `failing` layers every one has failed."""
    names, dense = list(layout.sizes), dict.fromkeys(layout.sizes, 0)
    measure = {"model": "made up", "quantities": [quantity]}
    with Journal(run.curves, measure, names) as journal:
        for name, points in curves.points.items():
            failed = name in names[len(names) - failing :]
            for count, value in points:
                values = None if failed else {quantity: value}
                outcome = {"values": values, "reason": "not finite" * failed, "seconds": 0.1}
                journal.append(Recipe.of(metric, {**dense, name: count}, "row"), tokens, outcome)


def curved_run(path, layout=None, sparsity=STEPS, candidates=8, levels=4, finished=True):
    """Candidates of one metric, each of which costs `RISE` times the sum of its layers, and as many
    of another metric."""
    run, layout = RunDirectory(path), layout or small_layout(blocks=2, scale=4)
    run.path.mkdir(parents=True)
    curves, random = curves_for(layout, levels), np.random.default_rng(0)
    write_curves(run, layout, curves)
    rows = []
    with Journal(run.journal, {"model": "made up"}, list(layout.sizes)) as journal:
        for _ in range(candidates):
            drop = {name: int(random.uniform(0.1, 0.85) * n) for name, n in layout.sizes.items()}
            values = {"sparsity": layout.sparsity(drop), "kl": RISE * curves.total(drop)}
            for metric in (WANDA, {"name": "ria"}):
                recipe = Recipe.of(metric, drop, "row")
                rows.append({"key": recipe.key, "values": values, "recipe": recipe.to_json()})
                journal.append(recipe, 4096, {"values": values, "reason": "", "seconds": 0.1})
    experiment = {
        "name": "curved", "model": "embedded", "pick": "lowest:kl", "objectives": ["kl"],
        "search": {"driver": "nsga2", "population": 4, "evaluations": 8},
        "text": {"search": {"sequences": 16, "seq_len": 256}},
        "space": {"pattern": "row", "metric": WANDA, "sparsity": sparsity},
    }  # fmt: skip
    write_json(run.layout, layout.to_json())
    manifest = {"status": "running", "hash": path.name, "experiment": experiment}
    if finished and rows:
        best = min(rows, key=lambda row: row["values"]["kl"])
        made_with = {"model": "embedded", "run": path.name}
        front = {
            "format": "optishear-front/1", "experiment": "curved", "model": "embedded",
            "objectives": [{"name": "kl", "maximise": False, "unit": "nats/token"}],
            "pick": "lowest:kl", "picked": best["key"], "made_with": made_with,
            "layout": layout.to_json(), "entries": [best],
        }  # fmt: skip
        ending = {
            "status": "finished", "finished": "2026-01-01T10:01:00+00:00", "ended": "at the end",
            "evaluations": 16, "failed": 0, "measured_now": 16, "seconds": 1.6,
        }  # fmt: skip
        manifest |= ending
        write_json(run.front, front)
        text = {"held out": {"perplexity": 32.1, "error": 0.4, "fewer_nats": {}}}
        held_out = [{"name": "found", "sparsity": 0.5, "search": None, "texts": text}]
        write_json(run.evaluation, {"picked": best["key"], "rows": held_out})
    write_json(run.manifest, manifest)
    return run
