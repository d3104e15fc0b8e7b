"""Bytes that candidates take which are pruned block by block.

Nothing but what metrics read is summed up ahead: each candidate takes the hidden states of the
calibration text through the model, with the statistics of one block at a time, and moves what is
kept of that block where its space has a local reconstruction.
"""

from collections.abc import Mapping

from optishear.calibration.statistics import reads_dense, statistics_bytes
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.reconstruction import DENSE, HALF, ReconstructionSettings
from optishear.runs.setup import Setup
from optishear.tools.plan.hessians import factored_bytes, trial_bytes


NUMBERS = 4 * 4  # bytes of a number that moves: in fp32 with its gradient and two moments
COPIES = 2  # of the kept weights: as they are now, and at the best epoch


def bytes_by_block(setup: Setup, token: int, own: int) -> dict[str, int]:
    """What is held, by its name in a plan.

    - `token`: bytes of the hidden states of one token; `own`: of one weight.
    """
    layout, needs = setup.calibrated.layout, setup.experiment.reads
    settings, blocks = setup.space.reconstruct, _blocks(layout)
    states = setup.calibrated.calibration.units * token
    streams = 1 + (reads_dense(needs) or settings is not None)
    found = {
        "hidden states of the calibration text": streams * states,
        "statistics of a block": max(statistics_bytes(block, needs) for block in blocks),
        "factored Hessians of a block": max(factored_bytes(b.layers, needs, 0) for b in blocks),
        "Hessians at dampings on trial": max(trial_bytes(b.layers, needs) for b in blocks),
    }
    if settings is not None:
        found |= _of_windows(setup, settings, states, own)
    return found


def _of_windows(
    setup: Setup, settings: ReconstructionSettings, states: int, own: int
) -> Mapping[str, int]:
    """Hidden states beside the streams; the numbers of a block that move; and what a sequence
    leaves of each layer's inputs and outputs for the backward pass."""
    blocks, calibration = _blocks(setup.calibrated.layout), setup.calibrated.calibration
    kept = 1 - (setup.space.sparsity or 0.0)
    moved = max(block.total for block in blocks)
    widths = max(sum(map(_widths, block.layers)) for block in blocks)
    return {
        "what dense windows make": places_of(settings) * states,
        "weights that are reconstructed": round(
            moved * (kept * (NUMBERS + COPIES * own) + own + 1)  # the whole gradient, and where
        ),
        "activations of a sequence": calibration.units_each * widths * own,
    }


def places_of(settings: ReconstructionSettings) -> int:
    """Of hidden states of the whole text: what the block makes, and either what its halves do,
    dense and pruned, or the dense inputs, kept while those of the next block are there."""
    if settings.window == HALF:
        return 3
    return 2 if settings.inputs == DENSE else 1


def _widths(layer: Layer) -> int:
    return layer.in_features + layer.out_features


def _blocks(layout: ModelLayout) -> list[ModelLayout]:
    """Each with its layers alone, those that have any."""
    found: dict[int, list[Layer]] = {}
    for layer in layout.layers:
        found.setdefault(layer.block, []).append(layer)
    return [ModelLayout(tuple(layers)) for layers in found.values()]
