"""AlphaPruning: well-trained (heavy-tailed) blocks keep more. Lu et al. 2024, arXiv 2410.10912."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.allocation.base import LayerView, of_blocks, weighted_mean
from optishear.errors import ConfigError
from optishear.recipe.profile import Rule
from optishear.recipe.rule_settings import usual_of


BINS = 100


def alphapruning(
    views: Sequence[LayerView], settings: Mapping[str, float] = usual_of("alphapruning")
) -> Rule:
    """Sparsity of a block = s * r / mean(r), r = (a - min a) / (max a - min a) * 2 eps + 1 - eps,

    with a the mean over the block's layers of the Hill exponent of their eigenvalue spectra.
    `epsilon` is 0.3 as the authors use with Wanda, unless told. The mean of r is over weights. It
    needs no data. A layer that is all zero has no spectrum, so the other layers speak for its
    block; a block of such layers alone is a `ConfigError`.
    """
    epsilon, alpha = settings["epsilon"], {}
    for block, members in of_blocks(views).items():
        exponents = [hill_exponent(_spectrum(v.weight)) for v in members if v.weight.any()]
        if not exponents:
            raise ConfigError(
                f"alphapruning: all weights of block {block} are zero ({members[0].layer.name} and "
                f"its other layers), so it has no spectrum. Use another rule."
            )
        alpha[block] = sum(exponents) / len(exponents)
    low, high = min(alpha.values()), max(alpha.values())
    span = high - low
    ratio = {
        block: (a - low) / span * 2 * epsilon + 1 - epsilon if span else 1.0
        for block, a in alpha.items()
    }
    mean = weighted_mean(views, ratio)
    return Rule(
        {view.layer.name: ratio[view.layer.block] / mean for view in views},
        {view.layer.name: 0.0 for view in views},
    )


def hill_exponent(eigenvalues: Float[Tensor, " n"]) -> float:
    """alpha = 1 + n / sum(log(l_i / l_min)) over the n eigenvalues from l_min up.

    l_min is the candidate with the least Kolmogorov-Smirnov distance between the eigenvalues above
    it and the power law fitted to them. Candidates lie between log10(0.95 p) and 1.5 p, p the
    peak of the histogram (100 bins) of log10 of the eigenvalues, as in the authors' code.
    """
    values = eigenvalues[eigenvalues > 1e-12 * eigenvalues.max()].double().sort().values
    logs = values.log10()
    counts = torch.histc(logs, bins=BINS)
    edges = torch.linspace(logs[0].item(), logs[-1].item(), BINS + 1, dtype=torch.float64)
    peak = 10 ** edges[counts.argmax()].item()
    low = torch.tensor(0.95 * peak).log10().item()
    starts = ((values >= low) & (values <= 1.5 * peak)).nonzero()[:, 0]
    starts = starts[starts < len(values) - 1]
    best, exponent = float("inf"), None
    for start in starts.tolist():
        tail = values[start:]
        n = len(tail)
        log_sum = (tail / tail[0]).log().sum().item()
        if log_sum <= 0:
            continue
        alpha = 1 + n / log_sum
        fitted = 1 - (tail / tail[0]) ** (1 - alpha)
        distance = (fitted - torch.arange(n, dtype=torch.float64) / n).abs().max().item()
        if distance < best:
            best, exponent = distance, alpha
    if exponent is None:  # no candidate: every eigenvalue is the same, or there is only one
        return 1.0 + len(values)
    return exponent


def _spectrum(weight: Float[Tensor, "out in"]) -> Float[Tensor, " n"]:
    """Squared singular values, from the Gram matrix of the shorter side in fp64; on the CPU, where
    so few numbers are looked at one by one. Those that rounding leaves below zero stay so."""
    wide = weight if weight.shape[0] <= weight.shape[1] else weight.T
    wide = wide.double()
    return torch.linalg.eigvalsh(wide @ wide.T).cpu()
