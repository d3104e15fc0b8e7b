"""Find the decoder blocks and their prunable matrices by structure, not by model name."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from optishear.errors import ConfigError
from optishear.models.experts import expert_count
from optishear.models.head import hidden_states
from optishear.models.placement import offloaded
from optishear.models.stacks import language_stacks
from optishear.models.weights import refuse_shared, view_of
from optishear.recipe.layout import Layer, ModelLayout
from optishear.tasks import task_of


log = logging.getLogger(__name__)

Kind = tuple[int, str]  # block and role: one layer, or the experts that stand side by side
Read = tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype, int]
Input = tuple[Read, ...]  # every tensor that a layer read in one forward pass, in order

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def layout_of(model: nn.Module, *, streamed: bool = False) -> ModelLayout:
    """The prunable layers of any causal language model of transformers 5, in data-flow order.

    Blocks are the largest stack of like modules in the language model. Prunable inside are
    `nn.Linear`, `Conv1D` and every expert of a fused experts module; routers and biases are not.
    Sites and order come from one forward pass over a few tokens. A module list inside a block holds
    parallel experts: its like layers stand side by side, in the order of their indices. The same
    pass proves that the model is causal, or it is refused.

    An expert that the probe's tokens did not reach is a layer like its siblings. Any other layer
    that was not reached (cross-attention without an encoder; a weight used without calling its
    module) is left out with a log warning: calibration could not see its input either.
    """
    if not isinstance(model, PreTrainedModel) or not model.can_generate():
        raise ConfigError(
            f"{type(model).__name__} is not a causal language model of transformers. "
            f"Load it with `AutoModelForCausalLM`."
        )
    absent = {name for name, p in model.named_parameters() if p.is_meta and not streamed}
    away = {*offloaded(model)}
    if model.config.is_encoder_decoder or absent - away:
        raise ConfigError(
            f"{type(model).__name__} cannot be pruned: it is an encoder-decoder, or some of its "
            f"weights are not in memory. Load a decoder-only model with its weights."
        )
    prefix, blocks = decoder_blocks(model)
    owners = {  # module path -> names of its layers
        f"{prefix}.{index}.{path}": names
        for index, block in enumerate(blocks)
        for path, names in _prunable(block, f"{prefix}.{index}.")
    }
    names = [name for group in owners.values() for name in group]
    refuse_shared(model, {name: view_of(model, name) for name in names})
    try:
        first_read, inputs = _probe(model, owners)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # what torch says of meta tensors
        if not away:
            raise
        raise ConfigError(
            f"{type(model).__name__} cannot be offloaded, some of its weights are used outside of "
            f"the module that has them ({str(error).splitlines()[0]}). Take cpu and disk out of "
            f"device_map."
        ) from error

    depth = prefix.count(".") + 2
    kinds = {n: (int(n.split(".")[depth - 1]), _role(model, n, depth)) for n in names}
    order: dict[Kind, int] = {}
    for path, position in first_read.items():
        for name in owners[path]:
            order.setdefault(kinds[name], position)
    if unreached := [name for name in names if kinds[name] not in order]:
        log.warning("Left out, for a forward pass does not call them: %s", ", ".join(unreached))
    reached = [name for name in names if kinds[name] in order]
    if not reached:
        raise ConfigError(
            f"{type(model).__name__} has no prunable matrix in use in its {len(blocks)} blocks "
            f"({prefix}): no Linear, Conv1D or fused experts. Choose another model."
        )
    reached.sort(key=lambda name: (kinds[name][0], order[kinds[name]]))
    sites = _sites(reached, inputs, kinds)
    return ModelLayout(
        tuple(Layer(name, *kinds[name], *_shape(model, name), sites[name]) for name in reached)
    )


def decoder_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The model's decoder blocks and their path in it: the largest stack that its text goes
    through."""
    stacks = language_stacks(model)
    prefix = max(stacks, key=lambda name: sum(p.numel() for p in stacks[name].parameters()))
    return prefix, stacks[prefix]


def _prunable(block: nn.Module, prefix: str) -> Iterator[tuple[str, list[str]]]:
    """Path of each module that holds prunable weights, with the names of its layers."""
    routers = {router for module in block.modules() for router in _routers(module)}
    for path, module in block.named_modules():
        if experts := expert_count(module):
            three = [n for n, p in module.named_parameters(recurse=False) if p.ndim == 3]
            yield path, [f"{prefix}{path}.{n}.{e}" for n in three for e in range(experts)]
        elif isinstance(module, (nn.Linear, Conv1D)) and module not in routers:
            if not isinstance(module.weight, nn.Parameter) or module.weight.dtype not in DTYPES:
                raise ConfigError(
                    f"{prefix}{path}: its weight is {module.weight.dtype} in a "
                    f"{type(module).__name__}. Load the model in bf16 or fp32, not quantized."
                )
            if isinstance(module, Conv1D) or module.out_features > 1:  # 1: a gate
                yield path, [f"{prefix}{path}"]


def _routers(module: nn.Module) -> Iterator[nn.Module]:
    """The Linear beside some experts (or alone in a module beside them) with one output each, those
    counted that compute nothing."""
    for experts in module.children():
        counts: set[int] = set()
        if expert_count(experts):
            counts = {len(p) for p in experts.parameters(recurse=False) if p.ndim == 3}
        elif isinstance(experts, nn.ModuleList):
            counts = {len(experts)}
        for beside in module.children() if counts else ():
            linears = [m for m in beside.modules() if isinstance(m, nn.Linear)]
            if beside is not experts and len(linears) == 1 and linears[0].out_features in counts:
                yield linears[0]


def _probe(
    model: PreTrainedModel, owners: dict[str, list[str]]
) -> tuple[dict[str, int], dict[str, Input]]:
    """Order of first call of each module, and which tensors each plain layer read.

    Tensors are the same if memory, shape, strides and in-place version are; they are kept alive
    until the end, so that no memory is used twice.
    """
    task = task_of(model)
    first_read: dict[str, int] = {}
    inputs: dict[str, Input] = {}
    alive: list[Tensor] = []

    def listener(path: str):
        def listen(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            first_read.setdefault(path, len(first_read))
            tensor = args[0] if args else next(iter(kwargs.values()))
            x = tensor.flatten(0, -2)
            alive.extend((tensor, x))
            read = (x.data_ptr(), tuple(x.shape), x.stride(), x.dtype, x._version)
            inputs[path] = (*inputs.get(path, ()), read)

        return listen

    hooks = [
        model.get_submodule(path).register_forward_pre_hook(listener(path), with_kwargs=True)
        for path in owners
    ]
    try:
        with torch.no_grad():
            hidden = hidden_states(model, task.probe(model))
    finally:
        for hook in hooks:
            hook.remove()
    task.refuse_by_probe(model, hidden)
    plain = {path: seen for path, seen in inputs.items() if owners[path] == [path]}
    return first_read, plain


def _sites(names: list[str], inputs: dict[str, Input], kinds: dict[str, Kind]) -> dict[str, str]:
    """The first layer that reads the same tensor. Unreached experts share as their siblings do."""
    first: dict[Input, str] = {}
    sites = {name: first.setdefault(inputs[name], name) for name in names if name in inputs}
    sibling = {kinds[name]: name for name in reversed(names) if name in inputs}
    twins = {(kinds[name], _numbers(name)): name for name in names}
    for name in names:
        if name not in sites:
            like = sites.get(sibling.get(kinds[name], ""), name)
            sites[name] = twins.get((kinds[like], _numbers(name)), name)
    return sites


def _numbers(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.split(".") if part.isdigit())


def _role(model: nn.Module, name: str, depth: int) -> str:
    """Path inside the block, without indices into module lists and fused parameters."""
    parts = name.split(".")
    holder: Any = model
    kept = []
    for position, part in enumerate(parts):
        if position >= depth and not isinstance(holder, (nn.ModuleList, nn.Parameter)):
            kept.append(part)
        holder = None if isinstance(holder, nn.Parameter) else getattr(holder, part)
    return ".".join(kept)


def _shape(model: nn.Module, name: str) -> tuple[int, int]:
    place = view_of(model, name)
    out_features, in_features = place.view(place.parameter).shape
    return out_features, in_features
