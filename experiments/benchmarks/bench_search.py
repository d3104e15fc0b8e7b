"""What one candidate of a search costs, part by part, beside the bare forward pass.

    python experiments/benchmarks/bench_search.py --model smollm2-135m --out results/bench_search

One process; contenders take turns, each with a new candidate a round, and a time is the median
over the rounds. A CSV file for each part, and a summary.md:

- candidates: whole candidates of several kinds against the bare forward over the same tokens
  (hidden states, no head), and against the plain loop that research code has: score, sort every
  row, write, a dense and a pruned forward with logits, Frobenius norm.
- parts: where the time of one candidate goes.
- tokens: seconds a candidate by search tokens: a line, if all is well. growth: seconds by number
  of candidates, another.
- kl: what the ways of computing the KL cost, and how far they are from the full sum over the
  vocabulary in fp64.
- compiled: decoder blocks through torch.compile against the same candidate as it is.
- taylor: the Taylor loss of the model, by the bytes of gradients that are converted at a time.
- memory: the peak of a process that only searches (a fresh one), beside what it is made of.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pandas as pd
import torch
from bench_common import Aim, in_turns, machine, markdown
from torch import Tensor

from optishear.calibration import gradients
from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import InputSq, stats_of
from optishear.metrics import make_metric
from optishear.models.head import find_head, hidden_states
from optishear.models.load import load
from optishear.models.weights import read, working_weights
from optishear.objectives import make_objective
from optishear.objectives.base import Chunk, OutputObjective
from optishear.pipeline import (
    MeasureFunction,
    MeasurementSettings,
    Memory,
    measure_on,
    references_of,
)
from optishear.pruning.oneshot import OneShot
from optishear.recipe.pattern import Row
from optishear.recipe.profile import uniform
from optishear.recipe.recipe import Recipe
from optishear.records.journal import Journal
from optishear.report.style import BLUE, FULL, GREY, blank, paper_style, save
from optishear.runs.prepare import Calibrated, prepare
from optishear.search.driver import DriverSettings
from optishear.search.drivers import make_driver
from optishear.search.space import SearchSpace
from optishear.search.space_file import SpaceSpec, build_space
from optishear.solvers.masks import keep_highest
from optishear.solvers.ranks import keep_ranked, rank_bytes, ranked, write_kept
from optishear.tasks import CAUSAL_LM
from optishear.text.sources import TextSpec
from optishear.text.tokens import TokenBatches, token_batches


MB = 1e6
GRADIENTS = 16
TAYLOR_CHUNKS = tuple(2**n for n in (20, 21, 22, 23, 24, 27))
CPU = torch.device("cpu")
SPARSITY = {"by": "layer", "low": 0.2, "high": 0.9, "budget": 0.6}
POWER = {
    "name": "power",
    **{name: {"real": [0.5, 1.5]} for name in ("alpha", "beta", "gamma", "delta")},
    "mix": {"real": [0.0, 1.0]},
}
SPACES = {  # which genes change from candidate to candidate
    "ratios": {"pattern": "row", "metric": {"name": "wanda"}, "sparsity": SPARSITY},
    "metric and ratios": {"pattern": "row", "metric": POWER, "sparsity": SPARSITY},
}
LEAST = ("reconstruction", "sparsity")  # no logits
USUAL = ("reconstruction", "kl", "sparsity")


@dataclass(frozen=True, eq=False)
class Bench:
    """A model with statistics, tokens to search on, and how often to measure."""

    calibrated: Calibrated
    search: TokenBatches
    repeats: int

    @property
    def model(self) -> torch.nn.Module:
        return self.calibrated.loaded.model

    @property
    def tokens(self) -> int:
        return self.search.tokens.numel()

    def space(self, name: str) -> SearchSpace:
        return build_space(SpaceSpec.model_validate(SPACES[name]), self.calibrated.layout, {})

    def candidates(self, name: str, seed: int = 0) -> Iterator[Recipe]:
        """Random recipes of a space, all different."""
        space, generator = self.space(name), np.random.default_rng(seed)
        low, high = (np.array([getattr(g, end) for g in space.genes]) for end in ("low", "high"))
        while True:
            yield space.decode(low + generator.random(len(low)) * (high - low))

    @cached_property
    def batches(self) -> list[Tensor]:
        return list(self.search.tokens.split(max(1, 2048 // self.search.tokens.shape[1])))

    def forward(self) -> None:
        for tokens in self.batches:
            hidden_states(self.model, tokens)

    def measure(
        self,
        quantities: tuple[str, ...],
        memory: Memory,
        search: TokenBatches | None = None,
        compiled: bool = False,
    ) -> Any:
        """A measure on a model of its own, so that several may be open at a time."""
        c = self.calibrated
        loaded = load(c.loaded.name)
        return measure_on(
            loaded, c.layout, c.data, search or self.search,
            MeasurementSettings(quantities, compiled=compiled), memory=memory,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--text", default="")
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak-of", choices=["libraries", "model", "search"])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.peak_of:
        print(json.dumps(peak_of(given)))
        return
    bench = bench_of(given)
    lines = [f"`{given.model}`, {bench.tokens} search tokens in sequences of {given.seq_len}."]
    frames: dict[str, pd.DataFrame] = {}
    with torch.no_grad():
        for name in given.parts.split(","):
            frames[name], remarks = PARTS[name](bench, given)
            frame = frames[name]
            text = f"## {name}\n\n{markdown(frame)}\n"
            text += "".join(f"\n{remark}" for remark in remarks)
            print(text, "\n", flush=True)
            lines.append(text)
            if given.out is not None:
                given.out.mkdir(parents=True, exist_ok=True)
                frame.to_csv(given.out / f"{name}.csv", index=False, float_format="%.6g")
    if given.out is not None and {"tokens", "growth"} <= frames.keys():
        draw_lines(frames["tokens"], frames["growth"], given)
    if given.out is not None:
        head = "\n".join(f"- {line}" for line in machine(CPU, given.threads, mpax=False))
        text = "\n\n".join(["# What a candidate costs", head, *lines])
        (given.out / "summary.md").write_text(text + "\n", encoding="utf-8")


def bench_of(given: argparse.Namespace) -> Bench:
    source = given.text or ("embedded" if given.model == "embedded" else "wikipedia-passages")
    calibration = TextSpec(source, "train", 16, given.seq_len)
    prepared = prepare(given.model, "float32", "cpu", calibration)
    search = TextSpec(source, "search", given.sequences, given.seq_len)
    return Bench(
        prepared.calibrate(frozenset({InputSq})),
        token_batches(search, prepared.loaded.tokenizer),
        given.repeats,
    )


def candidates(bench: Bench, given: argparse.Namespace) -> tuple[pd.DataFrame, list[str]]:
    kinds = [
        ("ratios", LEAST, Memory(ranks=2**40)),
        ("ratios", LEAST, Memory()),
        ("metric and ratios", LEAST, Memory()),
        ("ratios", USUAL, Memory(ranks=2**40)),
        ("metric and ratios", USUAL, Memory()),
    ]
    with ExitStack() as stack:
        runs: dict[str, Callable[[], Any]] = {"bare forward": bench.forward}
        for space, quantities, memory in kinds:
            measure = stack.enter_context(bench.measure(quantities, memory))
            name = f"{space}, {' + '.join(q for q in quantities if q != 'sparsity')}"
            name += ", ranks kept" if memory.ranks else ""
            runs[name] = _next(measure, bench.candidates(space), bench.tokens)
            for _ in range(2 if memory.ranks else 0):  # ranks are kept from the second use on
                runs[name]()
        runs["plain loop"] = stack.enter_context(PlainLoop(bench, bench.candidates("ratios")))
        timings = in_turns(runs, bench.repeats, CPU)
    floor, plain = timings["bare forward"].median, timings["plain loop"].median
    rows = [
        {
            "candidate": name,
            "seconds": timing.median,
            "of_forward": timing.median / floor,
            "per_hour": 3600 / timing.median,
            "plain_ratio": plain / timing.median,
        }
        for name, timing in timings.items()
    ]
    frame = pd.DataFrame(rows)
    ratio = dict(zip(frame.candidate, frame.of_forward, strict=True))
    least = min(r for name, r in ratio.items() if name.startswith("ratios, rec"))
    changed = ratio["metric and ratios, reconstruction"]
    faster = dict(zip(frame.candidate, frame.plain_ratio, strict=True))
    aims = [
        Aim("only ratios change: candidate ÷ bare forward", least, 1.08, at_least=False),
        Aim("the metric changes too: candidate ÷ bare forward", changed, 1.20, at_least=False),
        Aim(
            "candidates/hour over the plain loop's",
            faster["metric and ratios, reconstruction"],
            2.4,
            at_least=True,
        ),
    ]
    return frame, [f"- {aim.verdict}" for aim in aims]


def _next(
    measure: MeasureFunction, recipes: Iterator[Recipe], tokens: int
) -> Callable[[], dict[str, float]]:
    return lambda: measure(next(recipes), tokens)


class PlainLoop:
    """One candidate as research code measures it: nothing is kept from one to the next."""

    def __init__(self, bench: Bench, recipes: Iterator[Recipe]) -> None:
        self.bench, self.recipes = bench, recipes
        self.pruned = load(bench.calibrated.loaded.name).model

    def __enter__(self) -> "PlainLoop":
        return self

    def __exit__(self, *_: object) -> None:
        del self.pruned

    def __call__(self) -> float:
        recipe, c = next(self.recipes), self.bench.calibrated
        for layer in c.layout.layers:
            dense = read(self.bench.model, layer)
            scores = dense.abs() * stats_of(c.data.stats, layer).input_norm
            order = scores.sort(dim=1).indices
            each = recipe.drop[layer.name] // layer.out_features
            gone = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order[:, :each], True)
            weight = dense.clone()
            weight[gone] = 0
            read(self.pruned, layer).copy_(weight)
        total = 0.0
        for tokens in self.bench.batches:
            dense_logits = self.bench.model(tokens, use_cache=False).logits
            total += (self.pruned(tokens, use_cache=False).logits - dense_logits).norm().item() ** 2
        return total**0.5


def parts(bench: Bench, given: argparse.Namespace) -> tuple[pd.DataFrame, list[str]]:
    """Each part alone, over all layers, as the candidate has it."""
    c, space = bench.calibrated, bench.space("metric and ratios")
    recipe = next(bench.candidates("metric and ratios"))
    metric, layers, pattern = make_metric(recipe.metric), c.layout.layers, Row()
    with ExitStack() as stack:
        working = stack.enter_context(working_weights(load(c.loaded.name).model, c.layout))

        def score(layer: Any) -> Tensor:
            return metric.score(working.dense(layer.name), stats_of(c.data.stats, layer))

        scores = {layer.name: score(layer) for layer in layers}
        ranks = {name: ranked(s, pattern) for name, s in scores.items()}
        keep = {n: keep_highest(s, recipe.drop[n], pattern) for n, s in scores.items()}
        head = find_head(bench.model, bench.batches[0][:1])
        references = [
            references_of(hidden_states(bench.model, tokens), CAUSAL_LM.targets(tokens), head)
            for tokens in bench.batches
        ]
        hidden = [hidden_states(bench.model, tokens) * 1.01 for tokens in bench.batches]

        def look(name: str) -> Callable[[], float]:
            def run() -> float:
                objective = make_objective(name)
                assert isinstance(objective, OutputObjective)
                for made, pieces in zip(hidden, references, strict=True):
                    split = made.flatten(0, 1).split([len(r.targets) for r in pieces])
                    for part, reference in zip(split, pieces, strict=True):
                        objective.update(Chunk(part, reference))
                return objective.value()

            return run

        folder = Path(stack.enter_context(TemporaryDirectory()))
        journal = stack.enter_context(Journal(folder / "journal.jsonl", {}, list(c.layout.sizes)))
        outcome = {"values": {"reconstruction": 1.0}, "reason": "", "seconds": 1.0}
        genome = np.array([(gene.low + gene.high) / 2 for gene in space.genes])
        runs: dict[str, Callable[[], Any]] = {
            "bare forward": bench.forward,
            "decode": lambda: space.decode(genome).key,
            "driver": _driver(space),
            "score": lambda: [score(layer) for layer in layers],
            "select by thresholds": lambda: [
                keep_highest(s, recipe.drop[n], pattern) for n, s in scores.items()
            ],
            "select by ranks": lambda: [
                keep_ranked(r, recipe.drop[n], pattern) for n, r in ranks.items()
            ],
            "write": lambda: [
                write_kept(working.dense(n), k, working.view(n)) for n, k in keep.items()
            ],
            "reconstruction": look("reconstruction"),
            "kl": look("kl"),
            "journal": lambda: journal.append(recipe, bench.tokens, outcome),
            "rank (once a metric)": lambda: [ranked(s, pattern) for s in scores.values()],
        }
        timings = in_turns(runs, bench.repeats, CPU)
    each = {"driver": GENERATION}  # what one call of it serves
    rows = [{"part": n, "seconds": t.median / each.get(n, 1)} for n, t in timings.items()]
    frame = pd.DataFrame(rows)
    frame["of_forward"] = frame.seconds / frame.seconds[0]
    small = frame.set_index("part").seconds[["decode", "driver", "journal"]].sum()
    aim = Aim("decode, driver and journal together, in ms", 1000 * small, 10, at_least=False)
    return frame, [f"- {aim.verdict}"]


GENERATION = 24


def _driver(space: SearchSpace) -> Callable[[], None]:
    driver = make_driver("nsga2", DriverSettings(space.genes, 2, GENERATION))

    def generation() -> None:
        asked = driver.ask()
        driver.tell([(float(g.sum()), float((g**2).sum())) for g in asked])

    return generation


def tokens(bench: Bench, given: argparse.Namespace) -> tuple[pd.DataFrame, list[str]]:
    rows = []
    length = bench.search.tokens.shape[1]
    runs, counts = {}, [2**i for i in range(bench.search.tokens.shape[0].bit_length())]
    with ExitStack() as stack:
        for count in counts:
            part = TokenBatches.of(bench.search.tokens[:count], f"first {count}")
            measure = stack.enter_context(bench.measure(LEAST, Memory(ranks=2**40), part))
            runs[count] = _next(measure, bench.candidates("ratios"), count * length)
            runs[count]()
        timings = in_turns({str(n): run for n, run in runs.items()}, bench.repeats, CPU)
    for count in counts:
        rows.append({"tokens": count * length, "seconds": timings[str(count)].median})
    frame = pd.DataFrame(rows)
    slope, start = np.polyfit(frame.tokens, frame.seconds, 1)
    frame["line"] = start + slope * frame.tokens
    return frame, [f"Least squares: {start:.3g} s + {1000 * slope:.3g} ms a token."]


def growth(bench: Bench, given: argparse.Namespace) -> tuple[pd.DataFrame, list[str]]:
    """A search of its own, on few tokens: does the hundredth candidate cost what the first does?"""
    few = TokenBatches.of(bench.search.tokens[:1], "first sequence")
    seconds = []
    with bench.measure(LEAST, Memory(ranks=2**40, prefixes=2**29), few) as measure:
        run = _next(measure, bench.candidates("ratios"), few.tokens.numel())
        for _ in range(CANDIDATES):
            started = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - started)
    every = CANDIDATES // 8
    numbers = np.arange(every, CANDIDATES + 1, every)
    frame = pd.DataFrame({"candidates": numbers, "seconds": np.cumsum(seconds)[numbers - 1]})
    first, last = (statistics.median(s) for s in (seconds[2:every], seconds[-every:]))
    return frame, [f"Median candidate of the last eighth ÷ of the first: {last / first:.3g}."]


CANDIDATES = 64


def draw_lines(by_tokens: pd.DataFrame, by_number: pd.DataFrame, given: argparse.Namespace) -> None:
    """The two lines: what a candidate costs by tokens, what a search costs by candidates."""
    with paper_style():
        figure = blank(f"{given.model}: cost by search tokens, and by candidates", FULL, 2.6)
        left, right = figure.subplots(1, 2)
        left.plot(by_tokens.tokens, by_tokens.line, color=GREY, label="least squares")
        left.plot(by_tokens.tokens, by_tokens.seconds, "o", color=BLUE, label="measured")
        left.set(xlabel="search tokens", ylabel="seconds a candidate", xlim=(0, None))
        end = by_number.iloc[-1]
        right.plot([0, end.candidates], [0, end.seconds], color=GREY, label="through 0 and the end")
        right.plot(by_number.candidates, by_number.seconds, "o", color=BLUE, label="measured")
        right.set(xlabel="candidates", ylabel="seconds in all", xlim=(0, None))
        for axes in (left, right):
            axes.set_ylim(0, None)
            axes.legend()
        save(figure, given.out / "lines")


def kl(bench: Bench, given: argparse.Namespace) -> tuple[pd.DataFrame, list[str]]:
    """Ways of the KL on the same pruned hidden states, for mild to harsh recipes."""
    c, rows = bench.calibrated, []
    tokens = bench.batches[0]
    head = find_head(bench.model, tokens[:1])
    pieces = references_of(hidden_states(bench.model, tokens), CAUSAL_LM.targets(tokens), head)
    loaded = load(c.loaded.name)
    sparsities = (0.1, 0.5, 0.7)
    names = ("kl", "kl_top@512", "kl_top@64", "kl_top@16")
    with working_weights(loaded.model, c.layout) as working:
        writer = OneShot(working, c.layout, c.data)
        for sparsity in sparsities:
            writer.write(Recipe({"name": "wanda"}, uniform(c.layout, Row(), sparsity)))
            made = hidden_states(loaded.model, tokens).flatten(0, 1)
            split = made.split([len(r.targets) for r in pieces])

            def full(split: Any = split) -> float:
                total = torch.zeros((), dtype=torch.float64)
                for part, reference in zip(split, pieces, strict=True):
                    p, q = (
                        head.logits(h).double().log_softmax(-1) for h in (reference.hidden, part)
                    )
                    total += (p.exp() * (p - q)).sum()
                return (total / tokens.numel()).item()

            def plain(split: Any = split) -> float:
                total = torch.zeros((), dtype=torch.float64)
                for part, reference in zip(split, pieces, strict=True):
                    p, q = (head.logits(h).log_softmax(-1) for h in (reference.hidden, part))
                    total += (p.exp() * (p - q)).sum(dtype=torch.float64)
                return (total / tokens.numel()).item()

            def ours(name: str, split: Any = split) -> float:
                objective = make_objective(name)
                assert isinstance(objective, OutputObjective)
                for part, reference in zip(split, pieces, strict=True):
                    objective.update(Chunk(part, reference))
                return objective.value()

            runs: dict[str, Callable[[], Any]] = {"full, fp32": plain}
            runs |= {name: (lambda name=name: ours(name)) for name in names}
            exact = full()
            for name, timing in in_turns(runs, 3, CPU).items():
                rows.append(
                    {
                        "sparsity": sparsity,
                        "objective": name,
                        "kl": timing.result,
                        "off_by": timing.result / exact - 1,
                        "seconds": timing.median,
                    }
                )
    frame = pd.DataFrame(rows)
    return frame, ["`off_by`: relative, from the full sum over the vocabulary in fp64."]


def compiled(bench: Bench, given: argparse.Namespace) -> tuple[pd.DataFrame, list[str]]:
    ways = {"as it is": False, "compiled": True}
    with ExitStack() as stack:
        runs, first = {}, {}
        for name, is_compiled in ways.items():
            measure = stack.enter_context(
                bench.measure(LEAST, Memory(ranks=2**40), compiled=is_compiled)
            )
            runs[name] = _next(measure, bench.candidates("ratios"), bench.tokens)
            started = time.perf_counter()
            values = runs[name]()
            first[name] = (time.perf_counter() - started, values["reconstruction"])
            runs[name]()
        timings = in_turns(runs, bench.repeats, CPU)
    rows = [
        {
            "blocks": name,
            "seconds": timings[name].median,
            "first_seconds": first[name][0],
            "reconstruction": first[name][1],
        }
        for name in ways
    ]
    plain, other = (row["seconds"] for row in rows)
    off = rows[1]["reconstruction"] / rows[0]["reconstruction"] - 1
    return pd.DataFrame(rows), [
        f"Compiled ÷ as it is: {other / plain:.3g}. Deviation of the first candidate's "
        f"reconstruction error: {off:.1e}."
    ]


def taylor(bench: Bench, given: argparse.Namespace) -> tuple[pd.DataFrame, list[str]]:
    """A layer of each shape, with gradients made up: what they say takes no part in the time."""
    generator = torch.Generator().manual_seed(0)
    shapes = Counter((x.out_features, x.in_features) for x in bench.calibrated.layout.layers)
    rows = []
    for (out, width), layers in shapes.items():
        stored = torch.randn(out, GRADIENTS, width, generator=generator).half()
        of_layer = LayerGradients(stored, torch.ones(GRADIENTS))
        change = torch.randn(out, width, generator=generator)

        def loss(chunk: int, of_layer: Any = of_layer, change: Tensor = change) -> float:
            with patch.object(gradients, "CHUNK_BYTES_CPU", chunk):
                return of_layer.taylor(change)

        runs = {f"{c >> 20} MiB": partial(loss, c) for c in TAYLOR_CHUNKS}
        runs["to fp32 alone, at once"] = stored.float
        for name, timing in in_turns(runs, bench.repeats, CPU).items():
            rows.append({"chunk": name, "seconds": layers * timing.median})
    frame = pd.DataFrame(rows).groupby("chunk", sort=False, as_index=False).sum()
    return frame, [
        f"Of all {sum(shapes.values())} layers, {GRADIENTS} gradient sequences: "
        f"{sum(n * a * b for (a, b), n in shapes.items()) * GRADIENTS / 1e9:.3g} G numbers in fp16."
    ]


def memory(bench: Bench, given: argparse.Namespace) -> tuple[pd.DataFrame, list[str]]:
    numbers = {"sequences": given.sequences, "seq-len": given.seq_len, "threads": given.threads}
    words = [f"--{name}={value}" for name, value in numbers.items()]
    words += [f"--model={given.model}", f"--text={given.text}"]
    peaks = {}
    # glibc keeps freed blocks of up to 32 MB, and the holes between them count as resident.
    given_back = {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    for name, what, environment in (
        ("libraries", "libraries", {}),
        ("model", "model", {}),
        ("search", "search", {}),
        ("search, given back", "search", given_back),
    ):
        command = [sys.executable, __file__, *words, f"--peak-of={what}"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
        if done.returncode:
            raise SystemExit(done.stderr)
        peaks[name] = json.loads(done.stdout.splitlines()[-1])
    layout, loaded = bench.calibrated.layout, bench.calibrated.loaded
    weights = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    kept = rank_bytes(layout.layers, Row())
    rows = [
        {
            "what": "imported libraries (with the embedded model loaded)",
            "MB": peaks["libraries"] / MB,
        },
        {"what": "with the dense model loaded", "MB": peaks["model"] / MB},
        {"what": "a search: the peak", "MB": peaks["search"] / MB},
        {
            "what": "a search whose allocator gives freed blocks back at once (slower)",
            "MB": peaks["search, given back"] / MB,
        },
        {"what": "the weights in the search's dtype", "MB": weights / MB},
        {"what": "ranks of one metric", "MB": kept / MB},
    ]
    ratio, held = (
        (peaks[name] - peaks["libraries"] - kept) / weights
        for name in ("search", "search, given back")
    )
    aim = Aim("peak less libraries and ranks, over the weights", ratio, 2.2, at_least=False)
    return pd.DataFrame(rows), [
        f"- {aim.verdict}",
        f"- without the holes that the allocator keeps (MALLOC_MMAP_THRESHOLD_): {held:.3g}",
    ]


def peak_of(given: argparse.Namespace) -> int:
    """Bytes resident at most in this process, which does nothing but what is asked for."""
    if given.peak_of != "search":
        load("embedded" if given.peak_of == "libraries" else given.model)  # imports what it needs
    if given.peak_of == "search":
        bench = bench_of(given)
        c, recipes = bench.calibrated, bench.candidates("ratios")
        memory = Memory(ranks=2**40)
        with measure_on(
            c.loaded, c.layout, c.data, bench.search, MeasurementSettings(USUAL), memory=memory
        ) as measure:
            for _ in range(4):
                measure(next(recipes), bench.tokens)
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]


PARTS: dict[str, Callable[[Bench, argparse.Namespace], tuple[pd.DataFrame, list[str]]]] = {
    "candidates": candidates,
    "parts": parts,
    "tokens": tokens,
    "growth": growth,
    "kl": kl,
    "compiled": compiled,
    "taylor": taylor,
    "memory": memory,
}


if __name__ == "__main__":
    main()
