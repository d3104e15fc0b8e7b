"""Measuring of a recipe, where search and pruning meet: prune, then one forward pass."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from optishear.calibration.origin import ONE_SHOT, SEQUENTIAL
from optishear.errors import ConfigError
from optishear.freed_memory import FreedMemory
from optishear.kernels.use import usable
from optishear.models.checkpointed import checkpointed_blocks, why_not_checkpointed
from optishear.models.compiled import compiled_blocks
from optishear.models.graphs import GraphedForward
from optishear.models.head import Head, find_head, hidden_states
from optishear.models.load import LoadedModel
from optishear.models.placement import input_device, kind_of_device
from optishear.models.prefix import NotReusable, PrefixForward
from optishear.models.weights import working_weights
from optishear.objectives import make_objective
from optishear.objectives.base import (
    Chunk,
    Objective,
    OutputObjective,
    Reference,
    SizeObjective,
    Summed,
)
from optishear.objectives.own_data import OwnData, OwnDataObjective
from optishear.objectives.slopes import SlopePart, slope_part
from optishear.pruning.block_by_block import BlockByBlock
from optishear.pruning.block_loop import InMemory
from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.factored import Factored
from optishear.pruning.oneshot import OneShot, block_keys
from optishear.pruning.result import LayerReport, PruneResult
from optishear.pruning.slopes import Counts, Directions
from optishear.pruning.solved import SolvedLayers
from optishear.pruning.taylor import TaylorLosses
from optishear.recipe.layout import ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.records.cache import code_of, library_version
from optishear.solvers.ranks import RankCache
from optishear.tasks import Batch, Samples, task_of


HEAD_UNITS = 16  # of one sample (tokens) tell the form of the head: its fp64 logits are large
BEGUN = 4096  # recipes whose sums on a lower rung are remembered: a few numbers each


@dataclass(frozen=True)
class Memory:
    """Bytes that a search may hold of what it could compute anew. None of it changes a result.

    - `ranks`: how the weights of a layer rank under a metric that came up before.
    - `prefixes`: hidden states between decoder blocks, of candidates that others may begin like.
    - `factors`: what solvers made of the Hessians of input sites; the last two are held anyhow.
    """

    ranks: int = 0
    prefixes: int = 0
    factors: int = 0


@dataclass(frozen=True)
class MeasurementSettings:
    """What candidates are measured by: all of it has a say in the last bits of a value.

    - `quantities`: names from `OBJECTIVES`, all read off one forward pass.
    - `batch_tokens`: tokens per forward call (whole sequences, at least one).
    - `rungs`: the numbers of tokens below all of them that recipes may be measured on too; they cut
      the batches. A recipe that goes on to a higher rung pays for its further tokens only.
    - `compiled`: decoder blocks run through torch.compile; prefixes are not reused then.
    - `graphed`: forward passes are CUDA graphs, one a batch shape; no prefixes then either.
    - `mode`: `one-shot`, every layer pruned with statistics of the dense model, or `sequential`,
      block by block; no prefixes then, and no solved layers.
    """

    quantities: tuple[str, ...]
    batch_tokens: int = 2048
    rungs: tuple[int, ...] = ()
    compiled: bool = False
    graphed: bool = False
    mode: str = ONE_SHOT

    @property
    def no_prefixes(self) -> str:
        """Why none are reused, if so."""
        if self.compiled:
            return "compiled blocks always run from the first one on"
        if self.graphed:
            return "CUDA graphs always run from the first block on"
        return "block by block a block depends on all before it" * (self.mode == SEQUENTIAL)


@contextmanager
def measure_on(
    loaded: LoadedModel,
    layout: ModelLayout,
    data: CalibrationData,
    search: Samples,
    by: MeasurementSettings,
    memory: Memory = Memory(),
    solved: SolvedLayers | None = None,
    notice: Callable[[str], None] = lambda text: None,
    own: Mapping[str, OwnData] | None = None,
    calibration: Sequence[Batch] = (),
) -> Iterator["Measure"]:
    """A function that says what a recipe is worth on so many of the first search samples.

    It is called with a recipe and a rung (a number of units: tokens) and returns {quantity: value}.
    While the context is open the model works on a copy of its prunable weights, into which each
    candidate is written; the dense ones are never touched and come back on leaving.

    - `solved`: where layers that a solver has made are looked up, and kept.
    - `notice`: told what of `memory` is of no use here.
    - `own`: the data of quantities that bring their own, by the quantity.
    - `calibration`: batches of it, that a `sequential` candidate is pruned with.
    """
    ranks, factored = RankCache(memory.ranks), Factored(memory.factors)
    data = replace(data, ranks=ranks, factored=factored)
    if memory.prefixes and (why := by.no_prefixes):
        memory = replace(memory, prefixes=0)
        notice(f"{why}: no prefixes are kept")
    compiling = compiled_blocks(loaded.model) if by.compiled else nullcontext()
    with working_weights(loaded.model, layout) as working, torch.no_grad(), compiling:
        batches, batches_of = cut(search, by.rungs, by.batch_tokens)
        batches = [batch.to(input_device(loaded.model)) for batch in batches]
        taylor = TaylorLosses(data.gradients) if "taylor" in by.quantities else None
        writer: OneShot | BlockByBlock
        if by.mode == SEQUENTIAL:
            read = [batch.to(input_device(loaded.model)) for batch in calibration]
            source = InMemory(loaded.model, working, layout)
            writer = BlockByBlock(source, data, read, taylor)
        else:
            writer = OneShot(working, layout, data, taylor, solved)
        yield Measure(loaded, writer, by, batches, batches_of, memory.prefixes, notice, own or {})


class Measure:
    """What `measure_on` gives: called with a recipe and a rung it measures, and it knows slopes."""

    def __init__(
        self,
        loaded: LoadedModel,
        writer: "OneShot | BlockByBlock",
        by: MeasurementSettings,
        batches: Sequence[Any],
        batches_of: Mapping[int, int],
        prefixes: int,
        notice: Callable[[str], None],
        own: Mapping[str, OwnData],
    ):
        self.loaded, self.writer, self.quantities = loaded, writer, by.quantities
        self.batches, self.batches_of = batches, batches_of
        self.task = task_of(loaded.model)
        self.begun: OrderedDict[str, tuple[dict[str, Objective], int]] = OrderedDict()
        self.references: list[list[Reference]] = []
        self.prefix: PrefixForward | None = None
        self.graphs: GraphedForward | None = None
        self.freed = FreedMemory()
        self.own, self.notice = own, notice
        reads = any(isinstance(make_objective(name), OutputObjective) for name in by.quantities)
        if reads or own:
            head = find_head(loaded.model, self.task.beginning(batches[0], HEAD_UNITS))
            self.head = head
        if reads:
            if by.graphed:
                self.graphs = GraphedForward(loaded.model, batches)
            self.references = [
                references_of(self._hidden(index).clone(), self.task.targets(batch), head)
                for index, batch in enumerate(batches)
            ]
            if prefixes:
                try:
                    self.prefix = PrefixForward(loaded.model, batches, prefixes)
                except NotReusable as why:
                    notice(str(why))

    @torch.no_grad()
    def __call__(self, recipe: Recipe, rung: int) -> dict[str, float]:
        until = self.batches_of[rung]
        objectives, done = self.begun.pop(recipe.key, (None, 0))
        fresh = objectives is None or done > until
        if fresh:
            objectives, done = {name: make_objective(name) for name in self.quantities}, 0
        assert objectives is not None
        result = self._run(recipe, objectives, range(done, until), fresh)
        if until < len(self.batches):  # it may be asked for again, on more of them
            self.begun[recipe.key] = objectives, until
            while len(self.begun) > BEGUN:
                self.begun.popitem(last=False)
        values = {name: _value(objective, result) for name, objective in objectives.items()}
        self.freed.give_back()
        return values

    def _run(
        self, recipe: Recipe, objectives: Mapping[str, Objective], batches: range, fresh: bool
    ) -> PruneResult:
        """Writes the recipe's weights and shows the objectives what becomes of these batches, and
        where it is `fresh` of their own data: whole, on whatever rung it comes first."""
        readers = [o for o in objectives.values() if isinstance(o, OutputObjective)]
        own = self.own if fresh else {}
        if not readers:
            result = self._result(self.writer.write(recipe))
            self._read_own(objectives, own)
            return result
        keys = block_keys(self.writer.layout, recipe) if self.prefix is not None else []
        first = 0  # of own data no prefix is known
        if self.prefix is not None and not own:
            first = self.prefix.first_block(batches, keys)
        result = self._result(self.writer.write(recipe, first))
        self._read_own(objectives, own)
        for batch in batches:
            if self.prefix is None:
                hidden = self._hidden(batch)
            else:
                hidden = self.prefix.hidden_states(batch, keys, first)
            references = self.references[batch]
            parts = hidden.flatten(0, -2).split([len(r.targets) for r in references])
            for part, reference in zip(parts, references, strict=True):
                chunk = Chunk(part, reference)
                for reader in readers:
                    reader.update(chunk)
        return result

    def slope_parts(
        self, objective: str, recipe: Recipe, rung: int, counts: Counts, part: int = 0, of: int = 1
    ) -> list[SlopePart]:
        """What each batch of the rung says of an objective's slopes at this recipe; every `of`-th
        of them only, the first being `part`. `counts`: by layer, between which the slope is taken.

        Costs two forward passes of these batches and a backward pass, for blocks are checkpointed.

        Memory beside that of `Directions`: of one batch the hidden states between blocks, and the
        activations of one block; of all where blocks cannot be run again, of which it is told.
        """
        made = make_objective(objective)
        if not isinstance(made, Summed) or not isinstance(self.writer, OneShot):
            raise ConfigError(
                f"{objective}: has no slopes"
                + (" block by block." if isinstance(made, Summed) else ", being no smooth sum.")
            )
        self.writer.write(recipe)
        directions = Directions(self.writer, recipe, counts)
        return [
            slope_part(
                made,
                partial(self._recorded, batch),
                self.references[batch],
                directions,
            )
            for batch in range(part, self.batches_of[rung], of)
        ]

    def _recorded(self, batch: int) -> Float[Tensor, "*rows hidden"]:
        """For a backward pass."""
        model = self.loaded.model
        with checkpointed_blocks(model) if self._checkpoints else nullcontext():
            return hidden_states(model, self.batches[batch])

    @cached_property
    def _checkpoints(self) -> bool:
        """Whether blocks are run again in a backward pass, rather than all their activations kept:
        always, unless what they make then would not be the same."""
        sample = self.task.beginning(self.batches[0], HEAD_UNITS)
        if why := why_not_checkpointed(self.loaded.model, sample):
            self.notice(f"a backward pass keeps the activations of all blocks: {why}")
        return why is None

    def _read_own(self, objectives: Mapping[str, Objective], own: Mapping[str, OwnData]) -> None:
        for name, data in own.items():
            objective = objectives[name]
            assert isinstance(objective, OwnDataObjective)
            for index, batch in enumerate(data.batches):
                hidden = hidden_states(self.loaded.model, batch)
                objective.update(data, index, hidden, self.head)

    def _hidden(self, batch: int) -> Float[Tensor, "*rows hidden"]:
        """By the weights as they are now; of use until it is next called."""
        if self.graphs is not None:
            return self.graphs.hidden_states(batch)
        return hidden_states(self.loaded.model, self.batches[batch])

    def _result(self, reports: Sequence[LayerReport]) -> PruneResult:
        layout = self.writer.layout
        losses = [report.taylor for report in reports if report.taylor is not None]
        return PruneResult(
            layout,
            {report.name: report.kept for report in reports},
            self.loaded.storage(layout),
            sum(losses) if self.writer.taylor is not None else None,
        )


def _value(objective: Objective, result: PruneResult) -> float:
    if isinstance(objective, OutputObjective | OwnDataObjective):
        return objective.value()
    assert isinstance(objective, SizeObjective)
    return objective.value(result)


def references_of(
    hidden: Float[Tensor, "*rows hidden"], targets: Int[Tensor, "*rows"], head: Head
) -> list[Reference]:
    """The dense side of one batch, in pieces whose logits fit into memory."""
    rows, targets = head.rows_at_once, targets.to(hidden.device).flatten()
    pieces = zip(hidden.flatten(0, -2).split(rows), targets.split(rows), strict=True)
    return [Reference(part, target, head) for part, target in pieces]


def cut(
    search: Samples, rungs: Sequence[int], batch_units: int
) -> tuple[list[Any], dict[int, int]]:
    """The search samples in batches of whole samples, and how many batches each rung takes.

    No batch crosses a rung, so that a recipe goes on from a rung where it stopped.
    """
    each, total, task = search.units_each, search.units, search.task
    size = max(1, batch_units // each)
    for rung in rungs:
        if rung % each or not 0 < rung <= total:
            raise ConfigError(
                f"search.rungs: {rung} is no number of whole {task.samples} of {each} "
                f"{task.unit_name} among the {total} search {task.unit_name}. Choose multiples of "
                f"{each} below {total}."
            )
    batches: list[Any] = []
    batches_of, begin = {}, 0
    for rung in sorted({*rungs, total}):
        batches += search.batch[begin : rung // each].split(size)
        batches_of[rung], begin = len(batches), rung // each
    return batches, batches_of


def identity_of(
    loaded: LoadedModel,
    layout: ModelLayout,
    calibration: Samples,
    search: Samples,
    by: MeasurementSettings,
    gradient_sequences: int | None = None,
    calibration_parts: int = 1,
    own: Mapping[str, OwnData] | None = None,
    around: str = "",
) -> dict[str, Any]:
    """All that a measured value depends on beside the recipe: what a journal belongs to.

    `gradient_sequences`: None where nothing reads gradients. `around`: of what model statistics
    are, in words; empty is the dense one.
    """
    identity: dict[str, Any] = {
        "model": loaded.hash,
        "layout": layout.hash,
        "calibration": calibration.hash,
        "search": search.hash,
        "quantities": list(by.quantities),
        "dtype": loaded.dtypes,
        "device": kind_of_device(loaded.model),
        "batch_tokens": by.batch_tokens,
        "threads": torch.get_num_threads(),
        "code": code_of("measure"),
        "optishear": library_version("optishear"),
        "torch": library_version("torch"),
        "transformers": library_version("transformers"),
    }
    if by.compiled:
        identity["compiled"] = True
    if calibration_parts > 1:
        identity["calibration_parts"] = calibration_parts
    if by.graphed:
        identity["cuda_graphs"] = True
    # Logits are then added up in another order.
    if usable(torch.empty(0, device=input_device(loaded.model))):
        identity["kernels"] = True
    if by.mode != ONE_SHOT:
        identity["mode"] = by.mode
    if around:
        identity["around"] = around
    if by.rungs:
        identity["rungs"] = list(by.rungs)
    if gradient_sequences is not None:
        identity["gradient_sequences"] = gradient_sequences
    if own:
        identity["own_data"] = {name: data.hash for name, data in own.items()}
    return identity
