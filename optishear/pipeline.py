"""Where the two halves meet: what the search calls `measure` is pruning, then looking."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from optishear.models.head import Head, find_head, hidden_states
from optishear.models.load import LoadedModel
from optishear.models.weights import WorkingWeights, lent
from optishear.objectives import make_objective
from optishear.objectives.base import Chunk, OutputObjective, SizeObjective
from optishear.pruning.evidence import Evidence
from optishear.pruning.oneshot import apply
from optishear.pruning.result import PruneResult
from optishear.pruning.taylor import TaylorLosses
from optishear.recipe.layout import ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.text.tokens import TokenBatches


MeasureFunction = Callable[[Recipe], dict[str, float]]


@contextmanager
def measure_on(
    loaded: LoadedModel,
    layout: ModelLayout,
    evidence: Evidence,
    search: TokenBatches,
    quantities: Sequence[str],
    batch_tokens: int = 2048,
) -> Iterator[MeasureFunction]:
    """A function that says what a recipe is worth: {quantity: value}, on these search tokens.

    While the context is open the model works on a copy of its prunable weights, into which each
    candidate is written; the dense ones are never touched and come back on leaving.

    - `quantities`: names from `OBJECTIVES`, all read off one forward pass.
    - `batch_tokens`: tokens per forward call (whole sequences, at least one).
    """
    with lent(loaded.model, layout) as working, torch.no_grad():
        yield _Measure(loaded, layout, evidence, search, quantities, batch_tokens, working)


class _Measure:
    def __init__(
        self,
        loaded: LoadedModel,
        layout: ModelLayout,
        evidence: Evidence,
        search: TokenBatches,
        quantities: Sequence[str],
        batch_tokens: int,
        working: WorkingWeights,
    ):
        self.loaded, self.layout, self.working = loaded, layout, working
        self.evidence = evidence
        self.taylor = TaylorLosses(evidence.gradients) if "taylor" in quantities else None
        self.quantities = tuple(quantities)
        device = next(loaded.model.parameters()).device
        size = max(1, batch_tokens // search.tokens.shape[1])
        self.batches = [tokens.to(device) for tokens in search.tokens.split(size)]
        self.head: Head | None = None
        self.dense: list[Float[Tensor, "batch seq hidden"]] = []
        if any(isinstance(make_objective(name), OutputObjective) for name in quantities):
            self.head = find_head(loaded.model, self.batches[0][:1])
            self.dense = [hidden_states(loaded.model, tokens) for tokens in self.batches]

    @torch.no_grad()
    def __call__(self, recipe: Recipe) -> dict[str, float]:
        result = self._write(recipe)
        made = {name: make_objective(name) for name in self.quantities}
        readers = [o for o in made.values() if isinstance(o, OutputObjective)]
        if readers:
            for tokens, dense in zip(self.batches, self.dense, strict=True):
                hidden = hidden_states(self.loaded.model, tokens)
                for chunk in _chunks(tokens, hidden, dense, self.head):
                    for reader in readers:
                        reader.update(chunk)
        values = {}
        for name, objective in made.items():
            if isinstance(objective, SizeObjective):
                values[name] = objective.value(result)
            else:
                assert isinstance(objective, OutputObjective)
                values[name] = objective.value()
        return values

    def _write(self, recipe: Recipe) -> PruneResult:
        reports = apply(self.working, self.layout, self.evidence, recipe, self.taylor)
        kept = {report.name: report.kept for report in reports}
        parameters = sum(p.numel() for p in self.loaded.model.parameters())
        losses = [report.taylor for report in reports if report.taylor is not None]
        return PruneResult(
            self.layout,
            kept,
            parameters - self.layout.total,
            self.loaded.stored_dtype.itemsize,
            sum(losses) if self.taylor is not None else None,
        )


def _chunks(
    tokens: Int[Tensor, "batch seq"],
    hidden: Float[Tensor, "batch seq hidden"],
    dense: Float[Tensor, "batch seq hidden"],
    head: Head | None,
) -> Iterator[Chunk]:
    assert head is not None
    targets = torch.full_like(tokens, -1)
    targets[:, :-1] = tokens[:, 1:]
    parts = (x.flatten(0, 1).split(head.rows_at_once) for x in (hidden, dense))
    for pruned, before, target in zip(
        *parts, targets.flatten().split(head.rows_at_once), strict=True
    ):
        yield Chunk(pruned, before, target, head)


def identity_of(
    loaded: LoadedModel,
    layout: ModelLayout,
    calibration: TokenBatches,
    search: TokenBatches,
    quantities: Sequence[str],
    batch_tokens: int,
    gradient_sequences: int | None = None,
) -> dict[str, Any]:
    """All that a measured value depends on beside the recipe: what a journal belongs to.

    `gradient_sequences`: None where nothing reads gradients.
    """
    parameter = next(loaded.model.parameters())
    identity = {
        "model": loaded.hash,
        "layout": layout.hash,
        "calibration": calibration.hash,
        "search": search.hash,
        "quantities": list(quantities),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": parameter.device.type,
        "batch_tokens": batch_tokens,
        "threads": torch.get_num_threads(),
        "optishear": version("optishear"),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }
    if gradient_sequences is not None:
        identity["gradient_sequences"] = gradient_sequences
    return identity
