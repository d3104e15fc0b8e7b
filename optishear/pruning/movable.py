"""Weights that are moved by steps: in fp32 here, and as the files can hold them in the model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Movable:
    """A weight that may be moved, in place.

    - `parameter`: what autograd knows; `view` gives the weight's part of it, or of its gradient.
    - `nearest`: the numbers nearest to these that the files can hold.
    - `zeros_stay`: whether what is zero is no weight at all.
    """

    name: str
    parameter: nn.Parameter
    view: Callable[[Tensor], Tensor]
    nearest: Callable[[Tensor], Tensor]
    zeros_stay: bool = True

    def now(self) -> Tensor:
        """The weight itself: what is written into it, the model has."""
        return self.view(self.parameter.data)

    def moves(self) -> Bool[Tensor, "..."]:
        """Where it may be moved."""
        now = self.now()
        return now != 0 if self.zeros_stay else torch.ones_like(now, dtype=torch.bool)


class Moving:
    """The numbers of some weights that may be moved, zeros left out, with their gradients.

    What the model computes with is always what would be left of it: no error is judged that
    rounding could still change.

    - `numbers`: of each weight, in fp32 or the model's wider type; for an optimiser.
    """

    def __init__(self, weights: Sequence[Movable]) -> None:
        self.weights = weights
        self._moves = [weight.moves() for weight in weights]
        self.numbers = [
            nn.Parameter(now.to(torch.promote_types(now.dtype, torch.float32)))
            for now in self.copy()
        ]
        self._parameters = list(dict.fromkeys(weight.parameter for weight in weights))

    def copy(self) -> list[Tensor]:
        """What the model has now."""
        pairs = zip(self.weights, self._moves, strict=True)
        return [weight.now()[moves] for weight, moves in pairs]

    def give_back(self, values: Sequence[Tensor]) -> None:
        """The model has these again."""
        for weight, moves, value in zip(self.weights, self._moves, values, strict=True):
            weight.now()[moves] = value

    def write(self) -> None:
        """The model gets of the numbers what the files can hold."""
        self.give_back(
            [
                weight.nearest(numbers.detach().to(weight.parameter.dtype))
                for weight, numbers in zip(self.weights, self.numbers, strict=True)
            ]
        )

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """While it is open the parameters need a gradient; their flags are given back."""
        before = [parameter.requires_grad for parameter in self._parameters]
        try:
            for parameter in self._parameters:
                parameter.requires_grad_()
            yield
        finally:
            for parameter, flag in zip(self._parameters, before, strict=True):
                parameter.requires_grad_(flag)

    def add_gradients(self, loss: Tensor) -> None:
        """Those of this loss, on top of what the numbers have."""
        found = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        whole = dict(zip(self._parameters, found, strict=True))
        for weight, moves, numbers in zip(self.weights, self._moves, self.numbers, strict=True):
            gradient = whole[weight.parameter]
            if gradient is None:  # an expert that no token went to
                continue
            own = weight.view(gradient)[moves].to(numbers.dtype)
            numbers.grad = own if numbers.grad is None else numbers.grad.add_(own)

    def clip(self, most: float) -> bool:
        """Shortens the gradient as a whole to this norm; whether it is finite."""
        gradients = [numbers.grad for numbers in self.numbers if numbers.grad is not None]
        squares = [gradient.square().sum(dtype=torch.float64) for gradient in gradients]
        norm = torch.stack(squares).sum().sqrt() if squares else torch.zeros(())
        if not bool(norm.isfinite()):
            return False
        shorter = (most / norm).clamp(max=1).item()
        for gradient in gradients:
            gradient.mul_(shorter)
        return True
