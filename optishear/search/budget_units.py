"""In what a budget of a split is counted: weights that go, or bytes that stay."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from optishear.errors import ConfigError
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.profile import check_sparsity, counts_within, has_levels, project
from optishear.recipe.storage import Storage
from optishear.search.curves import Curves
from optishear.search.pick import parse_number
from optishear.search.space import SearchSpace


SPARSITY, BYTES = "sparsity", "bytes"
LARGEST = 100  # per cent: above it a number without a unit is neither a share nor a per cent


@dataclass(frozen=True)
class Budget:
    """What a split has to keep to.

    - `quantity`: `sparsity`, that is to be reached, or `bytes`, that it takes at most; each as the
      objective of that name counts it.
    """

    quantity: str
    value: float

    @classmethod
    def parsed(cls, text: str) -> "Budget":
        """A sparsity as `0.5` or `60%`; bytes with their unit, as `100MB` or `1.5GiB`."""
        try:
            number = parse_number(text)
        except ConfigError:
            raise ConfigError(
                f"{text.strip()!r} is neither a sparsity, such as 0.5 or 60%, nor a size, such as "
                f"100MB."
            ) from None
        if text.strip().lower().endswith("b"):
            return cls(BYTES, number)
        if number >= LARGEST:
            raise ConfigError(f"{text.strip()}: a size has its unit, such as {text.strip()}B.")
        return cls(SPARSITY, check_sparsity(number))


class BudgetUnit(ABC):
    """How a split counts what its layers take of a budget.

    - `fill`: whether a budget is to be met; else it is a limit (see `knapsack.Table`).
    """

    fill: ClassVar[bool]

    @abstractmethod
    def amount(self, layer: Layer, drop: int) -> int:
        """What the layer takes where it drops so many weights: never falling in that number, or
        never rising."""

    @abstractmethod
    def limit(self, budget: float) -> int:
        """What the layers may take together."""

    @abstractmethod
    def finished(self, drop: Mapping[str, int], budget: float) -> dict[str, int]:
        """The same split with what is left of the budget shared out."""

    @abstractmethod
    def reached(self, drop: Mapping[str, int]) -> float:
        """What these counts come to, as a budget is written."""

    @abstractmethod
    def too_little(self, budget: float, least: int) -> ConfigError:
        """That no split is within the budget, since its layers take so much at least."""


class WeightsDropped(BudgetUnit):
    """Weights that go, of which a budget has a share: as many as `project` makes of it."""

    fill = True

    def __init__(self, space: SearchSpace) -> None:
        self._layers, self._layout = space.layers, space.layers.layout

    def amount(self, layer: Layer, drop: int) -> int:
        return drop

    def limit(self, budget: float) -> int:
        return round(check_sparsity(budget) * self._layout.total)

    def finished(self, drop: Mapping[str, int], budget: float) -> dict[str, int]:
        targets = {name: drop[name] / size for name, size in self._layout.sizes.items()}
        layers = self._layers
        return project(targets, self._layout, layers.patterns, layers.bounds, self.limit(budget))

    def reached(self, drop: Mapping[str, int]) -> float:
        return self._layout.sparsity(drop)

    def too_little(self, budget: float, least: int) -> ConfigError:
        return ConfigError(
            f"{budget:g}: by the space's bounds and patterns {least / self._layout.total:.4g} of "
            f"all weights go at least. Ask for more."
        )


class BytesStored(BudgetUnit):
    """Bytes of the whole checkpoint as the objective `bytes` counts them: `Storage.bitmask`."""

    fill = False

    def __init__(self, space: SearchSpace, curves: Curves, storage: Storage) -> None:
        self._layers, self._layout = space.layers, space.layers.layout
        self._curves, self._storage = curves, storage
        self._others = storage.other_weights * storage.bytes_per_weight

    def amount(self, layer: Layer, drop: int) -> int:
        return self._storage.bitmask_of(layer.size, layer.size - drop)

    def limit(self, budget: float) -> int:
        return min(int(budget), self._storage.dense(self._layout)) - self._others

    def finished(self, drop: Mapping[str, int], budget: float) -> dict[str, int]:
        """The layers without levels keep as many weights more as the bytes left hold, all alike;
        if that is cheaper, which it is unless curves fall."""
        left = self.limit(budget) + self._others - int(self.reached(drop))
        patterns, bounds = self._layers.patterns, self._layers.bounds
        free = [x for x in self._layout.layers if not has_levels(x, patterns, bounds)]
        more = left // self._storage.bytes_per_weight
        if not free or not more:
            return dict(drop)
        part = ModelLayout(tuple(free))
        least = sum(counts_within(layer, patterns, bounds)[0] for layer in free)
        total = max(sum(drop[layer.name] for layer in free) - more, least)
        targets = {layer.name: drop[layer.name] / layer.size for layer in free}
        shared = {**drop, **project(targets, part, patterns, bounds, total)}
        within = int(self.reached(shared)) - self._others <= self.limit(budget)
        return shared if within and self._cost(shared) < self._cost(drop) else dict(drop)

    def _cost(self, drop: Mapping[str, int]) -> float:
        return self._curves.total(drop)

    def reached(self, drop: Mapping[str, int]) -> float:
        kept = {name: size - drop[name] for name, size in self._layout.sizes.items()}
        return float(self._storage.bitmask(self._layout, kept))

    def too_little(self, budget: float, least: int) -> ConfigError:
        return ConfigError(
            f"{budget:.0f}B: by the space's bounds and patterns the checkpoint takes "
            f"{least + self._others}B at least. Ask for no less."
        )
