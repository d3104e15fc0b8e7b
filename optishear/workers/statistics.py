"""Calibration sequences spread over replicas, which sum up parts; this process adds the sums."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from optishear.calibration.collect import sums_of
from optishear.calibration.parts import CollectParts
from optishear.calibration.statistics import LayerStats, Need
from optishear.models.load import LoadedModel
from optishear.recipe.layout import ModelLayout
from optishear.workers.cluster import Cluster
from optishear.workers.pool import Call
from optishear.workers.replica import Parcel, sent, travelling


@dataclass(frozen=True, eq=False)
class DenseModel(Parcel):
    """A dense model that runs calibration sequences."""

    loaded: LoadedModel
    layout: ModelLayout

    def begin(self, stack: ExitStack, device: str, notice: Callable[[str], None]) -> "DenseModel":
        return DenseModel(sent(self.loaded, device), self.layout)

    def sums(
        self, batches: Sequence[Int[Tensor, "_ seq"]], needs: frozenset[Need]
    ) -> dict[str, LayerStats]:
        found = sums_of(self.loaded.model, self.layout, batches, needs)
        return {site: stats.to("cpu") for site, stats in found.items()}


def collecting_on(cluster: Cluster, loaded: LoadedModel, layout: ModelLayout) -> CollectParts:
    """Sums of every part, in the order of the parts."""

    def collect(
        parts: Sequence[Sequence[Int[Tensor, "_ seq"]]], needs: frozenset[Need]
    ) -> Iterator[dict[str, LayerStats]]:
        calls = [
            Call(str(number), "sums", (list(part), needs), f"part {number} of the calibration text")
            for number, part in enumerate(parts)
        ]
        with travelling(loaded) as away, cluster.pool(DenseModel(away, layout)) as pool:
            done = dict(pool.run(calls))
        device = next(loaded.model.parameters()).device
        for call in calls:
            yield {site: stats.to(device) for site, stats in done.pop(call.key).items()}

    return collect
