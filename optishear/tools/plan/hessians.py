"""Bytes of the factored Hessians that are held while some layers are solved."""

from collections.abc import Sequence

from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import Gram, HeldBackGram, Need
from optishear.pruning.calibration_data import TRIAL_BYTES
from optishear.pruning.factored import held_bytes
from optishear.recipe.layout import Layer
from optishear.recipe.quadratic import DAMPINGS
from optishear.solvers.hessian import most_bytes


def factored_bytes(layers: Sequence[Layer], needs: frozenset[Need], room: int) -> int:
    """Of the input sites' Hessians, as far as `room` holds them, the last few anyhow; and one
    layer's own where the Taylor loss is mixed in. None where nothing reads Gram matrices."""
    if Gram not in needs:
        return 0
    widths = _widths(layers)
    held = held_bytes(widths, room)
    return held + (most_bytes(max(widths)) if LayerGradients in needs else 0)


def trial_bytes(layers: Sequence[Layer], needs: frozenset[Need]) -> int:
    """Of those at dampings on trial, where held-back sequences choose them."""
    if HeldBackGram not in needs:
        return 0
    return held_bytes([width for width in _widths(layers) for _ in DAMPINGS], TRIAL_BYTES)


def _widths(layers: Sequence[Layer]) -> list[int]:
    """Of each input site."""
    return list({layer.site: layer.in_features for layer in layers}.values())
