"""Read a layer's weight as [out, in], and lend a model working copies of its weights for a while.

The one place that knows how weights are stored: Conv1D's transposition, an expert's index.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from optishear.errors import ConfigError
from optishear.models.experts import stored_transposed
from optishear.models.placement import Offloaded, device_at, offloaded_at, value_at
from optishear.recipe.layout import Layer, ModelLayout


@dataclass(frozen=True, eq=False)
class WeightView:
    """Where a layer's weight lies: a parameter, an expert's index in it, how it is stored.

    - `module`, `leaf`: what has the parameter, and its name there.
    """

    module: nn.Module
    leaf: str
    expert: int | None
    transposed: bool

    @property
    def parameter(self) -> nn.Parameter:
        """As it is now: an offloaded one is another tensor before and after each call."""
        return self.module.get_parameter(self.leaf)

    @property
    def key(self) -> tuple[int, str]:
        """Of the parameter: experts that are fused share it."""
        return id(self.module), self.leaf

    @property
    def offloaded(self) -> Offloaded | None:
        """How accelerate keeps the parameter, where it is offloaded."""
        return offloaded_at(self.module, self.leaf)

    @property
    def device(self) -> torch.device:
        """Where the layer computes."""
        return device_at(self.module, self.leaf)

    def read(self) -> Float[Tensor, "out in"]:
        """The weight where the layer computes, a view of the model's own if it is there."""
        return self.view(value_at(self.module, self.leaf))

    def view(self, stored: Tensor) -> Float[Tensor, "out in"]:
        """This layer's part of `stored` (the parameter, or a copy of it), never copied."""
        weight = stored if self.expert is None else stored[self.expert]
        return weight.T if self.transposed else weight


def view_of(model: nn.Module, name: str) -> WeightView:
    """The view of the layer called `name`; `<parameter>.<index>` is an expert of a fused one."""
    try:
        path, _, last = name.rpartition(".")
        holder, _, leaf = path.rpartition(".")
        if last.isdigit() and leaf in (module := model.get_submodule(holder))._parameters:
            return WeightView(module, leaf, int(last), stored_transposed(module))
        module = model.get_submodule(name)
        module.get_parameter("weight")
        return WeightView(module, "weight", None, isinstance(module, Conv1D))
    except AttributeError as error:
        raise ConfigError(
            f"Layer {name}: {type(model).__name__} has no weight of that name. The layout belongs "
            f"to another model: make it anew with `layout_of(model)`."
        ) from error


def read(model: nn.Module, layer: Layer) -> Float[Tensor, "out in"]:
    """The weight of `layer` as a view of the model's own storage: look, do not write.

    One that accelerate keeps elsewhere is brought to the device where its layer computes.
    """
    weight = view_of(model, layer.name).read()
    _check_shape(layer, weight)
    return weight


def _check_shape(layer: Layer, weight: Tensor) -> None:
    """A `ConfigError` if the layout belongs to another model."""
    if weight.shape != (layer.out_features, layer.in_features):
        raise ConfigError(
            f"Layer {layer.name}: the model's weight is {tuple(weight.shape)}, the layout says "
            f"{(layer.out_features, layer.in_features)}. The layout belongs to another model: "
            f"make it anew with `layout_of(model)`."
        )


class WorkingWeights:
    """The weights of a model while it works on copies: written in place, never re-pointed.

    Holds the working copies themselves, so that a write after that has ended reaches nobody.
    """

    def __init__(
        self,
        views: Mapping[str, WeightView],
        dense: Mapping[tuple[int, str], Callable[[], Tensor]],
        working: Mapping[tuple[int, str], Tensor],
        lent: ExitStack | None = None,
    ) -> None:
        self._views, self._dense, self._working = dict(views), dict(dense), dict(working)
        self._lent = lent

    def dense(self, name: str) -> Float[Tensor, "out in"]:
        """The layer's weight as it was before, where the layer computes: look, do not
        write."""
        view = self._views[name]
        return view.view(self._dense[view.key]())

    def view(self, name: str) -> Float[Tensor, "out in"]:
        """The layer's working weight itself: what is written into it, the model has. An offloaded
        one is in CPU memory, wherever the layer computes."""
        view = self._views[name]
        return view.view(self._working[view.key])

    def place(self, name: str) -> WeightView:
        """Where the layer's working weight lies in the model."""
        return self._views[name]

    def also(self, model: nn.Module, name: str) -> nn.Parameter:
        """Another parameter of the model, which may be written to as well from now on: it is a
        copy, and its own values are given back with those of the layers."""
        path, _, leaf = name.rpartition(".")
        view = WeightView(model.get_submodule(path), leaf, None, False)
        self._lend(view)
        return view.parameter

    def _lend(self, view: WeightView) -> tuple[int, str]:
        if view.key not in self._working:
            assert self._lent is not None
            lent = self._lent.enter_context(_swapped(view.parameter, view.offloaded))
            self._dense[view.key], self._working[view.key] = lent
        return view.key

    @property
    def biased(self) -> frozenset[str]:
        """The layers with a bias of their own."""
        return frozenset(name for name, view in self._views.items() if _has_bias(view))

    def bias(self, name: str) -> Float[Tensor, " out"]:
        """The layer's working bias itself, from now on a copy: see `also`."""
        return self._working[self._lend(_bias_of(self._views[name]))]

    def dense_bias(self, name: str) -> Float[Tensor, " out"]:
        """As it was before: look, do not write."""
        return self._dense[self._lend(_bias_of(self._views[name]))]()

    def restore_bias(self, name: str) -> None:
        """Makes it dense again, if it was ever lent."""
        key = _bias_of(self._views[name]).key
        if key in self._working:
            self._working[key].copy_(self._dense[key]())

    def write(self, name: str, weight: Float[Tensor, "out in"]) -> None:
        """Give the layer another weight; cast to the model's dtype on the way."""
        target = self.view(name)
        if target.shape != weight.shape:  # copy_ would broadcast
            raise ValueError(f"{name} is {tuple(target.shape)}, not {tuple(weight.shape)}.")
        target.copy_(weight.detach())

    @contextmanager
    def dense_again(self, names: Iterable[str]) -> Iterator[None]:
        """These layers (fused experts with all others of their parameter) are dense while it is
        open, biases too, and then what they were."""
        views = [self._views[name] for name in names]
        biases = [_bias_of(view).key for view in views]
        lent = [key for key in biases if key in self._working]
        keys = dict.fromkeys([*(view.key for view in views), *lent])
        before = {key: self._working[key].clone() for key in keys}
        for key in keys:
            self._working[key].copy_(self._dense[key]())
        try:
            yield
        finally:
            for key, working in before.items():
                self._working[key].copy_(working)

    def restore(self) -> None:
        """Make every working weight dense again."""
        for key, working in self._working.items():
            working.copy_(self._dense[key]())


def bias_name(layer: str) -> str:
    """The name of the parameter of a layer that has one; `biased_layers` knows which do."""
    return f"{layer}.bias"


def biased_layers(model: nn.Module, layout: ModelLayout) -> frozenset[str]:
    """The layers with a bias of their own: those of experts are one parameter, and are left."""
    names = [layer.name for layer in layout.layers]
    return frozenset(name for name in names if _has_bias(view_of(model, name)))


def _has_bias(view: WeightView) -> bool:
    return view.expert is None and view.module._parameters.get("bias") is not None


def _bias_of(view: WeightView) -> WeightView:
    return WeightView(view.module, "bias", None, False)


@contextmanager
def working_weights(model: nn.Module, layout: ModelLayout) -> Iterator[WorkingWeights]:
    """`model` with working copies in place of its prunable weights, its own given back on leaving.

    The dense tensors are set aside and never written to, so they come back bit for bit, in the
    same storage, whatever happens inside. Each parameter is swapped once and written in place
    from then on, as CUDA graphs and compiled code need; a fused parameter once for its experts.
    An offloaded weight has its copy where it is itself, in memory or on disk.

    Memory: the prunable weights twice.
    """
    for layer in layout.layers:
        view = view_of(model, layer.name)
        _check_shape(layer, view.view(view.parameter))  # before anything moves
    views = {layer.name: view_of(model, layer.name) for layer in layout.layers}
    refuse_shared(model, views)
    owners = {view.key: view for view in views.values()}
    away = {key: view.offloaded for key, view in owners.items()}
    dense: dict[tuple[int, str], Callable[[], Tensor]] = {}
    working: dict[tuple[int, str], Tensor] = {}
    with ExitStack() as stack:
        for key, view in owners.items():
            dense[key], working[key] = stack.enter_context(_swapped(view.parameter, away[key]))
        yield WorkingWeights(views, dense, working, stack)


@contextmanager
def _swapped(
    parameter: nn.Parameter, away: Offloaded | None
) -> Iterator[tuple[Callable[[], Tensor], Tensor]]:
    """What gives the dense tensor, and the copy that takes its place while this is open."""
    if away is not None:
        with away.replaced() as copy:
            yield away.load, copy
        return
    own = parameter.data
    try:
        with torch.no_grad():
            parameter.data = own.clone()
        yield lambda: own, parameter.data
    finally:
        parameter.data = own


def refuse_shared(model: nn.Module, views: Mapping[str, WeightView]) -> None:
    """A `ConfigError` if memory of a prunable parameter is also read under another name.

    An embedding tied to it would be pruned along, or fall out of step while copies are used.
    Compares memory ranges, not storages: unrelated tensors may lie in one storage. Of weights that
    are not in memory, transformers knows which are tied.
    """
    prunable = {id(view.parameter) for view in views.values()}
    named: list[tuple[str, Tensor]] = [*model.named_parameters(remove_duplicate=False)]
    named.extend(model.named_buffers(remove_duplicate=False))
    ranges = []
    for name, tensor in named:
        is_prunable = id(tensor) in prunable
        if tensor.is_meta:
            ranges.append(("meta", id(tensor), id(tensor) + 1, name, is_prunable))
        elif tensor.numel():
            reach = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride()))
            start = tensor.data_ptr()
            end = start + (reach + 1) * tensor.element_size()
            ranges.append((str(tensor.device), start, end, name, is_prunable))
    ranges.sort()
    where, furthest, owner, owner_prunable = "", 0, "", False
    for device, start, end, name, is_prunable in ranges:
        if device == where and start < furthest and (is_prunable or owner_prunable):
            raise _shared(owner, name)
        if device != where or end > furthest:
            where, furthest, owner, owner_prunable = device, end, name, is_prunable
    away = {name for name, tensor in named if tensor.is_meta and id(tensor) in prunable}
    tied: Any = getattr(model, "all_tied_weights_keys", {})
    for name, other in tied.items():
        if name in away or other in away:
            raise _shared(name, other)


def _shared(one: str, other: str) -> ConfigError:
    return ConfigError(
        f"{one} and {other} are one tensor, and it would be pruned under both names. "
        f"Untie them (give one a copy) before pruning."
    )
