"""Calibration statistics as files: the same model sees the same tokens only once."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from optishear.calibration.parts import (
    Batches,
    CollectParts,
    collect_in_parts,
    one_after_the_other,
)
from optishear.calibration.statistics import LayerStats, Need
from optishear.models.weights import view_of
from optishear.recipe.layout import ModelLayout
from optishear.records.atomic import whole_file
from optishear.records.cache import OTHER_CACHE, kept


GRAM_BYTES = 2**30  # of all Gram matrices together; more is collected anew each time


def load_or_collect(
    path: Path | None,
    model: nn.Module,
    layout: ModelLayout,
    parts: Sequence[Batches],
    needs: frozenset[Need],
    collect: CollectParts | None = None,
) -> dict[str, LayerStats]:
    """`collect_in_parts(collect, parts, needs)`, from the file `path` where it was done before.

    `path` is that of just these statistics (`experiment.keys`); None keeps nothing. `collect` None
    sums up in this process. A damaged file is collected anew, with a warning.
    """
    collect = collect or one_after_the_other(model, layout)
    if path is None:
        return collect_in_parts(collect, parts, needs)
    widths = {layer.site: layer.in_features for layer in layout.layers}
    read = partial(_load, widths=widths, gram=Need.GRAM in needs)
    if (stats := kept(path, read, SafetensorError)) is not None:
        return {s: stats[s].to(view_of(model, s).device) for s in widths}
    stats = collect_in_parts(collect, parts, needs)
    _save(path, stats)
    return stats


def too_large(layout: ModelLayout, needs: frozenset[Need]) -> bool:
    """Whether these statistics are collected anew each time, since nobody has the disk for them."""
    return Need.GRAM in needs and gram_bytes(layout) > GRAM_BYTES


def gram_bytes(layout: ModelLayout) -> int:
    """Of the Gram matrices of all input sites."""
    widths = {layer.site: layer.in_features for layer in layout.layers}
    return sum(4 * width**2 for width in widths.values())


def _save(path: Path, stats: Mapping[str, LayerStats]) -> None:
    tensors = {f"{site}/input_sq": s.input_sq.cpu().contiguous() for site, s in stats.items()}
    tensors |= {
        f"{site}/gram": s.gram.cpu().contiguous() for site, s in stats.items() if s.gram is not None
    }
    counts = {site: [s.tokens, s.sequences] for site, s in stats.items()}
    metadata = {"counts": json.dumps(counts), "sha256": _checksum(tensors)}
    with whole_file(path, OTHER_CACHE) as half:
        save_file(tensors, half, metadata)


def _load(path: Path, widths: Mapping[str, int], *, gram: bool) -> dict[str, LayerStats]:
    """What `_save` wrote; `ValueError` where anything is not as it was written."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    counts = json.loads(metadata["counts"])
    if metadata["sha256"] != _checksum(tensors) or counts.keys() != widths.keys():
        raise ValueError("checksum or layers differ")
    return {
        site: LayerStats(
            tokens=int(counts[site][0]),
            sequences=int(counts[site][1]),
            input_sq=tensors[f"{site}/input_sq"],
            gram=tensors[f"{site}/gram"] if gram else None,
        )
        for site in widths
    }


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()
