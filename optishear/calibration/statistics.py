"""What a layer saw during calibration: statistics that are sums, so merging two shards is `+`.

Each kind of statistic is a class and a line in `STATISTICS`. Metrics and solvers name the kinds
that they read in their `needs`; calibration sums up those and no others.
"""

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from types import MappingProxyType
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.calibration.gradients import LayerGradients
from optishear.calibration.token_weights import TokenWeights
from optishear.recipe.layout import Layer, ModelLayout


@dataclass(frozen=True, eq=False)
class Statistic(ABC):
    """A sum over the tokens that one input site read; `LayerStats` divides it when it is read.

    - `total`: the sum, fp32.
    - `name`: under which it is asked for in cache keys, and stored.
    - `words`: what `optishear methods` calls it.
    - `reads_dense`: whether it reads what the dense model's layer read of the same tokens, too.
      Then block by block the dense model's hidden states are carried along beside the pruned ones.
    - `held_back_of`: the kind that it is of the held-back sequences alone (`held_back.cut`); None
      for sums over all sequences, those among them.
    - `summed_in`: the type of the running sum.
    - `quadratic`: whether it sums products of two entries of a token's rows: then a token weighs s
      times as much where its rows are scaled by the root of s, as for guided layers they are.
    """

    name: ClassVar[str]
    words: ClassVar[str]
    reads_dense: ClassVar[bool] = False
    held_back_of: "ClassVar[type[Statistic] | None]" = None
    summed_in: ClassVar[torch.dtype] = torch.float32
    quadratic: ClassVar[bool] = False

    total: Float[Tensor, "..."]

    @staticmethod
    @abstractmethod
    def shape(width: int) -> tuple[int, ...]:
        """Of the sum at an input site of `width` features."""

    @staticmethod
    @abstractmethod
    def observe(
        total: Float[Tensor, "..."],
        x: Float[Tensor, "tokens in"],
        dense: Float[Tensor, "tokens in"],
    ) -> None:
        """Adds some tokens to a running sum, in place. `x` is what the layer read, in fp32, `dense`
        what it read of the same tokens in the dense model: `x` itself where nothing is pruned, and
        for kinds that do not read it."""

    @property
    def finite(self) -> bool:
        """Whether the input was."""
        return bool(self.total.isfinite().all())

    @classmethod
    def bytes(cls, width: int) -> int:
        """Of the sum at an input site of `width` features."""
        return 4 * prod(cls.shape(width))

    def __add__(self, other: "Statistic") -> "Statistic":
        if type(self) is not type(other) or self.total.shape != other.total.shape:
            raise ValueError(  # `+` would broadcast
                f"Cannot add {type(self).__name__} {tuple(self.total.shape)} and "
                f"{type(other).__name__} {tuple(other.total.shape)}: they are of different layers."
            )
        return type(self)(self.total + other.total)

    def to(self, device: torch.device | str) -> "Statistic":
        return type(self)(self.total.to(device))


class InputSq(Statistic):
    """sum of x_j**2. Under MOONSHOT, whose quadratic differs from row to row, a metric is handed
    one with a row for each output."""

    name, words = "input_sq", "input norms"
    summed_in = torch.float64  # only a vector
    quadratic = True

    @staticmethod
    def shape(width: int) -> tuple[int, ...]:
        return (width,)

    @staticmethod
    def observe(total: Tensor, x: Tensor, dense: Tensor) -> None:
        total += x.square().sum(0, dtype=total.dtype)


class _Gram(Statistic):
    """sum of x x^T. In fp32, for its size matters."""

    quadratic = True

    @staticmethod
    def shape(width: int) -> tuple[int, ...]:
        return (width, width)

    @staticmethod
    def observe(total: Tensor, x: Tensor, dense: Tensor) -> None:
        total.addmm_(x.T, x)

    @property
    def finite(self) -> bool:
        return bool(self.total.diagonal().isfinite().all())  # no entry is larger than these


class Gram(_Gram):
    """sum of x x^T: the Hessian of the reconstruction error."""

    name, words = "gram", "Gram matrices"


class HeldBackGram(_Gram):
    """sum of x x^T over the held-back sequences: how far a layer errs on what it was not fitted
    to."""

    name, words = "held_back_gram", "held-back Gram matrices"
    held_back_of = Gram


class Mean(Statistic):
    """sum of x: a layer's mean input, of which a bias can make up for what is pruned."""

    name, words = "mean", "input means"
    summed_in = torch.float64

    @staticmethod
    def shape(width: int) -> tuple[int, ...]:
        return (width,)

    @staticmethod
    def observe(total: Tensor, x: Tensor, dense: Tensor) -> None:
        total += x.sum(0, dtype=total.dtype)


class _Cross(Statistic):
    """sum of (x - x') x'^T, x of the dense model and x' of the pruned one."""

    reads_dense = True
    quadratic = True

    @staticmethod
    def shape(width: int) -> tuple[int, ...]:
        return (width, width)

    @staticmethod
    def observe(total: Tensor, x: Tensor, dense: Tensor) -> None:
        total.addmm_((dense - x).T, x)


class Cross(_Cross):
    """sum of (x - x') x'^T, x of the dense model and x' of the pruned one: how far, seen from what
    the layer reads now, its input has moved. Exactly zero where it has not."""

    name, words = "cross", "dense against pruned inputs"


class HeldBackCross(_Cross):
    """The same over the held-back sequences."""

    name, words = "held_back_cross", "held-back dense against pruned inputs"
    held_back_of = Cross


STATISTICS: dict[str, type[Statistic]] = {
    kind.name: kind for kind in (InputSq, Gram, Mean, Cross, HeldBackGram, HeldBackCross)
}

# What can be asked of calibration: kinds of sums, and gradients per sequence, which are no sum and
# are kept apart, for they are far larger; token weights weigh the sums of guided layers.
Need = type[Statistic] | type[LayerGradients] | type[TokenWeights]
Kinds = frozenset[type[Statistic]]
NONE: Mapping[str, int] = MappingProxyType({})
Found = TypeVar("Found", bound=Statistic | LayerGradients)


def summed(needs: Iterable[Need]) -> Kinds:
    """Those of the needs that one forward pass over the calibration tokens sums up."""
    return frozenset(kind for kind in needs if issubclass(kind, Statistic))


@dataclass(frozen=True, eq=False)
class LayerStats:
    """Sums over calibration tokens at one layer input, each there because somebody asked for it.

    - `tokens`: how many tokens this input saw; for an expert, those routed to it.
    - `sequences`: how many sequences calibration ran; for an expert too, all of them.
    - `found`: what was collected, by name; one layer's gradients may be among it.
    - `guided`: by layer that reads there and is guided, the same sums for each group of its rows,
      of inputs scaled by the root of their token weights.
    """

    tokens: int
    sequences: int
    found: Mapping[str, Statistic | LayerGradients]
    guided: "Mapping[str, tuple[LayerStats, ...]]" = field(default_factory=dict)

    @classmethod
    def of(cls, tokens: int, sequences: int, *found: Statistic | LayerGradients) -> "LayerStats":
        return cls(tokens, sequences, {each.name: each for each in found})

    def having(self, other: Statistic | LayerGradients) -> "LayerStats":
        """These, with this one beside them, or in the place of its kind."""
        return replace(self, found={**self.found, other.name: other})

    def __contains__(self, kind: Need) -> bool:
        return kind.name in self.found

    def __getitem__(self, kind: type[Found]) -> Found:
        """Raises a `LookupError` where nobody asked calibration for it: a bug of whoever reads it.
        Nothing stands in for it, so that nothing is computed of it unnoticed."""
        found = self.found.get(kind.name)
        if found is None:
            raise LookupError(
                f"{kind.__name__} was read and not collected (only {sorted(self.found)} were). "
                f"Whoever reads it has to name it in its needs."
            )
        return found  # type: ignore[return-value]

    def __add__(self, other: "LayerStats") -> "LayerStats":
        if self.found.keys() != other.found.keys() or self.groups != other.groups:
            raise ValueError(
                f"Cannot merge statistics of {sorted(self.found)} and {sorted(other.found)}, by "
                f"row groups of {self.groups} and {other.groups}."
            )
        found = {name: each + other.found[name] for name, each in self.found.items()}  # type: ignore[operator]
        guided = {
            name: tuple(one + two for one, two in zip(groups, other.guided[name], strict=True))
            for name, groups in self.guided.items()
        }
        tokens, sequences = self.tokens + other.tokens, self.sequences + other.sequences
        return LayerStats(tokens, sequences, found, guided)

    def row_groups(self, layer: Layer, number: int) -> "tuple[LayerStats, ...]":
        """Those of a guided layer. Raises a `LookupError` where nobody asked for as many."""
        found = self.guided.get(layer.name, ())
        if len(found) != number:
            raise LookupError(
                f"{layer.name} is guided in {number} row groups, and calibration summed up "
                f"{len(found)}. Whoever calibrates has to hand it the recipe's guide."
            )
        return found

    @property
    def groups(self) -> dict[str, int]:
        """How many row groups each guided layer has."""
        return {name: len(groups) for name, groups in self.guided.items()}

    @property
    def sums(self) -> dict[str, Statistic]:
        """All of them by a name of their own; gradients are none."""
        own = {name: each for name, each in self.found.items() if isinstance(each, Statistic)}
        for layer, groups in self.guided.items():
            for number, group in enumerate(groups):
                own |= {f"{layer}/{number}/{name}": each for name, each in group.sums.items()}
        return own

    def to(self, device: torch.device | str) -> "LayerStats":
        """The same sums there; gradients stay where they are."""
        moved = {
            name: each.to(device) if isinstance(each, Statistic) else each
            for name, each in self.found.items()
        }
        guided = {name: tuple(x.to(device) for x in groups) for name, groups in self.guided.items()}
        return replace(self, found=moved, guided=guided)

    def per_token(self, kind: type[Statistic]) -> Float[Tensor, "..."]:
        """The mean over the tokens that were seen."""
        return self[kind].total / self.tokens

    @property
    def input_norm(self) -> Float[Tensor, "*out in"]:
        """Root mean square of each input feature over the tokens that were seen."""
        return self.per_token(InputSq).sqrt()

    @property
    def sequence_sq(self) -> Float[Tensor, "*out in"]:
        """OptiShear's X: the squared norm over a sequence's tokens, averaged over sequences."""
        return self[InputSq].total / self.sequences


def stats_of(stats: Mapping[str, LayerStats], layer: Layer) -> LayerStats:
    """The statistics of a layer: those of its input site, which `collect` keys them by."""
    return stats[layer.site]


def unread(layers: Iterable[Layer]) -> dict[str, LayerStats]:
    """Statistics for those who read none."""
    return {layer.site: LayerStats(0, 0, {}) for layer in layers}


def reads_dense(needs: Iterable[Need]) -> bool:
    """Whether any of them reads the dense model's rows beside the pruned one's."""
    return any(kind.reads_dense for kind in summed(needs))


def by_site(layers: Iterable[Layer]) -> dict[str, list[Layer]]:
    """The layers that read each input site."""
    sites: dict[str, list[Layer]] = {}
    for layer in layers:
        sites.setdefault(layer.site, []).append(layer)
    return sites


def plain_kinds(kinds: Kinds, layers: Iterable[Layer], guided: Container[str]) -> Kinds:
    """Those that a site with these layers sums up unweighted. Where all of them are guided nobody
    reads a plain product; squares of inputs are kept, for rules of layer sparsities read them."""
    if any(layer.name not in guided for layer in layers):
        return kinds
    return frozenset(kind for kind in kinds if not kind.quadratic or kind is InputSq)


def weighted_kinds(kinds: Kinds) -> Kinds:
    """Those that are summed up for the row groups of a guided layer."""
    return frozenset(kind for kind in kinds if kind.quadratic)


def statistics_bytes(
    layout: ModelLayout, needs: Iterable[Need], guided: Mapping[str, int] = NONE
) -> int:
    """Of these statistics of all input sites; `guided`: the row groups of each guided layer."""
    kinds = summed(needs)
    plain = sum(
        kind.bytes(layers[0].in_features)
        for layers in by_site(layout.layers).values()
        for kind in plain_kinds(kinds, layers, guided)
    )
    weighted = sum(
        guided.get(layer.name, 0) * kind.bytes(layer.in_features)
        for layer in layout.layers
        for kind in weighted_kinds(kinds)
    )
    return plain + weighted
