"""All that measuring candidates needs, so that any process can do it as any other would."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import torch

from optishear.models.load import LoadedModel
from optishear.pipeline import MeasureFunction, Memory, measure_on
from optishear.pruning.evidence import Evidence
from optishear.pruning.solved import SolvedLayers
from optishear.recipe.layout import ModelLayout
from optishear.text.tokens import TokenBatches


@dataclass(frozen=True, eq=False)
class Job:
    """A dense model with its statistics and the search tokens; the other fields are those of
    `pipeline.measure_on`."""

    loaded: LoadedModel
    layout: ModelLayout
    evidence: Evidence
    search: TokenBatches
    quantities: tuple[str, ...]
    batch_tokens: int
    rungs: tuple[int, ...] = ()
    memory: Memory = field(default_factory=Memory)
    solved: SolvedLayers | None = None
    compiled: bool = False

    def measuring(self, notice: Callable[[str], None]) -> AbstractContextManager[MeasureFunction]:
        """What measures candidates in this process while it is open."""
        return measure_on(
            self.loaded,
            self.layout,
            self.evidence,
            self.search,
            self.quantities,
            self.batch_tokens,
            self.rungs,
            self.memory,
            self.solved,
            notice,
            self.compiled,
        )

    def to(self, device: str) -> "Job":
        """With model and statistics on this device; gradients stay where they are stored."""
        stats = {site: stats.to(device) for site, stats in self.evidence.stats.items()}
        loaded = replace(self.loaded, model=self.loaded.model.to(device))
        return replace(
            self, loaded=loaded, evidence=replace(self.evidence, stats=stats, factored={})
        )

    def parcel(self) -> "Job":
        """What is sent: on the CPU, without the tokenizer and without what can be made again."""
        moved = self.to("cpu")
        return replace(moved, loaded=replace(moved.loaded, tokenizer=None))


def versions() -> Mapping[str, Any]:
    """Of what measured values depend on beside the job: where these differ, values may."""
    packages = {name: version(name) for name in ("optishear", "transformers", "numpy")}
    return {**packages, "torch": torch.__version__}
