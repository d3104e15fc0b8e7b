"""Bytes that slopes take: what a backward pass needs of a batch, and where layers could move."""

from optishear.config.sections import GRADIENT
from optishear.models.checkpointed import why_not_checkpointed
from optishear.pipeline import HEAD_UNITS
from optishear.runs.setup import Setup


ON_THEIR_WAY = 2  # times a block's activations: these, and gradients in them


def bytes_of_slopes(setup: Setup, token: int, own: int) -> dict[str, int]:
    """By what holds them; nothing where neither the driver nor a seed goes by slopes.

    - `token`: bytes of the hidden states of one token; `own`: of one weight.

    A block's activations are what its layers read and make of a batch, experts of one role counted
    once.
    """
    experiment, c = setup.experiment, setup.calibrated
    if not experiment.driver.slopes and GRADIENT not in experiment.search.seeds:
        return {}
    search, layout = setup.samples["search"], c.layout
    batch = max(experiment.batch_tokens, search.units_each)
    widths = {
        (layer.block, layer.role): layer.in_features + layer.out_features for layer in layout.layers
    }
    widest = max(
        sum(width for (block, _), width in widths.items() if block == index)
        for index in range(layout.blocks)
    )
    refused = why_not_checkpointed(c.loaded.model, search.task.beginning(search.batch, HEAD_UNITS))
    kept = layout.blocks - 1 + ON_THEIR_WAY if refused else ON_THEIR_WAY
    return {
        "where each layer could move, for slopes": layout.total * own,
        "hidden states between blocks, for slopes": layout.blocks * batch * token,
        "activations for a backward pass": kept * batch * widest * own,
    }
