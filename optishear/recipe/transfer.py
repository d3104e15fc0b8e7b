"""Transfer of a recipe to another model, by relative depth and role. No tensors.

What a paper claims when it says that a metric or a profile "transfers": the sparsity (and λ) of a
layer is a function of how deep it lies and which role it has, read off the source, interpolated
linearly at the target's blocks, and brought onto the exact budget.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optishear.errors import ConfigError
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.metric_forms import GIVEN
from optishear.recipe.parts import Parts, simplest
from optishear.recipe.profile import Bounds, check_sparsity, project
from optishear.recipe.quadratic import canonical_lambdas
from optishear.recipe.recipe import Recipe


SAME_PATH, SAME_NAME, SYNONYM, BLOCK_MEAN = "same path", "same name", "synonym", "block mean"

ATTENTION: dict[str, tuple[str, ...]] = {
    "q": ("q_proj", "q_lin", "query", "wq"),
    "k": ("k_proj", "k_lin", "key", "wk"),
    "v": ("v_proj", "v_lin", "value", "wv"),
    "qkv": ("c_attn", "qkv_proj", "query_key_value", "Wqkv"),
    "o": ("o_proj", "out_proj", "out_lin", "dense", "c_proj", "wo"),
}
"""What architectures call the matrices of an attention, by what they do. `c_proj` is one name for
two of them in GPT-2, so each half of a block has a table of its own."""

FEED_FORWARD: dict[str, tuple[str, ...]] = {
    "gate": ("gate_proj", "w1"),
    "up": ("up_proj", "w3", "fc1", "fc_in", "c_fc", "dense_h_to_4h"),
    "gate_up": ("gate_up_proj", "input_linear"),
    "down": ("down_proj", "w2", "fc2", "fc_out", "c_proj", "dense_4h_to_h", "output_linear"),
}
"""The same of a feed-forward layer, gated or not, with experts or without."""

STAND_INS: dict[str, tuple[tuple[str, ...], ...]] = {
    "q": (("qkv",),),
    "k": (("qkv",),),
    "v": (("qkv",),),
    "qkv": (("q", "k", "v"),),
    "gate": (("gate_up",), ("up",)),
    "up": (("gate_up",),),
    "gate_up": (("gate", "up"), ("up",)),
}
"""Where the source has no matrix of that kind: what is read in its place, several as their mean
over weights. The first set that the source has all of is taken."""

Knots = list[tuple[float, float]]  # (relative depth, value), depths rising


@dataclass(frozen=True)
class RoleMatch:
    """From which roles of the source a role of the target takes its sparsities.

    - `sources`: their mean over weights is read; empty under the rule `block mean`, which reads
      the mean over all of the source's layers at that depth.
    - `layers`: how many layers of the target have the role.
    - `carried`, `sparsity`: of the role's weights, before and after the budget was met.
    """

    role: str
    sources: tuple[str, ...]
    rule: str
    layers: int
    carried: float
    sparsity: float


@dataclass(frozen=True)
class Transferred:
    """The recipe for the target. `carried` is its overall sparsity before the budget was met."""

    recipe: Recipe
    roles: tuple[RoleMatch, ...]
    carried: float


def transfer(
    recipe: Recipe, source: ModelLayout, target: ModelLayout, sparsity: float | None = None
) -> Transferred:
    """The recipe for `target` that takes after `recipe`, which is for `source`.

    Metric, pattern, solver, quadratic and order stay as they are; where they go by role, each role
    of the target has those of the roles that it takes its sparsities from. `sparsity` None is that
    of the source, as a fraction of all prunable weights. Onto the same layout a recipe stays
    exactly what it is.

    Raises a `ConfigError` for a mask from elsewhere, and where the pattern does not fit a layer.
    """
    recipe.check(source)
    if any(parts.metric.name == GIVEN for parts in recipe.every):
        raise ConfigError(
            "The recipe keeps a given mask, which says of single weights what to keep: it cannot "
            "be transferred to another model. Transfer a recipe with a metric or a solver of its "
            "own."
        )
    asked = source.sparsity(recipe.drop) if sparsity is None else check_sparsity(sparsity)
    matched = match_roles(source, target)
    fractions = {layer.name: recipe.drop[layer.name] / layer.size for layer in source.layers}
    targets = carry(fractions, source, target, matched)
    # As much as the usual bounds let go, or the source does: all of a layer, if need be.
    ceiling = min(max(Bounds().ceiling, *fractions.values()), math.nextafter(1, 0))
    budget = round(asked * target.total)
    by_role = recipe.roles if source == target else carried_roles(recipe, source, matched)
    there = replace(recipe, drop={}, lambdas={}, roles=by_role)
    drop = project(targets, target, there.patterns, Bounds(0.0, ceiling), budget)
    lambdas = recipe.lambdas
    if recipe.mixed:
        mixed = {layer.name: recipe.lambda_of(layer) for layer in source.layers}
        lambdas = canonical_lambdas(carry(mixed, source, target, matched))
    roles = []
    for role, (sources, rule) in matched.items():
        layers = [layer for layer in target.layers if layer.role == role]
        sizes = [layer.size for layer in layers]
        lost = sum(drop[layer.name] for layer in layers) / sum(sizes)
        before = _mean([targets[layer.name] for layer in layers], sizes)
        roles.append(RoleMatch(role, sources, rule, len(layers), before, lost))
    return Transferred(
        replace(there, drop=drop, lambdas=lambdas),
        tuple(roles),
        _mean([targets[layer.name] for layer in target.layers], list(target.sizes.values())),
    )


def match_roles(source: ModelLayout, target: ModelLayout) -> dict[str, tuple[tuple[str, ...], str]]:
    """For each role of the target the source's roles that it reads, and the rule that found them.

    The rules in order: the same path inside the block; the same last name in the same half of a
    block; the tables above; the block's mean, of no role.
    """
    matched = {}
    for role in target.roles:
        found = _named_alike(role, source) or _synonyms(role, source) or ((), BLOCK_MEAN)
        matched[role] = ((role,), SAME_PATH) if role in source.roles else found
    return matched


def carried_roles(
    recipe: Recipe,
    source: ModelLayout,
    matched: Mapping[str, tuple[tuple[str, ...], str]],
) -> tuple[tuple[str, Parts], ...]:
    """The parts of each role of the target: those that most weights have of the source's roles
    that it reads, ties to the first."""
    if recipe.same_everywhere:
        return ()
    found = []
    for role, (sources, _) in matched.items():
        weights: dict[Parts, int] = {}
        for layer in source.layers:
            if not sources or layer.role in sources:
                own = recipe.at(layer)
                weights[own] = weights.get(own, 0) + layer.size
        found.append((role, max(weights, key=weights.__getitem__)))
    return simplest(recipe.default, found)


def carry(
    values: Mapping[str, float],
    source: ModelLayout,
    target: ModelLayout,
    matched: Mapping[str, tuple[tuple[str, ...], str]],
) -> dict[str, float]:
    """A number for each layer of the target, read off the source's at its depth and role.

    Several of one role in a block (experts) answer to one another by their index where both models
    have as many of them; else each reads the mean.
    """
    carried = {}
    for role, (sources, _) in matched.items():
        there = [layer for layer in source.layers if not sources or layer.role in sources]
        here = [layer for layer in target.layers if layer.role == role]
        ours, theirs = _by_block(here), _by_block(there)
        counts = {len(layers) for layers in (*ours.values(), *theirs.values())}
        paired = len(sources) == 1 and len(counts) == 1
        each = range(counts.pop()) if paired else [None]
        curves = [_curve(theirs, index, values, source.blocks) for index in each]
        for block, layers in ours.items():
            depth = _depth(block, target.blocks)
            for index, layer in enumerate(layers):
                carried[layer.name] = _at(curves[index if paired else 0], depth)
    return {layer.name: carried[layer.name] for layer in target.layers}


def _named_alike(role: str, source: ModelLayout) -> tuple[tuple[str, ...], str] | None:
    alike = [r for r in source.roles if (_half(r), _name(r)) == (_half(role), _name(role))]
    return (tuple(alike), SAME_NAME) if alike else None


def _synonyms(role: str, source: ModelLayout) -> tuple[tuple[str, ...], str] | None:
    what = _what(role)
    if what is None:
        return None
    there: dict[str, list[str]] = {}
    for other in source.roles:
        if (_half(other) == _half(role)) and (kind := _what(other)) is not None:
            there.setdefault(kind, []).append(other)
    for kinds in ((what,), *STAND_INS.get(what, ())):
        if all(kind in there for kind in kinds):
            return tuple(r for kind in kinds for r in there[kind]), SYNONYM
    return None


def _what(role: str) -> str | None:
    """What a matrix of this role does, by the tables above."""
    table = ATTENTION if _half(role) == "attention" else FEED_FORWARD
    return next((what for what, names in table.items() if _name(role) in names), None)


def _half(role: str) -> str:
    return "attention" if re.search("attn|attention", role) else "feed-forward"


def _name(role: str) -> str:
    """The last part of its path; experts in one parameter end in `weight`, which says nothing."""
    return role.removesuffix(".weight").rpartition(".")[2]


def _by_block(layers: Sequence[Layer]) -> dict[int, list[Layer]]:
    blocks: dict[int, list[Layer]] = {}
    for layer in layers:
        blocks.setdefault(layer.block, []).append(layer)
    return blocks


def _curve(
    layers: Mapping[int, Sequence[Layer]],
    index: int | None,
    values: Mapping[str, float],
    blocks: int,
) -> Knots:
    """The value over relative depth: of each block's layer `index`, or None for their mean."""
    knots = []
    for block in sorted(layers):
        chosen = layers[block] if index is None else [layers[block][index]]
        mean = _mean([values[x.name] for x in chosen], [x.size for x in chosen])
        knots.append((_depth(block, blocks), mean))
    return knots


def _depth(block: int, blocks: int) -> float:
    """0 for the first block, 1 for the last; the only one stands in the middle."""
    return block / (blocks - 1) if blocks > 1 else 0.5


def _at(knots: Knots, depth: float) -> float:
    """Linear between knots, constant beyond the outer ones; a knot's own value at a knot."""
    after = bisect_left(knots, depth, key=lambda knot: knot[0])
    if after == len(knots) or after == 0 or knots[after][0] == depth:
        return knots[min(after, len(knots) - 1)][1]
    (x0, y0), (x1, y1) = knots[after - 1], knots[after]
    between = y0 + (y1 - y0) * ((depth - x0) / (x1 - x0))
    return min(max(between, min(y0, y1)), max(y0, y1))  # rounding must not pass a knot


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    """Weighted; equal values have exactly that mean."""
    if min(values) == max(values):
        return values[0]
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)
