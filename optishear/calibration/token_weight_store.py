"""The store of token weights: taken once for one content, read from a file later."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from optishear.calibration.checked_tensors import load_checked, save_checked
from optishear.calibration.gradient_samples import refuse_without_gradients
from optishear.calibration.token_weight_samples import CollectSquares, sample_by_sample
from optishear.calibration.token_weights import TokenWeights
from optishear.errors import ConfigError
from optishear.models.placement import refuse_offloaded
from optishear.recipe.layout import ModelLayout
from optishear.records.cache import kept
from optishear.tasks import Batch, task_of


def load_or_collect_weights(
    path: Path,
    model: nn.Module,
    layout: ModelLayout,
    samples: Batch,
    groups: int,
    collect: CollectSquares | None = None,
) -> dict[str, TokenWeights]:
    """Token weights of every layer that reads each token once, from the file `path` where it was
    done before: 4 bytes a token, row group and layer.

    `collect` None takes them in this process. A damaged file is made anew, with a warning.
    """
    _refuse(model, layout, samples, groups)
    if (found := kept(path, partial(_load, groups=groups), SafetensorError)) is not None:
        return found
    found = _collected(collect or sample_by_sample(model, layout), model, samples, groups)
    _save(path, found)
    return found


def _collected(
    collect: CollectSquares, model: nn.Module, samples: Batch, groups: int
) -> dict[str, TokenWeights]:
    tokens = [task_of(model).rows(sample).numel() for sample in samples.split(1)]
    found: dict[str, list[list[Tensor]]] = {}

    def store(number: int, name: str, squares: Tensor) -> None:
        found.setdefault(name, [[] for _ in tokens])[number].append(squares)

    collect(samples, groups, store)
    return {
        name: TokenWeights(torch.cat([squares for [squares] in pieces]))
        for name, pieces in found.items()
        if [[len(squares) for squares in piece] for piece in pieces] == [[n] for n in tokens]
    }


def _refuse(model: nn.Module, layout: ModelLayout, samples: Batch, groups: int) -> None:
    refuse_offloaded(model, "A guided quadratic, which takes gradients,")
    refuse_without_gradients(model, layout, samples)
    for layer in layout.layers:
        if layer.out_features < groups:
            raise ConfigError(
                f"Layer {layer.name}: {layer.out_features} rows make no {groups} groups. Guide it "
                f"by fewer."
            )


def _save(path: Path, weights: Mapping[str, TokenWeights]) -> None:
    save_checked(path, {name: found.squares.contiguous() for name, found in weights.items()}, {})


def _load(path: Path, groups: int) -> dict[str, TokenWeights]:
    """What `_save` wrote; `ValueError` where anything is not as it was written."""
    tensors, _ = load_checked(path)
    if any(found.shape[1] != groups for found in tensors.values()):
        raise ValueError(f"not of {groups} row groups")
    return {name: TokenWeights(found) for name, found in tensors.items()}
