"""Read a layer's weight as [out, in], and lend a model working copies of its weights for a while.

The one place that knows how weights are stored: Conv1D's transposition, an expert's index.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from optishear.errors import ConfigError
from optishear.recipe.layout import Layer, ModelLayout


@dataclass(frozen=True, eq=False)
class Place:
    """Where a layer's weight lies: a parameter, an expert's index in it, how it is stored."""

    parameter: nn.Parameter
    expert: int | None
    transposed: bool

    def view(self, stored: Tensor) -> Float[Tensor, "out in"]:
        """This layer's part of `stored` (the parameter, or a copy of it), never copied."""
        weight = stored if self.expert is None else stored[self.expert]
        return weight.T if self.transposed else weight


def place_of(model: nn.Module, name: str) -> Place:
    """The place of the layer called `name`; `<parameter>.<index>` is an expert of a fused one."""
    try:
        path, _, last = name.rpartition(".")
        holder, _, leaf = path.rpartition(".")
        if last.isdigit() and leaf in (module := model.get_submodule(holder))._parameters:
            # transformers' `use_experts_implementation` marks experts stored as [in, out].
            transposed = bool(getattr(module, "is_transposed", False))
            return Place(module.get_parameter(leaf), int(last), transposed)
        module = model.get_submodule(name)
        return Place(module.get_parameter("weight"), None, isinstance(module, Conv1D))
    except AttributeError as error:
        raise ConfigError(
            f"Layer {name}: {type(model).__name__} has no weight of that name. The layout belongs "
            f"to another model: make it anew with `layout_of(model)`."
        ) from error


def read(model: nn.Module, layer: Layer) -> Float[Tensor, "out in"]:
    """The weight of `layer` as a view of the model's own storage: look, do not write."""
    place = place_of(model, layer.name)
    weight = place.view(place.parameter.detach())
    if weight.shape != (layer.out_features, layer.in_features):
        raise ConfigError(
            f"Layer {layer.name}: the model's weight is {tuple(weight.shape)}, the layout says "
            f"{(layer.out_features, layer.in_features)}. The layout belongs to another model: "
            f"make it anew with `layout_of(model)`."
        )
    return weight


class WorkingWeights:
    """The weights of a model while they are lent: written in place, never re-pointed.

    Holds the working copies themselves, so that a write after the loan has ended reaches nobody.
    """

    def __init__(
        self,
        places: Mapping[str, Place],
        dense: Mapping[int, Tensor],
        working: Mapping[int, Tensor],
    ) -> None:
        self._places, self._dense, self._working = places, dense, working

    def dense(self, name: str) -> Float[Tensor, "out in"]:
        """The layer's weight as it was before the loan: look, do not write."""
        place = self._places[name]
        return place.view(self._dense[id(place.parameter)])

    def view(self, name: str) -> Float[Tensor, "out in"]:
        """The layer's working weight itself: what is written into it, the model has."""
        place = self._places[name]
        return place.view(self._working[id(place.parameter)])

    def write(self, name: str, weight: Float[Tensor, "out in"]) -> None:
        """Give the layer another weight; cast to the model's dtype on the way."""
        target = self.view(name)
        if target.shape != weight.shape:  # copy_ would broadcast
            raise ValueError(f"{name} is {tuple(target.shape)}, not {tuple(weight.shape)}.")
        target.copy_(weight.detach())

    def restore(self) -> None:
        """Make every working weight dense again."""
        for key, working in self._working.items():
            working.copy_(self._dense[key])


@contextmanager
def lent(model: nn.Module, layout: ModelLayout) -> Iterator[WorkingWeights]:
    """`model` with working copies in place of its prunable weights, its own given back on leaving.

    The dense tensors are set aside and never written to, so they come back bit for bit, in the
    same storage, whatever happens inside. Each parameter is swapped once and written in place
    from then on, as CUDA graphs and compiled code need; a fused parameter once for its experts.

    Memory: the prunable weights twice.
    """
    for layer in layout.layers:
        read(model, layer)  # a layout of another model is refused before anything moves
    places = {layer.name: place_of(model, layer.name) for layer in layout.layers}
    refuse_shared(model, places)
    parameters = {id(place.parameter): place.parameter for place in places.values()}
    dense = {key: parameter.data for key, parameter in parameters.items()}
    try:
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.data = parameter.data.clone()
        working = {key: parameter.data for key, parameter in parameters.items()}
        yield WorkingWeights(places, dense, working)
    finally:
        for key, parameter in parameters.items():
            parameter.data = dense[key]


def refuse_shared(model: nn.Module, places: Mapping[str, Place]) -> None:
    """A `ConfigError` if memory of a prunable parameter is also read under another name.

    An embedding tied to it would be pruned along, or fall out of step while it is lent.
    Compares memory ranges, not storages: unrelated tensors may lie in one storage.
    """
    prunable = {id(place.parameter) for place in places.values()}
    named: list[tuple[str, Tensor]] = [*model.named_parameters(remove_duplicate=False)]
    named.extend(model.named_buffers(remove_duplicate=False))
    ranges = []
    for name, tensor in named:
        if tensor.numel() and not tensor.is_meta:
            reach = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride()))
            end = tensor.data_ptr() + (reach + 1) * tensor.element_size()
            start, is_prunable = tensor.data_ptr(), id(tensor) in prunable
            ranges.append((str(tensor.device), start, end, name, is_prunable))
    ranges.sort()
    where, furthest, owner, owner_prunable = "", 0, "", False
    for device, start, end, name, is_prunable in ranges:
        if device == where and start < furthest and (is_prunable or owner_prunable):
            raise ConfigError(
                f"{owner} and {name} are one tensor, and it would be pruned under both names. "
                f"Untie them (give one a copy) before pruning."
            )
        if device != where or end > furthest:
            where, furthest, owner, owner_prunable = device, end, name, is_prunable
