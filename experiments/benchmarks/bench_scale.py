"""How the search scales over workers: candidates an hour, Ray's part of a candidate, a projection.

    python experiments/benchmarks/bench_scale.py --out results/bench_scale

All workers have one thread. In turns, medians of `--repeats` rounds: the same candidates measured
in this process, on one worker and on several; calls that do nothing, for what Ray takes of each;
and the loop around a candidate that costs nothing (decode, driver, journal on disk). From these
parts candidates an hour on more devices are calculated, with the assumptions in the summary.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import ceil
from pathlib import Path


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pandas as pd
import torch
from bench_common import origin_line
from help_text import first_line

from optishear.config import load_experiment
from optishear.objectives import make_objective
from optishear.recipe.recipe import Recipe
from optishear.records.journal import Journal
from optishear.runs.setup import Setup, set_up
from optishear.runs.watcher import Silent
from optishear.search.evaluator import Evaluator, MeasureAll, one_by_one
from optishear.search.loop import run
from optishear.workers.candidates import measuring_on
from optishear.workers.cluster import Cluster, Workers, running
from optishear.workers.pool import Call
from optishear.workers.replica import Payload


HERE = "this process"
NOTHING = 200  # calls that do nothing
PROJECTED = (1, 8, 64)  # devices
GPU_CANDIDATE = 0.078  # seconds, assumed: 1.3 x 60 ms, the aim for a 7B model on an H200


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--experiment", default="smollm2_60")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    setup = set_up(load_experiment(given.experiment), Silent())
    numbers = [int(number) for number in given.workers.split(",")]
    rates = rates_of(setup, numbers, given.candidates, given.repeats)
    parts = parts_of(setup, rates, max(numbers))
    write(given, setup, rates, parts)


def rates_of(
    setup: Setup, numbers: Sequence[int], candidates: int, repeats: int
) -> Mapping[str, list[float]]:
    """Seconds of every round by contender. A round measures candidates that none has seen."""
    rng, genes = np.random.default_rng(0), setup.space.genes
    low, high = (np.array([getattr(gene, end) for gene in genes]) for end in ("low", "high"))
    seconds: dict[str, list[float]] = {}
    with ExitStack() as stack:
        contenders: dict[str, MeasureAll] = {}
        measure = stack.enter_context(setup.job(None).measuring(lambda text: None))
        contenders[HERE] = one_by_one(measure)
        stack.enter_context(running(Workers(sum(numbers), 1)))
        for number in numbers:
            cluster = Cluster(Workers(number, 1), lambda text: None)
            contenders[label(number)] = stack.enter_context(measuring_on(cluster, setup.job(None)))
        for turn in range(repeats + 1):  # the first one is a warm-up
            genomes = [rng.uniform(low, high) for _ in range(candidates)]
            recipes = [setup.space.decode(genome) for genome in genomes]
            for name, measure_all in contenders.items():
                start = time.perf_counter()
                done = dict(measure_all(recipes, setup.ladder.rungs[-1]))
                took = time.perf_counter() - start
                assert len(done) == candidates
                if turn:
                    seconds.setdefault(name, []).append(took)
                print(f"round {turn}, {name}: {took:.2f} s", flush=True)
    return seconds


def label(number: int) -> str:
    return f"{number} worker" + ("s" if number > 1 else "")


@dataclass(frozen=True)
class Nothing(Payload):
    """What costs nothing to do, so that only the way there and back is left."""

    def begin(self, stack: ExitStack, device: str, notice: Callable[[str], None]) -> "Nothing":
        return self

    def nothing(self, recipe: Recipe) -> dict[str, float]:
        return {"kl": 1.0}


def parts_of(
    setup: Setup, rates: Mapping[str, Sequence[float]], number: int
) -> Mapping[str, float]:
    """Milliseconds a candidate: Ray's dispatch, and the loop without any measuring."""
    recipe = setup.space.decode(setup.seeds[0])
    calls = [Call(str(i), "nothing", (recipe,), "nothing") for i in range(NOTHING)]
    with running(Workers(number, 1)):
        cluster = Cluster(Workers(number, 1), lambda text: None)
        with cluster.pool(Nothing()) as pool:
            list(pool.run(calls[:number]))
            start = time.perf_counter()
            list(pool.run(calls))
            dispatch = (time.perf_counter() - start) / NOTHING
    return {"dispatch": 1e3 * dispatch, "loop": 1e3 * loop_seconds(setup)}


def loop_seconds(setup: Setup) -> float:
    """Of a candidate in a search that measures nothing: decode, driver, journal (fsynced)."""
    experiment, rng = setup.experiment, np.random.default_rng(0)

    def drawn(recipe: Recipe, rung: int) -> dict[str, float]:
        return {name: float(rng.random()) for name in experiment.quantities}

    maximise = [make_objective(name).maximise for name in experiment.objectives]
    number = 20 * experiment.search.population
    with tempfile.TemporaryDirectory() as folder:
        with Journal(Path(folder) / "j.jsonl", setup.identity, setup.layer_names) as journal:
            evaluator = Evaluator(one_by_one(drawn), journal)
            start = time.perf_counter()
            run(
                setup.space, setup.driver(setup.unsolved), evaluator, number,
                experiment.objectives, maximise, setup.ladder,
            )  # fmt: skip
            return (time.perf_counter() - start) / number


def write(
    given: argparse.Namespace,
    setup: Setup,
    rates: Mapping[str, Sequence[float]],
    parts: Mapping[str, float],
) -> None:
    given.out.mkdir(parents=True, exist_ok=True)
    rows = [
        {"contender": name, "round": number, "seconds": round(s, 3), "candidates": given.candidates}
        for name, seconds in rates.items()
        for number, s in enumerate(seconds)
    ]
    pd.DataFrame(rows).to_csv(given.out / "rounds.csv", index=False)
    pd.DataFrame([parts]).round(3).to_csv(given.out / "parts.csv", index=False)
    median = {name: statistics.median(seconds) for name, seconds in rates.items()}
    one = median[label(1)]
    overhead = 1e3 * (one - median[HERE]) / given.candidates
    lines = [
        "# Candidates an hour over workers",
        "",
        f"Experiment `{given.experiment}`, {given.candidates} new candidates a round on "
        f"{setup.ladder.rungs[-1]:,} tokens, one thread a worker, medians of {given.repeats} "
        f"rounds in turns.",
        "",
        "| | seconds a round | candidates an hour | against one worker |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name} | {s:.2f} | {3600 * given.candidates / s:,.0f} | {one / s:.2f} |"
            for name, s in median.items()
        ),
        "",
        f"One worker less this process: {overhead:+.0f} ms a candidate. A call that does "
        f"nothing takes {parts['dispatch']:.2f} ms with {[*rates][-1]} idle; decode, driver "
        f"and journal take {parts['loop']:.2f} ms a candidate.",
        "",
        *projection(setup, parts),
        origin_line(f"{os.cpu_count()} cores"),
        "",
    ]
    (given.out / "summary.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def projection(setup: Setup, parts: Mapping[str, float]) -> Iterator[str]:
    """Calculated, not measured."""
    around = (parts["dispatch"] + parts["loop"]) / 1e3
    sizes = (setup.experiment.search.population, 64, 256)
    yield ("## Calculated, not measured: candidates an hour on more devices")
    yield ""
    yield (
        f"Assumed: a candidate takes {1e3 * GPU_CANDIDATE:.0f} ms on a device, all alike; a "
        f"generation is waited for (the last devices idle while its rest is measured); this "
        f"process spends {1e3 * around:.2f} ms a candidate on dispatch, decode, driver and "
        f"journal, while devices work, so it is the limit only where that is more than their share."
    )
    yield ""
    yield "| population | " + " | ".join(f"{n} device{'s' * (n > 1)}" for n in PROJECTED) + " |"
    yield "| --- |" + " --- |" * len(PROJECTED)
    for size in sizes:
        cells = []
        for devices in PROJECTED:
            generation = max(ceil(size / devices) * GPU_CANDIDATE, size * around)
            cells.append(f"{3600 * size / generation:,.0f}")
        yield f"| {size} | " + " | ".join(cells) + " |"
    yield ""


if __name__ == "__main__":
    main()
