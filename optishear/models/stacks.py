"""The stacks of like blocks that a model's text goes through; none of a tower for images or sound.

A wrapper has several stacks, and which of them is the largest says nothing: a small language model
may sit beside a large tower. So the model itself is asked what its decoder is.
"""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from optishear.errors import ConfigError


def language_stacks(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Each `ModuleList` whose modules have parts, and more in common than being modules, by its
    path: those of the decoder that `get_decoder` names. A list of mere matrices is no stack of
    blocks: Gemma-3n has two beside its blocks.

    A model within that decoder which has a configuration of its own is a part for something else
    (Phi-4-multimodal keeps its towers beside its embedding). Its stacks are taken only where the
    decoder has none but such.
    """
    path, decoder = _decoder_of(model)
    everywhere = {
        f"{path}.{name}".strip("."): module
        for name, module in decoder.named_modules()
        if isinstance(module, nn.ModuleList)
        and any(True for child in module for _ in child.children())
        and set.intersection(*(set(type(child).__mro__) for child in module))
        - set(nn.Module.__mro__)
    }
    if not everywhere:
        raise ConfigError(
            f"{type(model).__name__} has no stack of like blocks, so there is nothing to prune. "
            f"Is it a causal language model?"
        )
    parts = [
        f"{path}.{name}.".lstrip(".")
        for name, module in decoder.named_modules()
        if isinstance(module, PreTrainedModel) and module.config is not _config_of(decoder)
    ]
    own = {name: each for name, each in everywhere.items() if not name.startswith(tuple(parts))}
    return own or everywhere


def _decoder_of(model: nn.Module) -> tuple[str, nn.Module]:
    """Path and module; what is no model of transformers cannot be asked, and is all of it."""
    decoder: Any = model.get_decoder() if isinstance(model, PreTrainedModel) else model
    return next((name, module) for name, module in model.named_modules() if module is decoder)


def _config_of(module: nn.Module) -> Any:
    return getattr(module, "config", None)
