"""What the benchmarks of a search measure on: a model, tokens, candidates, and the plain loop."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from optishear.calibration.statistics import InputSq, stats_of
from optishear.models.head import hidden_states
from optishear.models.load import load
from optishear.models.weights import read
from optishear.pipeline import Measure, MeasurementSettings, Memory, measure_on
from optishear.recipe.recipe import Recipe
from optishear.runs.prepare import Calibrated, prepare
from optishear.search.space import SearchSpace
from optishear.search.space_file import SpaceSpec, build_space
from optishear.text.sources import TextSpec
from optishear.text.tokens import TokenBatches, token_batches


Part = tuple[pd.DataFrame, list[str]]  # its table, and remarks below it
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


def next_of(
    measure: Measure, recipes: Iterator[Recipe], tokens: int
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
