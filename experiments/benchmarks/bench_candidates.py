"""Whole candidates of a search: beside the bare forward, by tokens, by number, compiled."""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd
from bench_common import Aim, in_turns
from bench_search_setting import CPU, LEAST, USUAL, Bench, Part, PlainLoop, next_of

from optishear.pipeline import Memory
from optishear.text.tokens import TokenBatches


CANDIDATES = 64


def candidates(bench: Bench, given: argparse.Namespace) -> Part:
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
            runs[name] = next_of(measure, bench.candidates(space), bench.tokens)
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


def tokens(bench: Bench, given: argparse.Namespace) -> Part:
    rows = []
    length = bench.search.tokens.shape[1]
    runs, counts = {}, [2**i for i in range(bench.search.tokens.shape[0].bit_length())]
    with ExitStack() as stack:
        for count in counts:
            part = TokenBatches.of(bench.search.tokens[:count], f"first {count}")
            measure = stack.enter_context(bench.measure(LEAST, Memory(ranks=2**40), part))
            runs[count] = next_of(measure, bench.candidates("ratios"), count * length)
            runs[count]()
        timings = in_turns({str(n): run for n, run in runs.items()}, bench.repeats, CPU)
    for count in counts:
        rows.append({"tokens": count * length, "seconds": timings[str(count)].median})
    frame = pd.DataFrame(rows)
    slope, start = np.polyfit(frame.tokens, frame.seconds, 1)
    frame["line"] = start + slope * frame.tokens
    return frame, [f"Least squares: {start:.3g} s + {1000 * slope:.3g} ms a token."]


def growth(bench: Bench, given: argparse.Namespace) -> Part:
    """A search of its own, on few tokens: does the hundredth candidate cost what the first does?"""
    few = TokenBatches.of(bench.search.tokens[:1], "first sequence")
    seconds = []
    with bench.measure(LEAST, Memory(ranks=2**40, prefixes=2**29), few) as measure:
        run = next_of(measure, bench.candidates("ratios"), few.tokens.numel())
        for _ in range(CANDIDATES):
            started = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - started)
    every = CANDIDATES // 8
    numbers = np.arange(every, CANDIDATES + 1, every)
    frame = pd.DataFrame({"candidates": numbers, "seconds": np.cumsum(seconds)[numbers - 1]})
    first, last = (statistics.median(s) for s in (seconds[2:every], seconds[-every:]))
    return frame, [f"Median candidate of the last eighth ÷ of the first: {last / first:.3g}."]


def compiled(bench: Bench, given: argparse.Namespace) -> Part:
    ways = {"as it is": False, "compiled": True}
    with ExitStack() as stack:
        runs, first = {}, {}
        for name, is_compiled in ways.items():
            measure = stack.enter_context(
                bench.measure(LEAST, Memory(ranks=2**40), compiled=is_compiled)
            )
            runs[name] = next_of(measure, bench.candidates("ratios"), bench.tokens)
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
