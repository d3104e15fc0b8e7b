"""Statistics around a recipe: of what layers read of a model while that recipe prunes it.

A search that goes on from a good recipe then measures its neighbours one-shot as if all that lies
before a layer were pruned as the recipe says, instead of dense (re-solving around the best, as
Týr-the-Pruner does it, 2025); and a target shift has something to aim at.
"""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import Kinds, LayerStats
from optishear.errors import ConfigError
from optishear.models.weights import working_weights
from optishear.pruning.block_loop import InMemory, apply_by_block
from optishear.pruning.oneshot import PruneLayers, prune
from optishear.recipe.layout import ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.tasks import Batch


UNGUIDED_ONLY = (
    "the recipe is guided, and what is summed up for its row groups is of no use to others. Choose "
    "one that is not."
)


def statistics_around(
    model: nn.Module,
    layout: ModelLayout,
    recipe: Recipe,
    batches: Sequence[Batch],
    kinds: Kinds,
    gradients: Mapping[str, LayerGradients] | None = None,
    progress: Callable[[int, int], None] | None = None,
    prune_layers: PruneLayers = prune,
) -> dict[str, LayerStats]:
    """By input site what the block loop sums up of `kinds` while it applies `recipe`; the model is
    dense again afterwards.

    So the recipe itself, with these statistics one-shot, comes out as block by block, bit for bit,
    but for a local reconstruction; and for last bits where `kinds` hold sequences back that its own
    statistics do not. `gradients`: of the dense model, where the recipe reads them.

    Raises a `ConfigError` for a recipe that is guided, whose sums are of row groups.
    """
    recipe.check(layout)
    if recipe.row_groups(layout.layers):
        raise ConfigError(f"around: {UNGUIDED_ONLY}")
    found: dict[str, LayerStats] = {}
    with working_weights(model, layout) as working:
        apply_by_block(
            InMemory(model, working, layout),
            recipe,
            batches,
            gradients=gradients,
            progress=progress,
            prune_layers=prune_layers,
            also=kinds,
            collected=found.update,
        )
    return found
