"""Calibration statistics as files: the same model sees the same tokens only once."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from safetensors import SafetensorError
from torch import nn

from optishear.calibration.checked_tensors import load_checked, save_checked
from optishear.calibration.parts import (
    Batches,
    CollectParts,
    collect_in_parts,
    one_after_the_other,
)
from optishear.calibration.statistics import (
    NONE,
    Kinds,
    LayerStats,
    by_site,
    plain_kinds,
    statistics_bytes,
    weighted_kinds,
)
from optishear.calibration.token_weights import UNGUIDED, Guide
from optishear.models.weights import view_of
from optishear.recipe.layout import ModelLayout
from optishear.records.cache import kept


LARGEST = 2**30  # bytes of a model's statistics together; more is collected anew each time


def load_or_collect(
    path: Path | None,
    model: nn.Module,
    layout: ModelLayout,
    parts: Sequence[Batches],
    needs: Kinds,
    collect: CollectParts | None = None,
    guide: Guide = UNGUIDED,
    held_back: Sequence[Batches] = (),
) -> dict[str, LayerStats]:
    """`collect_in_parts` with these arguments, from the file `path` where it was done before.

    `collect` None sums up in this process; for `path` see `load_or_make`.
    """
    collect = collect or one_after_the_other(model, layout)
    make = partial(collect_in_parts, collect, parts, needs, guide, held_back)
    return load_or_make(path, model, layout, needs, make, guide.groups)


def load_or_make(
    path: Path | None,
    model: nn.Module,
    layout: ModelLayout,
    needs: Kinds,
    make: Callable[[], dict[str, LayerStats]],
    guided: Mapping[str, int] = NONE,
) -> dict[str, LayerStats]:
    """What `make` makes, from the file `path` where it was done before.

    `path` is that of just these statistics (`runs.keys`); None keeps nothing. A damaged file is
    made anew, with a warning.
    """
    if path is None:
        return make()
    read = partial(_load, layout=layout, kinds=needs, guided=guided)
    if (stats := kept(path, read, SafetensorError)) is not None:
        return {site: found.to(view_of(model, site).device) for site, found in stats.items()}
    stats = make()
    _save(path, stats)
    return stats


def too_large(layout: ModelLayout, needs: Kinds, guided: Mapping[str, int] = NONE) -> bool:
    """Whether these statistics are collected anew each time, since nobody has the disk for them."""
    return statistics_bytes(layout, needs, guided) > LARGEST


def _save(path: Path, stats: Mapping[str, LayerStats]) -> None:
    tensors = {
        f"{site}/{name}": each.total.cpu().contiguous()
        for site, s in stats.items()
        for name, each in s.sums.items()
    }
    counts = {site: [s.tokens, s.sequences] for site, s in stats.items()}
    save_checked(path, tensors, {"counts": json.dumps(counts)})


def _load(
    path: Path, layout: ModelLayout, kinds: Kinds, guided: Mapping[str, int]
) -> dict[str, LayerStats]:
    """What `_save` wrote; `ValueError` where anything is not as it was written."""
    tensors, about = load_checked(path)
    counts, sites = json.loads(about["counts"]), by_site(layout.layers)
    if counts.keys() != sites.keys():
        raise ValueError("layers differ")
    found = {}
    for site, layers in sites.items():
        tokens, sequences = map(int, counts[site])

        def of(place: str, wanted: Kinds, counted=(tokens, sequences)) -> LayerStats:
            return LayerStats.of(*counted, *(kind(tensors[place + kind.name]) for kind in wanted))

        groups = {
            x.name: tuple(
                of(f"{site}/{x.name}/{group}/", weighted_kinds(kinds))
                for group in range(guided[x.name])
            )
            for x in layers
            if x.name in guided
        }
        plain = of(f"{site}/", plain_kinds(kinds, layers, guided))
        found[site] = replace(plain, guided=groups)
    return found
