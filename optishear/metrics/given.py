"""A mask from elsewhere in a metric's place."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from optishear.calibration.statistics import LayerStats
from optishear.errors import ConfigError
from optishear.metrics.base import Metric


@dataclass(frozen=True)
class Given(Metric):
    """What to keep is handed over (`--mask-from`), not scored; `hash` says which mask it was."""

    hash: str = ""
    paper = "masks of any origin"

    def score(self, weight: Float[Tensor, "out in"], stats: LayerStats) -> Float[Tensor, "out in"]:
        raise ConfigError(
            f"The recipe keeps what the mask {self.hash!r} keeps, but no mask was handed over. "
            f"Use `optishear prune --mask-from` with the checkpoint or mask file that has it."
        )
