"""The layout: a model's prunable layers, how big, in which block. No tensors."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from pydantic import Field

from optishear.errors import ConfigError
from optishear.reading.shapes import Shape, shaped


MOST = 2**31  # blocks, or rows or columns of a layer


@dataclass(frozen=True)
class Layer:
    """One prunable weight matrix, seen as [out, in] whatever the module stores.

    - `name`: unique in the model; an expert inside a 3-D parameter ends in its index.
    - `block`: index of the decoder block it lies in, from 0.
    - `role`: its path inside the block without any expert index, e.g. `self_attn.q_proj`.
    - `site`: name of the first layer that reads the same input tensor; layers of one site share
      their calibration statistics.
    """

    name: str
    block: int
    role: str
    out_features: int
    in_features: int
    site: str

    @property
    def size(self) -> int:
        return self.out_features * self.in_features


@dataclass(frozen=True)
class ModelLayout:
    """The prunable layers of a model, in the order in which data flows through them."""

    layers: tuple[Layer, ...]

    @cached_property
    def by_name(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def sizes(self) -> dict[str, int]:
        return {layer.name: layer.size for layer in self.layers}

    @cached_property
    def total(self) -> int:
        """Number of prunable weights; every sparsity in this project is a fraction of it."""
        return sum(layer.size for layer in self.layers)

    @cached_property
    def blocks(self) -> int:
        return 1 + max(layer.block for layer in self.layers)

    @cached_property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(layer.role for layer in self.layers))

    @cached_property
    def hash(self) -> str:
        text = json.dumps([asdict(layer) for layer in self.layers], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def sparsity(self, drop: Mapping[str, int]) -> float:
        """Fraction of all prunable weights that these counts drop."""
        return sum(drop.values()) / self.total

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(layer) for layer in self.layers]

    @classmethod
    def from_json(cls, data: Any, where: str = "layout", mend: str = "") -> "ModelLayout":
        """A checked layout; a `ConfigError` begins with `where` and ends with `mend`."""
        if not isinstance(data, list) or not data:
            raise ConfigError(f"{where}: a layout is a list of layers, found {data!r:.40}. {mend}")
        layers = tuple(
            Layer(**shaped(_Layer, layer, f"{where}: layer {number}", mend).model_dump())
            for number, layer in enumerate(data)
        )
        if len({layer.name for layer in layers}) < len(layers):
            raise ConfigError(f"{where}: names a layer twice. {mend}")
        return cls(layers)


class _Layer(Shape):
    """A `Layer` as files have it."""

    name: str
    block: int = Field(ge=0, lt=MOST)
    role: str
    out_features: int = Field(ge=1, lt=MOST)
    in_features: int = Field(ge=1, lt=MOST)
    site: str
