"""Keys of what an experiment keeps: the parts that `records.cache` lists, filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from optishear.allocation import READS_INPUTS
from optishear.calibration.gradients import LayerGradients
from optishear.calibration.origin import SEQUENTIAL
from optishear.calibration.statistics import NONE, Need
from optishear.kernels.use import usable
from optishear.models.placement import input_device, kind_of_device
from optishear.recipe.recipe import Recipe
from optishear.recipe.rule_settings import parse_rule
from optishear.records.cache import AROUND, DENSE, SEEN, Key, key
from optishear.solvers.methods import needs_of
from optishear.tasks import Samples


if TYPE_CHECKING:
    from optishear.runs.prepare import Calibrated, Prepared


def statistics_key(
    prepared: Prepared, needs: frozenset[Need], guided: Mapping[str, int] = NONE
) -> Key:
    """`guided`: the row groups of each guided layer."""
    groups = [f"{name} in {groups} groups" for name, groups in guided.items()]
    told: dict[str, Any] = {"needs": sorted(need.name for need in needs) + sorted(groups)}
    if prepared.around is None:
        return key("statistics", {**_dense(prepared), **_seen(prepared), **told})
    told |= {AROUND: prepared.around.text, "kernels": _kernels(prepared)}
    return key("statistics_around", {**_dense(prepared), **_seen(prepared), **told})


def gradients_key(prepared: Prepared, sequences: int) -> Key:
    """Of the first so many calibration sequences."""
    taken = prepared.calibration.first(sequences)
    return key("gradients", {**_dense(prepared), "sequences": taken.hash})


def token_weights_key(prepared: Prepared, groups: int) -> Key:
    """For so many groups of every layer's rows."""
    told = {"calibration": prepared.calibration.hash, "groups": groups}
    return key("token_weights", {**_dense(prepared), **told})


def rule_key(prepared: Prepared, text: str) -> Key:
    """`text`: the rule's name, and its settings where they are not as usual."""
    chosen = parse_rule(text, "rule of layer sparsities")
    seen: dict[str, Any] = dict.fromkeys(SEEN)  # and always of the dense model
    if chosen.name in READS_INPUTS:
        seen = _seen(prepared)
    told = {"rule": chosen.name, "settings": dict(chosen.settings)}
    return key("rules", {**_dense(prepared), **seen, **told})


def levels_key(prepared: Prepared, gradient_sequences: int | None) -> Key:
    """`gradient_sequences`: None where nothing reads gradients."""
    return key("levels", _solved(prepared, gradient_sequences))


def held_out_key(
    calibrated: Calibrated, recipe: Recipe | None, mode: str, text: Samples, text_batch: int
) -> Key:
    """Of a recipe (None: the dense model) in a mode of applying it, on a text in such batches."""
    told: dict[str, Any] = {"text": text.hash, "text_batch": text_batch}
    if recipe is None:
        parts = dict.fromkeys((*SEEN, AROUND, "gradient_sequences", "recipe", "mode"))
        parts |= {**_dense(calibrated), "kernels": _kernels(calibrated)}
        return key("held_out", parts | told)
    reads = calibrated.gradient_sequences if LayerGradients in needs_of(recipe) else None
    told |= {"recipe": recipe.key, "mode": mode}
    if mode == SEQUENTIAL:
        told[AROUND] = None  # each recipe is around itself
    return key("held_out", {**_solved(calibrated, reads), **told})


def _dense(prepared: Prepared) -> dict[str, Any]:
    loaded = prepared.loaded
    values = (
        loaded.identity,
        prepared.layout.hash,
        loaded.dtypes,
        prepared.place or kind_of_device(loaded.model),
        torch.get_num_threads(),
    )
    return dict(zip(DENSE, values, strict=True))


def _seen(prepared: Prepared) -> dict[str, Any]:
    values = (prepared.calibration.hash, prepared.batch_tokens, prepared.parts)
    return dict(zip(SEEN, values, strict=True))


def _solved(prepared: Prepared, gradient_sequences: int | None) -> dict[str, Any]:
    """All that a pruned layer depends on beside what the recipe says of it."""
    told = {
        AROUND: prepared.around and prepared.around.text,
        "gradient_sequences": gradient_sequences,
        "kernels": _kernels(prepared),
    }
    return {**_dense(prepared), **_seen(prepared), **told}


def _kernels(prepared: Prepared) -> bool:
    """They add up in another order."""
    return usable(torch.empty(0, device=input_device(prepared.loaded.model)))
