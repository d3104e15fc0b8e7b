"""Which sparsity a genome asks of each layer: a rule, a gene a block or layer, or a curve."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.patterns import Patterns
from optishear.recipe.profile import Bounds, Rule, counts_within
from optishear.search.genes import Choice, Gene, Integer, Real


LEVEL, SLOPE, BEND = "sparsity.level", "sparsity.slope", "sparsity.bend"
GROUPINGS = ("block", "layer", "curve")
REAL_GRID = 64  # of a layer: where a real gene's counts are listed


@dataclass(frozen=True)
class SparsityGenes:
    """Target sparsities for a layout; `project` makes exact counts of them.

    - `patterns`: of every layer. Those that fix N, such as 2:4, leave their layers without genes.
    - `by`: `block`, `layer` (a gene each), `curve` (level, slope and bend over depth, an offset a
      role), or the name of a rule (`uniform`, `owl`, `alphapruning`).
    - `bounds`: what a target may be. With steps a block or layer gene counts them.
    - `level`: whether the overall level is a gene: not under a budget, which fixes it.
    - `options`: the only sparsities that a block or layer gene may take, if given.
    - `width`: how far a curve's slope, bend and offsets may go.
    - `rules`: the published rules' profiles for this model, for `by` and for seeds.
    """

    layout: ModelLayout
    patterns: Patterns
    by: str
    bounds: Bounds
    level: bool
    options: tuple[float, ...] | None = None
    width: float = 0.3
    rules: Mapping[str, Rule] = field(default_factory=dict)

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        if self.by in ("block", "layer"):
            return tuple(self._target_gene(group) for group in self._groups)
        level = (Real(LEVEL, self.bounds.floor, self.bounds.ceiling),) if self.level else ()
        if self.by != "curve":
            return level
        w = self.width
        offsets = tuple(Real(_offset(role), -w, w) for role in self._roles[1:])
        return (*level, Real(SLOPE, -w, w), Real(BEND, -w, w), *offsets)

    def decode(self, values: Mapping[str, Any], sparsity: float | None) -> dict[str, float]:
        """Gene values by gene name -> a target sparsity a layer; `sparsity` is the budget's."""
        layers = self.layout.layers
        if self.by in ("block", "layer"):
            per = {g: self._target_of(g, values[f"sparsity.{g}"]) for g in self._groups}
            fixed = {layer.name: self.patterns.fixed(layer) for layer in layers}
            return {
                layer.name: per[self.group_of(layer)] if (own := fixed[layer.name]) is None else own
                for layer in layers
            }
        level = values[LEVEL] if self.level else sparsity
        assert level is not None
        if self.by != "curve":
            return self.rules[self.by].targets(level)
        targets = {}
        for layer in layers:
            z = self._depth(layer)
            bend = values[BEND] * (1.5 * z * z - 0.5)  # the second Legendre polynomial
            offset = values.get(_offset(layer.role), 0.0)
            targets[layer.name] = level + values[SLOPE] * z + bend + offset
        return targets

    def encode(self, targets: Mapping[str, float]) -> dict[str, float] | None:
        """Gene codes that come as near to these targets as the grouping can; None for a rule whose
        shape the targets do not have."""
        if self.by in ("block", "layer"):
            codes = {}
            for group in self._groups:
                members = self._groups[group]
                mean = np.average(
                    [targets[x.name] for x in members], weights=[x.size for x in members]
                )
                codes[f"sparsity.{group}"] = self._code_of(group, float(mean))
            return codes
        if not self.free:
            return {}
        mean = np.average(
            [targets[layer.name] for layer in self.layout.layers],
            weights=[layer.size for layer in self.layout.layers],
        )
        if self.by == "curve":
            return self._fit_curve(targets)
        own = self.rules[self.by].targets(float(mean))
        if any(abs(own[name] - target) > 1e-6 for name, target in targets.items()):
            return None
        return {LEVEL: float(mean)} if self.level else {}

    @cached_property
    def free(self) -> tuple[Layer, ...]:
        """The layers whose pattern fixes nothing."""
        return tuple(x for x in self.layout.layers if self.patterns.fixed(x) is None)

    @cached_property
    def _groups(self) -> dict[str, list[Layer]]:
        groups: dict[str, list[Layer]] = {}
        for layer in self.free:
            groups.setdefault(self.group_of(layer), []).append(layer)
        return groups

    @cached_property
    def _roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(layer.role for layer in self.free))

    @cached_property
    def _levels(self) -> dict[str, int | None]:
        """By group the number of levels, where all its layers have as many."""
        found = {g: {self.patterns.at(x).levels for x in own} for g, own in self._groups.items()}
        return {g: levels.pop() if len(levels) == 1 else None for g, levels in found.items()}

    @cached_property
    def counts_by_code(self) -> dict[str, tuple[tuple[float, dict[str, int]], ...]]:
        """By name of a block's or layer's gene: its codes, each with what the layers that follow it
        then drop; empty where blocks and layers have no genes of their own.

        The counts are those which `project` makes without a budget: the nearest legal ones. All
        codes of whole genes, of a real one every 64th of a layer within its bounds, and both ends.
        """
        if self.by not in ("block", "layer"):
            return {}
        return {
            gene.name: tuple((code, self._counts(group, gene.value(code))) for code in _codes(gene))
            for gene, group in zip(self.genes, self._groups, strict=True)
        }

    def _counts(self, group: str, value: Any) -> dict[str, int]:
        """What the layers of a group drop at this value of their gene."""
        target = self._target_of(group, value)
        return {layer.name: self._count(layer, target) for layer in self._groups[group]}

    def _count(self, layer: Layer, target: float) -> int:
        """The legal count nearest to a target sparsity."""
        reach = counts_within(layer, self.patterns, self.bounds)
        wanted = round(min(max(target, 0.0), 1.0) * (layer.size // reach.step)) * reach.step
        return min(max(wanted, reach[0]), reach[-1])

    def group_of(self, layer: Layer) -> str:
        """Whose sparsity gene the layer follows, where blocks or layers have genes of their own."""
        return f"block.{layer.block}" if self.by == "block" else layer.name

    def _target_gene(self, group: str) -> Gene:
        """With steps the gene is how many are dropped; where the pattern has levels it is how many
        weights a group keeps, N of N:M."""
        name = f"sparsity.{group}"
        if self.options is not None:
            return Choice(name, self.options)
        if self.bounds.steps is not None:
            return Integer(name, *self.bounds.of(self.bounds.steps))
        if (m := self._levels[group]) is not None:
            least = int(np.ceil((1 - self.bounds.ceiling) * m - 1e-9))
            most = int(np.floor((1 - self.bounds.floor) * m + 1e-9))
            return Integer(name, max(1, least), most)
        return Real(name, self.bounds.floor, self.bounds.ceiling)

    def _target_of(self, group: str, value: Any) -> float:
        """The sparsity that a gene's value means."""
        if self.bounds.steps is not None:
            return value / self.bounds.steps
        if self.options is None and (m := self._levels[group]) is not None:
            return 1 - value / m
        return float(value)

    def _code_of(self, group: str, target: float) -> float:
        if self.options is not None:
            return float(np.argmin(np.abs(np.array(self.options) - target)))
        if self.bounds.steps is not None:
            return float(round(target * self.bounds.steps))
        if (m := self._levels[group]) is not None:
            return float(round((1 - target) * m))
        return target

    def _depth(self, layer: Layer) -> float:
        """Relative depth of the layer's block, from -1 to 1."""
        return 2 * layer.block / max(1, self.layout.blocks - 1) - 1

    def _fit_curve(self, targets: Mapping[str, float]) -> dict[str, float]:
        layers, roles = self.free, self._roles[1:]
        rows = []
        for layer in layers:
            z = self._depth(layer)
            rows.append([1.0, z, 1.5 * z * z - 0.5, *[float(layer.role == r) for r in roles]])
        target = np.array([targets[layer.name] for layer in layers])
        weight = np.sqrt([layer.size for layer in layers])
        found = np.linalg.lstsq(np.array(rows) * weight[:, None], target * weight, rcond=None)[0]
        names: Sequence[str] = [LEVEL, SLOPE, BEND, *[_offset(role) for role in roles]]
        known = {gene.name for gene in self.genes}
        return {n: float(v) for n, v in zip(names, found, strict=True) if n in known}


def _offset(role: str) -> str:
    return f"sparsity.offset.{role}"


def _codes(gene: Gene) -> list[float]:
    """Every code of a gene; of a real one those of a grid, and both ends."""
    if not isinstance(gene, Real):
        return [float(code) for code in range(int(gene.low), int(gene.high) + 1)]
    first, last = math.ceil(gene.low * REAL_GRID), math.floor(gene.high * REAL_GRID)
    inside = (step / REAL_GRID for step in range(first, last + 1))
    return sorted({gene.low, gene.high, *inside})
