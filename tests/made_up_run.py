"""The folder of a run without a model: a real search loop and journal around a made-up measure."""

import numpy as np
from layouts import small_layout

from optishear.errors import NumericalError
from optishear.recipe.profile import Rule
from optishear.recipe.recipe import Recipe
from optishear.records.journal import Journal
from optishear.records.run_directory import RunDirectory, read_json, write_json
from optishear.runs.watcher import Silent
from optishear.search.driver import DriverSettings
from optishear.search.drivers import make_driver, make_ladder
from optishear.search.evaluator import Evaluator, one_by_one
from optishear.search.loop import run
from optishear.search.space_file import SpaceSpec, build_space


LAYOUT = small_layout(blocks=3, scale=4)
NAMES = list(LAYOUT.sizes)
RULES = {"uniform": Rule(dict.fromkeys(NAMES, 1.0), dict.fromkeys(NAMES, 0.0))}
SPACE = {
    "metric": [
        {"name": "magnitude"},
        {"name": "power", "alpha": {"real": [0.5, 2]}, "delta": {"real": [0.0, 1.5]}},
    ],
    "sparsity": {"by": "block", "low": 0.2, "high": 0.9},
}
BASELINES = [Recipe.of({"name": "ria"}, dict.fromkeys(NAMES, k), "row") for k in (1, 2, 3)]


def measure(recipe, rung):
    """Fails where the first layer loses much; every rung sees another text."""
    lost = np.array([recipe.drop[name] / LAYOUT.sizes[name] for name in NAMES])
    if lost[0] > 0.8:
        raise NumericalError("blocks.0.attn.q: not positive definite")
    text = np.random.default_rng(rung).normal(1, 20 / rung**0.5, 6)
    error = float((lost**2 * np.arange(1, 7) * text).sum()) + recipe.default.metric.get(
        "alpha", 1.0
    )
    return {"sparsity": LAYOUT.sparsity(recipe.drop), "reconstruction": error, "kl": error / 2}


def begin(folder, driver="nsga2", rungs=(512,), evaluations=60, pick="knee", population=12):
    """A run folder as it is when the search begins: a manifest, and no evaluation."""
    directory = RunDirectory(folder / "made-up" / "abc123")
    objectives = ["reconstruction"] if driver == "evopress" else ["sparsity", "reconstruction"]
    search = {"driver": driver, "population": population, "evaluations": evaluations, "seed": 0}
    if len(rungs) > 1:
        search["rungs"] = list(rungs[:-1])
    experiment = {
        "name": "made-up",
        "model": "none",
        "text": {"search": {"sequences": rungs[-1] // 64, "seq_len": 64}},
        "space": SPACE,
        "objectives": objectives,
        "search": search,
        "pick": pick,
    }
    manifest = {
        "status": "running",
        "experiment": experiment,
        "hash": "abc123",
        "started": "2026-01-01T10:00:00+00:00",
    }
    write_json(directory.layout, LAYOUT.to_json())
    write_json(directory.manifest, manifest)
    return directory


def go_on(directory, watcher=None, until=None, memo=None, finish=True):
    """Searches to the end, or until so many evaluations are made; then measures the baselines."""
    watcher = watcher or Silent()
    manifest = read_json(directory.manifest)
    experiment = manifest["experiment"]
    search, text = experiment["search"], experiment["text"]["search"]
    rungs = (*search.get("rungs", ()), text["sequences"] * text["seq_len"])
    space = build_space(SpaceSpec.model_validate(experiment["space"]), LAYOUT, RULES)
    goal = experiment["objectives"], [name == "sparsity" for name in experiment["objectives"]]
    settings = DriverSettings(
        space.genes, len(goal[0]), search["population"], 0, exchangeable=space.exchangeable
    )
    ladder = make_ladder(search["driver"], rungs, 0.25, search["population"])
    most, made = search["evaluations"], 0

    def told(found, evaluation):
        nonlocal made
        watcher.evaluated(found, evaluation, most)
        made += 1
        if made == until:
            raise KeyboardInterrupt

    with Journal(directory.journal, {"model": "stand-in"}, NAMES) as journal:
        evaluator = Evaluator(one_by_one(measure), journal, memo)
        watcher.stage("searching")
        driver = make_driver(search["driver"], settings)
        try:
            found = run(space, driver, evaluator, most, *goal, ladder, told)
        except KeyboardInterrupt:
            return None
        list(evaluator(BASELINES, rungs[-1]))
    if finish:
        ending = {
            "status": "finished",
            "finished": "2026-01-01T10:10:00+00:00",
            "ended": found.ended,
            "evaluations": found.asked,
        }
        write_json(directory.manifest, manifest | ending)
    return found
