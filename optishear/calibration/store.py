"""A cache of calibration statistics by content: the same model and tokens are seen only once."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
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
from optishear.errors import StorageError
from optishear.models.weights import place_of
from optishear.recipe.layout import ModelLayout


log = logging.getLogger(__name__)

FORMAT = "1"
GRAM_BYTES = 2**30  # of all Gram matrices together; more is collected anew each time


def load_or_collect(
    cache: Path,
    key: str,
    model: nn.Module,
    layout: ModelLayout,
    parts: Sequence[Batches],
    needs: frozenset[Need],
    collect: CollectParts | None = None,
) -> dict[str, LayerStats]:
    """`collect_in_parts(collect, parts, needs)`, from `cache` where it was done before.

    `key` says which weights and which tokens in which parts: a model's revision, dtype and a hash
    of its tokens. `collect` None sums up in this process.
    What is collected and for which layers is added here. A damaged file is collected anew, with
    a warning. Statistics with Gram matrices of more than `GRAM_BYTES` are not kept.
    """
    collect = collect or one_after_the_other(model, layout)
    path = path_of(cache, key, layout, needs)
    if path is None:
        return collect_in_parts(collect, parts, needs)
    widths = {layer.site: layer.in_features for layer in layout.layers}
    if path.exists():
        try:
            stats = _load(path, widths, gram=Need.GRAM in needs)
            return {s: stats[s].to(place_of(model, s).device) for s in widths}
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            log.warning("%s is damaged (%s): collecting its statistics anew.", path, error)
    stats = collect_in_parts(collect, parts, needs)
    _save(path, stats)
    return stats


def path_of(cache: Path, key: str, layout: ModelLayout, needs: frozenset[Need]) -> Path | None:
    """Where these statistics lie, if they are there; None where they are too many to be kept."""
    if Need.GRAM in needs and gram_bytes(layout) > GRAM_BYTES:
        return None
    wanted = [FORMAT, key, layout.hash, sorted(need.value for need in needs)]
    digest = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:32]
    return cache / f"{digest}.safetensors"


def gram_bytes(layout: ModelLayout) -> int:
    """Of the Gram matrices of all input sites."""
    widths = {layer.site: layer.in_features for layer in layout.layers}
    return sum(4 * width**2 for width in widths.values())


def _save(path: Path, stats: Mapping[str, LayerStats]) -> None:
    """All or nothing: written beside its place and moved there in one step."""
    tensors = {f"{site}/input_sq": s.input_sq.cpu().contiguous() for site, s in stats.items()}
    tensors |= {
        f"{site}/gram": s.gram.cpu().contiguous() for site, s in stats.items() if s.gram is not None
    }
    counts = {site: [s.tokens, s.sequences] for site, s in stats.items()}
    metadata = {"counts": json.dumps(counts), "sha256": _checksum(tensors)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
        os.close(handle)
        try:
            save_file(tensors, name, metadata)
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"Calibration statistics could not be written to {path} ({error}). "
            f"Free some space there, or choose another cache folder."
        ) from error


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
