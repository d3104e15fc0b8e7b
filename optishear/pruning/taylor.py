"""The Taylor loss of a pruned model: layers add up, so each layer's part is computed once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from optishear.calibration.gradients import LayerGradients


@dataclass(frozen=True, eq=False)
class TaylorLosses:
    """1/2 d F d^T of single layers with F the block-diagonal empirical Fisher, remembered by the
    layer's key (`layer_keys`): all that its new weights depend on in one-shot mode."""

    gradients: Mapping[str, LayerGradients]
    known: dict[str, float] = field(default_factory=dict)

    def of(
        self,
        layer: str,
        key: str,
        weight: Float[Tensor, "out in"],
        dense: Float[Tensor, "out in"],
    ) -> float:
        if key not in self.known:
            self.known[key] = self.once(layer, weight, dense)
        return self.known[key]

    def once(
        self, layer: str, weight: Float[Tensor, "out in"], dense: Float[Tensor, "out in"]
    ) -> float:
        """The same of a weight that will not come again."""
        return self.gradients[layer].taylor(weight.to(dense.device).float() - dense.float())
