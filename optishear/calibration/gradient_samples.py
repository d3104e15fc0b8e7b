"""One forward and backward pass a sample: the gradient of its loss in every prunable weight."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from optishear.calibration.gradients import StoreSample, packed
from optishear.errors import ConfigError
from optishear.models.finite import not_finite
from optishear.models.placement import input_device
from optishear.models.weights import WeightView, read, view_of
from optishear.recipe.layout import Layer, ModelLayout
from optishear.tasks import Batch, task_of


CollectGradients = Callable[[Batch, StoreSample], None]
"""Hands on the gradients of every sample, in any order."""


def sequence_by_sequence(model: nn.Module, layout: ModelLayout) -> CollectGradients:
    """Gradients in this process, each kept while the backward pass is at the weights before it."""

    def collect(batch: Batch, store: StoreSample) -> None:
        for number, sample in enumerate(batch.split(1)):
            store_gradients_of(model, layout, number, sample, store)

    return collect


def store_gradients_of(
    model: nn.Module, layout: ModelLayout, number: int, sample: Batch, store: StoreSample
) -> None:
    """Hands on the gradients of one sample; flags and gradients of the model are given back."""
    with storing_gradients(model, layout.layers, number, store), torch.enable_grad():
        loss_of(model, sample.to(input_device(model))).backward()


def refuse_without_gradients(model: nn.Module, layout: ModelLayout, samples: Batch) -> None:
    """Raises a `ConfigError` for a model or samples of which no gradients could be taken."""
    if model.training:
        raise ConfigError(
            f"{type(model).__name__} is in training mode, so dropout would make its gradients "
            f"random. Call `model.eval()` first."
        )
    task_of(model).refuse_without_loss(samples)
    for layer in layout.layers:
        read(model, layer)  # a layout of another model is refused


def loss_of(model: nn.Module, sample: Batch) -> Float[Tensor, ""]:
    """The mean loss of one sample, as its task has it."""
    return task_of(model).loss(model, sample)


@contextmanager
def storing_gradients(
    model: nn.Module, layers: Sequence[Layer], number: int, store: StoreSample
) -> Iterator[None]:
    """While it is open, these layers' weights need a gradient and no other parameter does; each is
    handed on as that of sequence `number` when a backward pass has made it, and let go."""
    wanted: dict[nn.Parameter, list[tuple[Layer, WeightView]]] = {}
    for layer in layers:
        place = view_of(model, layer.name)
        wanted.setdefault(place.parameter, []).append((layer, place))

    def hand_on(parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        assert isinstance(parameter, nn.Parameter)
        assert gradient is not None
        for layer, place in wanted[parameter]:
            try:
                sample = packed(place.view(gradient))
            except ValueError:
                raise ConfigError(
                    not_finite(f"Layer {layer.name}: its gradient on calibration sequence {number}")
                ) from None
            if sample is not None:
                store(number, layer.name, sample)

    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    with ExitStack() as hooks:
        try:
            for parameter, _, _ in before:
                parameter.requires_grad_(parameter in wanted)
                parameter.grad = None
            for parameter in wanted:
                hooks.callback(parameter.register_post_accumulate_grad_hook(hand_on).remove)
            yield
        finally:
            for parameter, flag, gradient in before:
                parameter.requires_grad_(flag)
                parameter.grad = gradient
