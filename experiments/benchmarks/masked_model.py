"""A model that holds masks of its dense weights: its KL on search text, by one backward pass the
gradient of every weight, dropped ones too, and its loss on held-out text."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from optishear.calibration.statistics import InputSq, LayerStats, stats_of
from optishear.evaluation.perplexity import HeldOut, held_out
from optishear.metrics import Metric
from optishear.models.head import find_head, hidden_states
from optishear.models.weights import WorkingWeights, working_weights
from optishear.objectives.divergence import KL
from optishear.objectives.slopes import summed_upstream
from optishear.pipeline import references_of
from optishear.recipe.layout import ModelLayout
from optishear.runs.preconditions import text_for
from optishear.runs.prepare import prepare
from optishear.tasks import Samples, task_of
from optishear.text.sources import TextSpec


BATCH_TOKENS = 2048

Weights = dict[str, Float[Tensor, "out in"]]


class MaskedModel:
    """Dense until the first mask is written. Nobody else may write to its weights.

    - `working`: the weights it works with, open for as long as this is used.
    - `stats`: at least sums of squares of what its layers read.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: ModelLayout,
        working: WorkingWeights,
        stats: Mapping[str, LayerStats],
        search: Samples,
    ) -> None:
        self.model, self.layout = model, layout
        self._working, self._stats = working, stats
        self._batches = search.batches_of_units(BATCH_TOKENS)
        head, task = (
            find_head(model, task_of(model).beginning(self._batches[0], 16)),
            task_of(model),
        )
        with torch.no_grad():
            self._references = [
                references_of(hidden_states(model, batch).clone(), task.targets(batch), head)
                for batch in self._batches
            ]
        views = [working.place(layer.name) for layer in layout.layers]
        self._parameters = {view.key: view.parameter for view in views}

    def dense(self, name: str) -> Float[Tensor, "out in"]:
        return self._working.dense(name)

    def score(self, name: str, metric: Metric) -> Float[Tensor, "out in"]:
        stats = stats_of(self._stats, self.layout.by_name[name])
        return metric.score(self.dense(name), stats)

    def scores(self, metric: Metric) -> Weights:
        return {layer.name: self.score(layer.name, metric) for layer in self.layout.layers}

    @torch.no_grad()
    def write(self, keep: Mapping[str, Bool[Tensor, "out in"]]) -> None:
        """Has the dense weights where `keep` is True, 0 elsewhere."""
        for name, kept in keep.items():
            self._working.write(name, self.dense(name) * kept)

    @torch.no_grad()
    def kl(self) -> float:
        """KL(dense || as it is), nats per token of the search text."""
        objective, total, counted = KL(), 0.0, 0
        for batch, references in zip(self._batches, self._references, strict=True):
            hidden = hidden_states(self.model, batch).flatten(0, -2)
            pieces = hidden.split([len(reference.targets) for reference in references])
            for piece, reference in zip(pieces, references, strict=True):
                added, rows = objective.summand(piece, reference)
                total, counted = total + added.item(), counted + rows
        return objective.valued(total, counted)

    def kl_and_gradients(self) -> tuple[float, Weights]:
        """The same, and d KL / d W of each layer where the weights are now.

        Memory: the weights of all layers once more, beside what a batch leaves in the model.
        """
        objective, total, counted = KL(), 0.0, 0
        parameters = list(self._parameters.values())
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        asked = [parameter.requires_grad for parameter in parameters]
        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            for batch, references in zip(self._batches, self._references, strict=True):
                with torch.enable_grad():
                    hidden = hidden_states(self.model, batch).flatten(0, -2)
                    added, rows, upstream = summed_upstream(objective, hidden, references)
                    found = torch.autograd.grad(hidden, parameters, upstream)
                total, counted = total + added, counted + rows
                for gradient, own in zip(sums, found, strict=True):
                    gradient += own
        finally:
            for parameter, before in zip(parameters, asked, strict=True):
                parameter.requires_grad_(before)
        scale = objective.derivative(total, counted)
        by_key = {key: own.mul_(scale) for key, own in zip(self._parameters, sums, strict=True)}
        gradients = {
            layer.name: view.view(by_key[view.key])
            for layer in self.layout.layers
            for view in [self._working.place(layer.name)]
        }
        return objective.valued(total, counted), gradients

    def held_out(self, text: Samples) -> HeldOut:
        return held_out(self.model, text, BATCH_TOKENS)


@contextmanager
def masked_model(
    name: str, calibration: TextSpec, search: TextSpec, evaluation: TextSpec
) -> Iterator[tuple[MaskedModel, Samples]]:
    """The model called `name`, in fp32 on the CPU, with the held-out text."""
    prepared = prepare(name, "float32", "cpu", calibration)
    stats = prepared.calibrate(frozenset({InputSq})).data.stats
    model, layout = prepared.loaded.model, prepared.layout
    with working_weights(model, layout) as working:
        masked = MaskedModel(model, layout, working, stats, text_for(prepared.loaded, search))
        yield masked, text_for(prepared.loaded, evaluation)
