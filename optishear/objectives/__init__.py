"""Objectives: HOW BAD a candidate is, cheaply. To add one: write the class, add one line here."""

from optishear.errors import ConfigError
from optishear.objectives.base import Objective
from optishear.objectives.divergence import (
    KL,
    CentredReconstruction,
    KLTop,
    Reconstruction,
    RelativeReconstruction,
)
from optishear.objectives.likelihood import Perplexity
from optishear.objectives.size import Bytes, Sparsity, SparsityGap
from optishear.objectives.taylor import Taylor
from optishear.objectives.zero_shot import ZeroShotError
from optishear.recipe.lookup import lookup


OBJECTIVES: dict[str, type[Objective]] = {
    "bytes": Bytes,
    "centred_reconstruction": CentredReconstruction,
    "kl": KL,
    "kl_top": KLTop,
    "perplexity": Perplexity,
    "reconstruction": Reconstruction,
    "relative_reconstruction": RelativeReconstruction,
    "sparsity": Sparsity,
    "sparsity_gap": SparsityGap,
    "taylor": Taylor,
    "zero_shot_error": ZeroShotError,
}


def make_objective(text: str) -> Objective:
    """A fresh objective from its name, or `name@number` or `name@data` for one that takes it."""
    name, at, digits = text.partition("@")
    kind = lookup(OBJECTIVES, name, kind="objective")
    if kind.example is not None:
        if not digits:
            raise ConfigError(
                f"objective {text!r}: write it with the name of its data, {name}@{kind.example}."
            )
        return kind(digits)  # pyright: ignore[reportCallIssue]
    number = kind.number
    if number is None:
        if at:
            raise ConfigError(f"objective {text!r}: {name!r} takes no number.")
        return kind()
    try:
        given = number.kind(digits)
    except ValueError:
        raise ConfigError(
            f"objective {text!r}: write it with {number.called}, {name}@{number.example}."
        ) from None
    if not number.low <= given < number.below:
        raise ConfigError(
            f"objective {text!r}: {number.called} must lie in [{number.low}, {number.below:g})."
        )
    return kind(given)  # pyright: ignore[reportCallIssue]
