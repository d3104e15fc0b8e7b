"""What fused experts read: they are no modules, so that their products are watched instead."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from optishear.models.weights import WeightView


PRODUCTS = {F.linear, torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__}
BATCHED = {torch.bmm, torch.matmul, Tensor.bmm, Tensor.matmul, Tensor.__matmul__}

Add = Callable[[Float[Tensor, "tokens in"]], None]


class ExpertInputs(TorchFunctionMode):
    """Sees the products of eager fused experts while it is open, and adds up what they read.

    An eager expert multiplies by a slice of its parameter: known by the slice's address. Where all
    are multiplied at once (Llama-4), an expert reads its part of the batch, of which only the rows
    that are not zero count: the others are of tokens that were not routed to it.
    """

    def __init__(self, views: Mapping[str, WeightView], add: Mapping[str, Add]) -> None:
        super().__init__()
        self.by_parameter: dict[tuple[int, str], tuple[WeightView, dict[int, Add]]] = {}
        for site, view in views.items():
            assert view.expert is not None
            self.by_parameter.setdefault(view.key, (view, {}))[1][view.expert] = add[site]

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in PRODUCTS and len(args) >= 2 and args[1].ndim == 2:
            add = self._read_by(args[1].data_ptr())
            if add is not None:
                add(args[0].flatten(0, -2))
        elif func in BATCHED and len(args) >= 2 and args[0].ndim == args[1].ndim == 3:
            for expert, add in self._read_by_all(args[1]).items():
                rows = args[0][expert]
                add(rows[rows.any(-1)])
        return func(*args, **(kwargs or {}))

    def _read_by(self, address: int) -> Add | None:
        """For the expert that lies there: an offloaded one has no address until now."""
        for view, experts in self.by_parameter.values():
            parameter = view.parameter
            if not parameter.is_meta:
                each = parameter.stride(0) * parameter.element_size()
                expert, within = divmod(address - parameter.data_ptr(), each)
                if not within and expert in experts:
                    return experts[expert]
        return None

    def _read_by_all(self, stack: Tensor) -> dict[int, Add]:
        """For each expert of the parameter that this is, whichever way it is turned."""
        for view, experts in self.by_parameter.values():
            parameter = view.parameter
            if not parameter.is_meta and stack.data_ptr() == parameter.data_ptr():
                return {expert: add for expert, add in experts.items() if expert < len(stack)}
        return {}


@contextmanager
def eager_experts(model: nn.Module) -> Iterator[None]:
    """Experts computed one after another, as `ExpertInputs` needs; the old way given back."""
    assert isinstance(model, PreTrainedModel)
    before = model.get_experts_implementation()
    model.set_experts_implementation("eager")
    try:
        yield
    finally:
        model.set_experts_implementation(before)
