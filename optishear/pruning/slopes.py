"""Where each layer's weights go as it drops more: what slopes multiply gradients by.

Between two of its levels a layer's weights are taken to move in a straight line,

    d L / d s  =  < d L / d W, W(c+) - W(c-) > / ((c+ - c-) / n)

with W(c) what the recipe makes of the layer where it drops c of its n weights. Of a mask, where
W(c+) and W(c-) differ in the weights that rank between them, that is a finite difference by rank
windows; of solved levels it is the slope of the line between them. The gradient is taken where the
model is, at the recipe's own counts.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.pruning.oneshot import OneShot
from optishear.recipe.layout import Layer
from optishear.recipe.recipe import Recipe


Counts = Mapping[str, tuple[int, int]]  # by layer: fewer and more weights dropped than now
Slopes = dict[str, Float[Tensor, ""]]


class Directions:
    """(W(c+) - W(c-)) / ((c+ - c-) / n) of each layer. One whose two counts are one cannot move,
    and has a slope of 0.

    Memory: the weights of all layers that can move, once more.
    """

    def __init__(self, writer: OneShot, recipe: Recipe, counts: Counts) -> None:
        self._working = writer.working
        self._along: dict[str, Float[Tensor, "out in"]] = {}
        self._sharing: dict[tuple[int, str], list[str]] = {}  # layers of one parameter
        for layer in writer.layout.layers:
            fewer, more = counts[layer.name]
            if fewer == more:
                continue
            share = (more - fewer) / layer.size
            after = writer.made(layer, _at(recipe, layer, more))
            self._along[layer.name] = (
                after - writer.made(layer, _at(recipe, layer, fewer))
            ) / share
            key = self._working.place(layer.name).key
            self._sharing.setdefault(key, []).append(layer.name)

    @property
    def parameters(self) -> list[Tensor]:
        """Of the layers that can move: what a backward pass has to reach, and no others."""
        return [self._working.place(names[0]).parameter for names in self._sharing.values()]

    @contextmanager
    def recorded(self) -> Iterator[Slopes]:
        """Backward passes in here add to each layer's d L / d s, in fp64. A gradient goes as soon
        as it was multiplied, so that there is one parameter's at a time; each comes once a backward
        pass, though checkpointed blocks run twice."""
        found = {
            name: torch.zeros((), dtype=torch.float64, device=along.device)
            for name, along in self._along.items()
        }
        parameters = self.parameters
        asked, hooks = [parameter.requires_grad for parameter in parameters], []
        try:
            for parameter, names in zip(parameters, self._sharing.values(), strict=True):
                parameter.requires_grad_(True)
                multiply = self._multiplying(names, found)
                hooks.append(parameter.register_post_accumulate_grad_hook(multiply))
            yield found
        finally:
            for hook in hooks:
                hook.remove()
            for parameter, before in zip(parameters, asked, strict=True):
                parameter.requires_grad_(before)
                parameter.grad = None

    def _multiplying(self, names: list[str], found: Slopes) -> Callable[[Tensor], None]:
        def multiply(parameter: Tensor) -> None:
            assert parameter.grad is not None
            for name in names:
                gradient = self._working.place(name).view(parameter.grad)
                found[name] += (gradient * self._along[name]).sum(dtype=torch.float64)
            parameter.grad = None

        return multiply


def _at(recipe: Recipe, layer: Layer, drop: int) -> Recipe:
    return recipe.with_drop({**recipe.drop, layer.name: drop})
