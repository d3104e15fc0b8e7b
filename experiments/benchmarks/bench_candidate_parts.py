"""Where the time of one candidate goes: its parts, the ways of the KL, the Taylor loss."""

import argparse
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from bench_common import Aim, in_turns
from bench_search_setting import CPU, Bench, Part
from torch import Tensor

from optishear.calibration import gradients
from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import stats_of
from optishear.metrics import make_metric
from optishear.models.head import find_head, hidden_states
from optishear.models.load import load
from optishear.models.weights import working_weights
from optishear.objectives import make_objective
from optishear.objectives.base import Chunk, OutputObjective
from optishear.pipeline import references_of
from optishear.pruning.oneshot import OneShot
from optishear.recipe.pattern import Row
from optishear.recipe.profile import uniform
from optishear.recipe.recipe import Recipe
from optishear.records.journal import Journal
from optishear.search.driver import DriverSettings
from optishear.search.drivers import make_driver
from optishear.search.space import SearchSpace
from optishear.solvers.masks import keep_highest
from optishear.solvers.ranks import keep_ranked, ranked, write_kept
from optishear.tasks import CAUSAL_LM


GENERATION = 24
GRADIENTS = 16
TAYLOR_CHUNKS = tuple(2**n for n in (20, 21, 22, 23, 24, 27))


def parts(bench: Bench, given: argparse.Namespace) -> Part:
    """Each part alone, over all layers, as the candidate has it."""
    c, space = bench.calibrated, bench.space("metric and ratios")
    recipe = next(bench.candidates("metric and ratios"))
    metric, layers, pattern = make_metric(recipe.default.metric), c.layout.layers, Row()
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


def _driver(space: SearchSpace) -> Callable[[], None]:
    driver = make_driver("nsga2", DriverSettings(space.genes, 2, GENERATION))

    def generation() -> None:
        asked = driver.ask()
        driver.tell([(float(g.sum()), float((g**2).sum())) for g in asked])

    return generation


def kl(bench: Bench, given: argparse.Namespace) -> Part:
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
            writer.write(Recipe.of({"name": "wanda"}, uniform(c.layout, Row(), sparsity)))
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


def taylor(bench: Bench, given: argparse.Namespace) -> Part:
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

        runs: dict[str, Callable[[], Any]] = {
            f"{c >> 20} MiB": partial(loss, c) for c in TAYLOR_CHUNKS
        }
        runs["to fp32 alone, at once"] = stored.float
        for name, timing in in_turns(runs, bench.repeats, CPU).items():
            rows.append({"chunk": name, "seconds": layers * timing.median})
    frame = pd.DataFrame(pd.DataFrame(rows).groupby("chunk", sort=False, as_index=False).sum())
    return frame, [
        f"Of all {sum(shapes.values())} layers, {GRADIENTS} gradient sequences: "
        f"{sum(n * a * b for (a, b), n in shapes.items()) * GRADIENTS / 1e9:.3g} G numbers in fp16."
    ]
