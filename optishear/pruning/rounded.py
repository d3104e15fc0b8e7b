"""Rounding of what solvers change to the type of the files, so that memory and file are equal."""

from collections.abc import Generator, Sequence
from contextlib import closing

import torch

from optishear.errors import ConfigError
from optishear.models.stored import Dtypes, nearest
from optishear.models.weights import WorkingWeights
from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.oneshot import PruneLayers, Solution
from optishear.recipe.layout import Layer
from optishear.recipe.recipe import Recipe


def rounded(prune_layers: PruneLayers, dtypes: Dtypes) -> PruneLayers:
    """`prune_layers`, whose changed weights then are numbers of all the types of their layer.

    A weight that is what it was is left alone: it is in the files already. So the blocks after it
    see what they will see when the checkpoint is loaded.
    """

    def prune_rounded(
        layers: Sequence[Layer], working: WorkingWeights, data: CalibrationData, recipe: Recipe
    ) -> Generator[tuple[Layer, Solution], None, None]:
        with closing(prune_layers(layers, working, data, recipe)) as made:
            for layer, solution in made:
                for dtype in dtypes[layer.name]:
                    _round(layer.name, working, dtype)
                yield layer, solution

    return prune_rounded


@torch.no_grad()
def _round(name: str, working: WorkingWeights, dtype: torch.dtype) -> None:
    new = working.view(name)
    if torch.promote_types(dtype, new.dtype) == dtype:
        return
    dense = working.dense(name).to(new.device)
    near = nearest(new, [dtype])
    if count := int((near.isinf() & new.isfinite()).sum()):
        raise ConfigError(
            f"{name}: {count} of its new weights are too large for "
            f"{str(dtype).removeprefix('torch.')}, in which it is stored. Give a wider "
            f"--save-dtype."
        )
    new.copy_(torch.where(new == dense, new, near))
