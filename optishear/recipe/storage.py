"""Sizes of a pruned model in bytes, by the form in which its layers are stored."""

from collections.abc import Mapping
from dataclasses import dataclass

from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.pattern import Pattern
from optishear.recipe.recipe import Recipe


SIZES = ("bytes_dense", "bytes", "bytes_2:4", "share_2:4")


@dataclass(frozen=True)
class Storage:
    """What sizes depend on beside the recipe.

    - `other_weights`: parameters outside the prunable layers (embeddings, norms, head).
    - `bytes_per_weight`: of the dtype that the checkpoint is stored in.
    """

    other_weights: int
    bytes_per_weight: int

    def dense(self, layout: ModelLayout) -> int:
        """Zeros written like any other number, as `optishear prune` does and most tools read."""
        return (layout.total + self.other_weights) * self.bytes_per_weight

    def bitmask(self, layout: ModelLayout, kept: Mapping[str, int]) -> int:
        """Each pruned layer as its non-zeros plus one bit a weight, or dense where that is less."""
        layers = sum(self.bitmask_of(size, kept[name]) for name, size in layout.sizes.items())
        return layers + self.other_weights * self.bytes_per_weight

    def bitmask_of(self, size: int, kept: int) -> int:
        """One layer of so many weights in that form: bytes that never rise as it keeps fewer."""
        return min(kept * self.bytes_per_weight + size // 8, size * self.bytes_per_weight)

    def two_of_four(self, layout: ModelLayout, recipe: Recipe) -> int:
        """Each layer that 2:4 hardware can take as half its values plus two bits for each of them
        (NVIDIA's sparse tensor cores), the others dense. 9/16 of a dense layer in 16 bits."""
        packed = sum(layer.size for layer in two_of_four_layers(layout, recipe))
        dense = (layout.total - packed + self.other_weights) * self.bytes_per_weight
        return dense + packed // 2 * self.bytes_per_weight + packed // 8


def two_of_four_layers(layout: ModelLayout, recipe: Recipe) -> list[Layer]:
    """The layers in which the pattern promises at most two weights in every four inputs.

    An unstructured layer may meet that by chance, but nothing says so. Hardware and kernels ask for
    more: 16-bit or narrower weights, both sides multiples of 16 to 64.
    """
    return [x for x in layout.layers if _promises(recipe.at(x).pattern, x, recipe.drop[x.name])]


def sizes(recipe: Recipe, layout: ModelLayout, storage: Storage) -> dict[str, float]:
    """What a recipe makes of the checkpoint: `bytes_dense`, `bytes` (non-zeros plus bit mask),
    `bytes_2:4` and `share_2:4` (of the prunable weights, those in layers that are 2:4)."""
    kept = {name: size - recipe.drop[name] for name, size in layout.sizes.items()}
    packed = sum(layer.size for layer in two_of_four_layers(layout, recipe))
    values = (
        float(storage.dense(layout)),
        float(storage.bitmask(layout, kept)),
        float(storage.two_of_four(layout, recipe)),
        packed / layout.total,
    )
    return dict(zip(SIZES, values, strict=True))


def _promises(pattern: Pattern, layer: Layer, drop: int) -> bool:
    if drop == layer.size:
        return layer.in_features % 4 == 0
    m = pattern.m_of((layer.out_features, layer.in_features))
    if m is None or layer.in_features % 4:
        return False
    kept = m - drop // pattern.step(layer)
    if m % 4 == 0:
        return kept <= 2  # however they lie: a group of four never holds more
    return m == 2 and kept <= 1
