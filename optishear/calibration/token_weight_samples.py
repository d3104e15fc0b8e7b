"""One forward and backward pass a sample: the squared gradient of its loss in what layers put out.

No gradient of a weight is made, and none is kept of an output once its squares are there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from optishear.calibration.token_weights import StoreSquares, mean_squares
from optishear.errors import ConfigError
from optishear.models.finite import not_finite
from optishear.models.placement import input_device
from optishear.models.weights import view_of
from optishear.recipe.layout import Layer, ModelLayout
from optishear.tasks import Batch, task_of


CollectSquares = Callable[[Batch, int, StoreSquares], None]
"""Hands on the squares of every sample for so many row groups, in any order."""


def sample_by_sample(model: nn.Module, layout: ModelLayout) -> CollectSquares:
    """Squares in this process."""

    def collect(batch: Batch, groups: int, store: StoreSquares) -> None:
        for number, sample in enumerate(batch.split(1)):
            with squaring_outputs(model, layout.layers, groups, number, store):
                with torch.enable_grad():
                    summed_loss_of(model, sample.to(input_device(model))).backward()

    return collect


def summed_loss_of(model: nn.Module, sample: Batch) -> Float[Tensor, ""]:
    """The loss of one sample, summed over its targets: so a token's gradient does not get smaller
    with the length of its sample."""
    task = task_of(model)
    return task.loss(model, sample) * int((task.targets(sample) >= 0).sum())


@contextmanager
def squaring_outputs(
    model: nn.Module, layers: Sequence[Layer], groups: int, number: int, store: StoreSquares
) -> Iterator[None]:
    """While it is open, a backward pass hands on the mean squares of the gradient in what these
    layers put out, as those of sample `number`; no parameter needs a gradient.

    Fused experts, which are no modules of their own, are passed over.
    """

    def square(layer: Layer, gradient: Tensor) -> None:
        squares = mean_squares(gradient.detach().flatten(0, -2), groups)
        if not bool(squares.isfinite().all()):
            what = f"Layer {layer.name}: the gradient in its output on calibration sample {number}"
            raise ConfigError(not_finite(what))
        store(number, layer.name, squares.cpu())

    def listen(layer: Layer, _module: nn.Module, _args: Any, output: Tensor) -> None:
        output.register_hook(partial(square, layer))

    def begin(_module: nn.Module, _args: Any, output: Tensor) -> None:
        output.requires_grad_()  # else nothing would be recorded, for no parameter needs it

    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with ExitStack() as hooks:
        try:
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            entry = task_of(model).entry_of(model)
            hooks.callback(entry.register_forward_hook(begin).remove)
            for layer in layers:
                if view_of(model, layer.name).expert is None:
                    module = model.get_submodule(layer.name)
                    hooks.callback(module.register_forward_hook(partial(listen, layer)).remove)
            yield
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
