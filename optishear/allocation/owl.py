"""OWL: blocks with many outlying scores keep more. Yin et al. 2023, arXiv 2310.05175."""

from collections.abc import Mapping, Sequence

import torch

from optishear.allocation.base import LayerView, of_blocks, weighted_mean
from optishear.metrics.classic import Wanda
from optishear.recipe.profile import Rule
from optishear.recipe.rule_settings import usual_of


def owl(views: Sequence[LayerView], settings: Mapping[str, float] = usual_of("owl")) -> Rule:
    """Density of a block = 1 - s + d - mean(d), d = (D - min D) / (max D - min D) * 2 * lambda,

    with D the share of the block's Wanda scores that exceed `m` times their mean. `lambda` is 0.08
    and `m` 5 as in the paper unless told. The mean is over weights, so that s is met.
    """
    spread, m = settings["lambda"], settings["m"]
    share = {block: _outlier_share(members, m) for block, members in of_blocks(views).items()}
    low, high = min(share.values()), max(share.values())
    span = high - low or 1.0
    density = {block: (value - low) / span * 2 * spread for block, value in share.items()}
    mean = weighted_mean(views, density)
    return Rule(
        {view.layer.name: 1.0 for view in views},
        {view.layer.name: mean - density[view.layer.block] for view in views},
    )


def _outlier_share(views: Sequence[LayerView], m: float) -> float:
    scores = torch.cat([Wanda().score(v.weight, v.stats).flatten() for v in views])
    return (scores > m * scores.mean()).float().mean().item()
