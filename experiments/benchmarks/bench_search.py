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
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pandas as pd
import torch
from bench_candidate_parts import kl, parts, taylor
from bench_candidates import candidates, compiled, growth, tokens
from bench_common import Aim, machine, markdown
from bench_search_setting import CPU, USUAL, Bench, Part, bench_of
from help_text import first_line

from optishear.models.load import load
from optishear.pipeline import MeasurementSettings, Memory, measure_on
from optishear.recipe.pattern import Row
from optishear.solvers.ranks import rank_bytes


MB = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
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
    with torch.no_grad():
        for name in given.parts.split(","):
            frame, remarks = PARTS[name](bench, given)
            text = f"## {name}\n\n{markdown(frame)}\n"
            text += "".join(f"\n{remark}" for remark in remarks)
            print(text, "\n", flush=True)
            lines.append(text)
            if given.out is not None:
                given.out.mkdir(parents=True, exist_ok=True)
                frame.to_csv(given.out / f"{name}.csv", index=False, float_format="%.6g")
    if given.out is not None:
        head = "\n".join(f"- {line}" for line in machine(CPU, given.threads, mpax=False))
        text = "\n\n".join(["# What a candidate costs", head, *lines])
        (given.out / "summary.md").write_text(text + "\n", encoding="utf-8")


def memory(bench: Bench, given: argparse.Namespace) -> Part:
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


PARTS: dict[str, Callable[[Bench, argparse.Namespace], Part]] = {
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
