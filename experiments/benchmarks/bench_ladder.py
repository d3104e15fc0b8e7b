"""What a ladder of fidelities and the reuse of prefixes save at equal final hypervolume.

    python experiments/benchmarks/bench_ladder.py --model smollm2-135m --out results/bench_ladder

One search measures every candidate on all search tokens; the others of the same space, driver and
seed climb from few tokens, without and with prefix-keeping variation. The reference point of the
hypervolume is the uniform profile with Wanda's scores on all search tokens, so that it counts what
is better than that in every objective. A ladder has reached the plain search when the front of its
top rung has that hypervolume.

searches.csv has a row for each search, evaluations.csv one for each evaluation (tokens and seconds
so far, hypervolume of the top rung's front), from which the rest follows.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pandas as pd
import torch
import yaml
from bench_common import Aim, machine, markdown
from bench_search_setting import PlainLoop, bench_of
from help_text import first_line

from optishear.allocation import RULES
from optishear.config.files import SEARCH_SPACES
from optishear.models.load import load
from optishear.objectives import make_objective
from optishear.pipeline import MeasurementSettings, Memory, measure_on
from optishear.recipe.profile import uniform
from optishear.recipe.recipe import Recipe
from optishear.runs.prepare import rule_of
from optishear.search.driver import DriverSettings
from optishear.search.drivers import make_driver
from optishear.search.evaluator import Evaluation, outcome_of
from optishear.search.front import hypervolume_history
from optishear.search.ladder import Ladder
from optishear.search.loop import Found, run
from optishear.search.seeds import seed_genomes
from optishear.search.space import SearchSpace
from optishear.search.space_file import SpaceSpec, build_space
from optishear.solvers.methods import METHODS


@dataclass
class Trace:
    """One search as it went: for each evaluation its rung, tokens, seconds and values."""

    name: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    blocks_run: int = 0
    blocks_reused: int = 0

    @property
    def frame(self) -> pd.DataFrame:
        frame = pd.DataFrame(self.rows)
        frame["tokens"], frame["seconds"] = frame.tokens.cumsum(), frame.seconds.cumsum()
        return frame


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--text", default="")
    parser.add_argument("--space", default="blocks")
    parser.add_argument("--objectives", default="reconstruction,kl")
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--rungs", default="512,2048")
    parser.add_argument("--keep", type=float, default=0.1)
    parser.add_argument("--population", type=int, default=8)
    parser.add_argument("--evaluations", type=int, default=96, help="of the plain search")
    parser.add_argument("--more", default="2.5", help="as many times more on the lowest rung")
    parser.add_argument("--variations", default="free,prefix")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    bench = bench_of(given)
    spec = yaml.safe_load(SEARCH_SPACES.find(given.space).read_text(encoding="utf-8"))
    rules = {name: rule_of(bench.calibrated, name) for name in RULES}
    space = build_space(SpaceSpec.model_validate(spec), bench.calibrated.layout, rules)
    objectives = given.objectives.split(",")
    lower = tuple(int(rung) for rung in given.rungs.split(","))
    rungs = (*lower, bench.tokens)
    plain_seconds = seconds_of_the_plain_loop(bench, given.repeats)
    searches, evaluations = [], []
    for seed in map(int, given.seeds.split(",")):
        traces = [searched(bench, space, objectives, given, seed, "one rung", (bench.tokens,), 1)]
        for more in map(float, given.more.split(",")):
            for variation in given.variations.split(","):
                name = f"ladder, {variation}, {more:g}x"
                traces.append(
                    searched(bench, space, objectives, given, seed, name, rungs, more, variation)
                )
        reference = uniform_wanda(bench, space, objectives)
        frames = [compared(trace, objectives, reference, bench.tokens) for trace in traces]
        goal, base = frames[0].hypervolume.iloc[-1], frames[0]
        for trace, frame in zip(traces, frames, strict=True):
            evaluations.append(frame.assign(search=trace.name, seed=seed))
            searches.append(
                {"seed": seed, "search": trace.name, **summary(trace, frame, base, goal)}
                | {"plain_loop_seconds": plain_seconds * len(base)}
            )
            print(searches[-1], flush=True)
    table = pd.DataFrame(searches)
    table["saving_over_plain_loop"] = table.plain_loop_seconds / table.seconds_to_reach
    table.to_csv(given.out / "searches.csv", index=False, float_format="%.6g")
    pd.concat(evaluations).to_csv(given.out / "evaluations.csv", index=False, float_format="%.6g")
    write_summary(table, given, bench, rungs, plain_seconds)


def searched(
    bench: Any,
    space: SearchSpace,
    objectives: Sequence[str],
    given: argparse.Namespace,
    seed: int,
    name: str,
    rungs: tuple[int, ...],
    more: float,
    variation: Any = "free",
) -> Trace:
    c, trace = bench.calibrated, Trace(name)
    maximise = [make_objective(o).maximise for o in objectives]
    settings = DriverSettings(
        space.genes,
        len(objectives),
        given.population,
        seed,
        seed_genomes(space, [METHODS[m].metric for m in ("wanda", "ria", "magnitude")]),
        gene_blocks=space.gene_blocks,
        gene_sizes=space.gene_sizes,
        variation=variation,
    )
    memory = Memory(ranks=2 * 10**9, prefixes=2 * 10**9 if variation == "prefix" else 0)
    with measure_on(
        load(c.loaded.name), c.layout, c.data, bench.search,
        MeasurementSettings(tuple(objectives), rungs=tuple(rungs[:-1])), memory=memory,
    ) as measure:  # fmt: skip

        def evaluate(recipes: Sequence[Recipe], rung: int) -> Iterator[Evaluation]:
            for recipe in recipes:
                yield Evaluation(recipe, rung, **outcome_of(measure, recipe, rung))

        def watch(found: Found, e: Evaluation) -> None:
            below = [rung for rung in rungs if rung < e.rung]
            tokens = e.rung - (below[-1] if below else 0)
            values = {o: (e.values or {}).get(o) for o in objectives}
            trace.rows.append({"rung": e.rung, "tokens": tokens, "seconds": e.seconds, **values})

        run(
            space,
            make_driver("nsga2", settings),
            evaluate,
            round(more * given.evaluations),
            objectives,
            maximise,
            Ladder(rungs, given.keep, least=given.population),
            watch,
        )
        if measure.prefix is not None:  # type: ignore[attr-defined]
            trace.blocks_run = measure.prefix.blocks_run  # type: ignore[attr-defined]
            trace.blocks_reused = measure.prefix.blocks_reused  # type: ignore[attr-defined]
    return trace


def uniform_wanda(bench: Any, space: SearchSpace, objectives: Sequence[str]) -> np.ndarray:
    """The objective values to beat, all minimised: Wanda's scores at the budget in every layer."""
    c, pattern = bench.calibrated, space.layers.patterns
    recipe = Recipe.of({"name": "wanda"}, uniform(c.layout, pattern, space.sparsity or 0.6))
    with bench.measure(tuple(objectives), Memory()) as measure:
        values = measure(recipe, bench.tokens)
    signs = [-1 if make_objective(o).maximise else 1 for o in objectives]
    return np.array([s * values[o] for s, o in zip(signs, objectives, strict=True)])


def compared(
    trace: Trace, objectives: Sequence[str], reference: np.ndarray, top: int
) -> pd.DataFrame:
    """With the hypervolume of the top rung's front so far, in units of the reference point."""
    frame = trace.frame
    signs = np.array([-1 if make_objective(o).maximise else 1 for o in objectives])
    values = [
        None if rung != top or np.isnan(found).any() else tuple(signs * found / np.abs(reference))
        for rung, found in zip(frame.rung, frame[list(objectives)].to_numpy(float))
    ]
    frame["hypervolume"] = hypervolume_history(values, np.sign(reference))
    return frame


def summary(trace: Trace, frame: pd.DataFrame, base: pd.DataFrame, goal: float) -> dict[str, Any]:
    """`…_to_reach`: what it took until the plain search's final hypervolume was there."""
    there = frame[frame.hypervolume >= goal]
    tokens, seconds = (there.iloc[0][k] if len(there) else np.nan for k in ("tokens", "seconds"))
    counts = frame.groupby("rung").size()
    return {
        "evaluations": " → ".join(str(n) for n in counts),
        "tokens": frame.tokens.iloc[-1],
        "seconds": frame.seconds.iloc[-1],
        "hypervolume": frame.hypervolume.iloc[-1],
        "of_one_rung": frame.hypervolume.iloc[-1] / goal,
        "tokens_to_reach": tokens,
        "seconds_to_reach": seconds,
        "saving_in_tokens": base.tokens.iloc[-1] / tokens,
        "saving_in_seconds": base.seconds.iloc[-1] / seconds,
        "blocks_saved": trace.blocks_reused / max(1, trace.blocks_run + trace.blocks_reused),
    }


def seconds_of_the_plain_loop(bench: Any, repeats: int) -> float:
    seconds = []
    with torch.no_grad(), PlainLoop(bench, bench.candidates("ratios")) as loop:
        for _ in range(repeats):
            started = time.perf_counter()
            loop()
            seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def write_summary(
    table: pd.DataFrame,
    given: argparse.Namespace,
    bench: Any,
    rungs: Sequence[int],
    plain_seconds: float,
) -> None:
    lines = [f"- {line}" for line in machine(torch.device("cpu"), given.threads, mpax=False)]
    climbed = table[table.search != "one rung"]
    aims = [
        Aim("fewer tokens at equal hypervolume, best ladder", climbed.saving_in_tokens.max(), 4,
            at_least=True),
        Aim("faster than the plain loop at equal hypervolume, best ladder",
            climbed.saving_over_plain_loop.max(), 10, at_least=True),
    ]  # fmt: skip
    text = [
        "# Ladder of fidelities and prefix reuse, at equal final hypervolume",
        "\n".join(lines),
        f"`{given.model}`, space `{given.space}`, {given.objectives}, NSGA-II with a population of "
        f"{given.population}; rungs {', '.join(map(str, rungs))} tokens. Hypervolume in units of "
        f"uniform Wanda's values, which are its reference point. The plain loop (bench_search) "
        f"takes {plain_seconds:.3g} s a candidate on {bench.tokens} tokens; `plain loop seconds` "
        f"is that times the candidates of the search on one rung.",
        markdown(table),
        "\n".join(f"- {aim.verdict}" for aim in aims),
    ]
    (given.out / "summary.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    print((given.out / "summary.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
