"""Calibration sequences spread over replicas: statistics a part, gradients a sequence.

This process alone adds the parts up, and writes the gradients where they are kept.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from optishear.calibration.collect import sums_of
from optishear.calibration.gradient_samples import CollectGradients, store_gradients_of
from optishear.calibration.gradients import Sample, StoreSample
from optishear.calibration.parts import CollectParts, guides_of
from optishear.calibration.statistics import Kinds, LayerStats
from optishear.calibration.token_weights import Guide
from optishear.models.load import LoadedModel
from optishear.recipe.layout import ModelLayout
from optishear.tasks import Batch
from optishear.workers.cluster import Cluster
from optishear.workers.pool import Call
from optishear.workers.replica import Payload, sent, travelling


@dataclass(frozen=True, eq=False)
class DenseModel(Payload):
    """A dense model that runs calibration sequences."""

    loaded: LoadedModel
    layout: ModelLayout

    def begin(self, stack: ExitStack, device: str, notice: Callable[[str], None]) -> "DenseModel":
        return DenseModel(sent(self.loaded, device), self.layout)

    def sums(self, batches: Sequence[Batch], needs: Kinds, guide: Guide) -> dict[str, LayerStats]:
        found = sums_of(self.loaded.model, self.layout, batches, needs, guide)
        return {site: stats.to("cpu") for site, stats in found.items()}

    def gradients(self, number: int, sample: Batch) -> dict[str, Sample]:
        """Of every layer that the sample reaches: 2 bytes a weight, ready to be written."""
        found: dict[str, Sample] = {}

        def store(_number: int, name: str, sample: Sample) -> None:
            found[name] = sample

        store_gradients_of(self.loaded.model, self.layout, number, sample, store)
        return found


def collecting_on(cluster: Cluster, loaded: LoadedModel, layout: ModelLayout) -> CollectParts:
    """Sums of every part, in the order of the parts."""

    def collect(
        parts: Sequence[Sequence[Batch]], needs: Kinds, guide: Guide
    ) -> Iterator[dict[str, LayerStats]]:
        told = [(list(part), needs, own) for part, own in zip(parts, guides_of(guide, parts))]
        calls = [
            Call(str(number), "sums", args, f"part {number} of the calibration text")
            for number, args in enumerate(told)
        ]
        with travelling(loaded) as away, cluster.pool(DenseModel(away, layout)) as pool:
            done = dict(pool.run(calls))
        device = next(loaded.model.parameters()).device
        for call in calls:
            yield {site: stats.to(device) for site, stats in done.pop(call.key).items()}

    return collect


def gradients_on(cluster: Cluster, loaded: LoadedModel, layout: ModelLayout) -> CollectGradients:
    """Gradients of every sequence, in the order in which they are done.

    A sequence's gradients are made whole before they travel, so that nothing of one that dies is
    kept. Each replica has those of one sequence at a time, for it is asked for the next one when
    they are written.
    """

    def collect(batch: Batch, store: StoreSample) -> None:
        calls = [
            Call(str(number), "gradients", (number, sample), f"calibration sequence {number}")
            for number, sample in enumerate(batch.to(torch.device("cpu")).split(1))
        ]
        with travelling(loaded) as away, cluster.pool(DenseModel(away, layout)) as pool:
            for key, found in pool.run(calls):
                for name, sample in found.items():
                    store(int(key), name, sample)

    return collect
