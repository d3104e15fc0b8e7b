"""HOW BAD, cheaply, inside the loop. To add an objective: write the class, add one line here."""

from optishear.errors import ConfigError
from optishear.objectives.base import Objective
from optishear.objectives.divergence import KL, Reconstruction, RelativeReconstruction
from optishear.objectives.likelihood import Perplexity
from optishear.objectives.size import Bytes, Sparsity, SparsityGap
from optishear.objectives.taylor import Taylor
from optishear.recipe.lookup import lookup


OBJECTIVES: dict[str, type[Objective]] = {
    "bytes": Bytes,
    "kl": KL,
    "perplexity": Perplexity,
    "reconstruction": Reconstruction,
    "relative_reconstruction": RelativeReconstruction,
    "sparsity": Sparsity,
    "sparsity_gap": SparsityGap,
    "taylor": Taylor,
}


def make_objective(text: str) -> Objective:
    """A fresh objective from its name, or `name@number` for one that takes a number."""
    name, at, number = text.partition("@")
    kind = lookup(OBJECTIVES, name, kind="objective")
    if kind is not SparsityGap:
        if at:
            raise ConfigError(f"objective {text!r}: {name!r} takes no number.")
        return kind()
    try:
        target = float(number)
    except ValueError:
        raise ConfigError(f"objective {text!r}: write it with a target, {name}@0.5.") from None
    if not 0 <= target < 1:
        raise ConfigError(f"objective {text!r}: the target must lie in [0, 1).")
    return SparsityGap(target)
