"""Runs 2:4 layers on NVIDIA's sparse tensor cores, through torch's own tensor type.

Everything else in this project keeps weights dense; this is for whoever deploys a 2:4 checkpoint.
"""

import torch
from torch import nn

from optishear.errors import ConfigError
from optishear.models.weights import read
from optishear.recipe.layout import ModelLayout


AMPERE = (8, 0)  # the first compute capability with sparse tensor cores
DTYPES = (torch.float16, torch.bfloat16)
MULTIPLES = (32, 64)  # of outputs and inputs, in 16 bits: the stricter of torch's two backends


def to_semi_structured(model: nn.Module, layout: ModelLayout) -> list[str]:
    """Packs, in place, every linear layer that is 2:4 and that the kernels take; their names.

    Such a layer holds at most two non-zeros in every four consecutive inputs of a row, is 16 bits
    wide, and its sides are multiples of 32 and 64. The others stay dense. Raises a `ConfigError`
    where the hardware has no sparse tensor cores, or where no layer qualifies.
    """
    parameter = next(model.parameters())
    if parameter.device.type != "cuda":
        raise ConfigError(
            f"2:4 kernels: the model is on {parameter.device.type}, they need an NVIDIA GPU of "
            f"compute capability 8.0 (Ampere) or later. Load it with device='cuda'."
        )
    if (found := torch.cuda.get_device_capability(parameter.device)) < AMPERE:
        raise ConfigError(
            f"2:4 kernels: the GPU has compute capability {found[0]}.{found[1]}, they need 8.0 "
            f"(Ampere) or later."
        )
    names = packable(model, layout)
    if not names:
        raise ConfigError(
            "2:4 kernels: no layer holds at most two non-zeros in every four inputs, in float16 or "
            "bfloat16, with sides that are multiples of 32 and 64. Prune with --pattern 2:4 and "
            "load with dtype='bfloat16'."
        )
    for name in names:
        module = model.get_submodule(name)
        assert isinstance(module, nn.Linear)
        packed = torch.sparse.to_sparse_semi_structured(module.weight.detach())
        module.weight = nn.Parameter(packed, requires_grad=False)
    return names


def packable(model: nn.Module, layout: ModelLayout) -> list[str]:
    """Which layers `to_semi_structured` would pack. Experts and transposed weights are not."""
    names = []
    for layer in layout.layers:
        weight = read(model, layer)
        linear = not layer.name.rpartition(".")[2].isdigit() and isinstance(
            model.get_submodule(layer.name), nn.Linear
        )
        fits = layer.out_features % MULTIPLES[0] == 0 and layer.in_features % MULTIPLES[1] == 0
        if linear and fits and weight.dtype in DTYPES and _is_two_of_four(weight):
            names.append(layer.name)
    return names


def _is_two_of_four(weight: torch.Tensor) -> bool:
    return bool(((weight != 0).reshape(-1, 4).sum(1) <= 2).all())
