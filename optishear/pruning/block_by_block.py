"""Candidates of a search that are pruned block by block, as `optishear prune` does it."""

from collections.abc import Sequence
from dataclasses import replace

from optishear.pruning.block_loop import InMemory, apply_by_block
from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.result import LayerReport
from optishear.pruning.taylor import TaylorLosses
from optishear.recipe.layout import ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.tasks import Batch


class BlockByBlock:
    """One recipe after the other in a model's working weights, each from the dense model on.

    Stands in the place of `OneShot`, with nothing kept from one recipe to the next: what a layer
    becomes depends on all blocks before it. The same recipe twice in a row is left as it is.

    - `data`: gradients; statistics are collected as blocks are pruned.
    - `batches`: of calibration samples, where the model reads them.
    """

    def __init__(
        self,
        source: InMemory,
        data: CalibrationData,
        batches: Sequence[Batch],
        taylor: TaylorLosses | None = None,
    ) -> None:
        self.source, self.data, self.batches, self.taylor = source, data, batches, taylor
        self._holds: str | None = None
        self._reports: list[LayerReport] = []

    @property
    def layout(self) -> ModelLayout:
        return self.source.layout

    def write(self, recipe: Recipe, first_block: int = 0) -> list[LayerReport]:
        """Makes the weights what the recipe says, those of all blocks."""
        if self._holds != recipe.key:
            self._holds = None  # half-written, if something fails
            self.source.begin()
            reports = apply_by_block(
                self.source, recipe, self.batches, gradients=self.data.gradients
            )
            self._reports = [self._with_taylor(report) for report in reports]
            self._holds = recipe.key
        return self._reports

    def _with_taylor(self, report: LayerReport) -> LayerReport:
        if self.taylor is None:
            return report
        new, dense = self.source.working.view(report.name), self.source.working.dense(report.name)
        return replace(report, taylor=self.taylor.once(report.name, new, dense))
