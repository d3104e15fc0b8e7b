"""In which order data flow through the layers of a block: who reads what others made.

q, k and v read what comes into the block, o what these made of it, gate and up what o added, down
what these made. It is found on the block itself, not from names: layers whose input stays what it
was, bit for bit, whatever becomes of the others, come first; then those whose input only these
change; and so on. All layers of one role (the experts of a block) come at once.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch

from optishear.calibration.collect import collecting
from optishear.calibration.statistics import InputSq, LayerStats
from optishear.models.blocks import BlockRunner
from optishear.models.weights import WorkingWeights
from optishear.recipe.layout import Layer


Steps = tuple[tuple[Layer, ...], ...]


@torch.no_grad()
def flow_of(layers: Sequence[Layer], working: WorkingWeights, runner: BlockRunner) -> Steps:
    """These layers, all of the runner's next block, in steps: none reads what one of its own step
    or of a later one makes. They have to be dense, and are so again afterwards.

    Costs a run of the first batch for each step and one more.
    """
    dense = _read(layers, runner)
    left, steps = list(layers), []
    try:
        while left:
            for layer in left:
                working.view(layer.name).zero_()
            now = _read(layers, runner)
            moved = {x.role for x in left if not _equal(dense[x.site], now[x.site])}
            # Where everything left moves, as with roles that read each other, no order is better.
            step = [x for x in left if x.role not in moved] or left
            _restore(step, working)
            steps.append(tuple(step))
            left = [x for x in left if x not in step]
    finally:
        _restore(layers, working)
    return tuple(steps)


def _read(layers: Sequence[Layer], runner: BlockRunner) -> Mapping[str, LayerStats]:
    with collecting(runner.model, layers, frozenset({InputSq})) as collected:
        runner.run(0)
    return collected.sums(len(runner.batches[0]))


def _equal(one: LayerStats, other: LayerStats) -> bool:
    return one.tokens == other.tokens and torch.equal(one[InputSq].total, other[InputSq].total)


def _restore(layers: Iterable[Layer], working: WorkingWeights) -> None:
    for layer in layers:
        working.write(layer.name, working.dense(layer.name))
