"""A recipe for llm-compressor, as near to ours as it can say, with what it cannot say in comments.

Read in and run with llm-compressor 0.14.0.1. Of its two modifiers that prune in one shot Wanda is
ours, and SparseGPT is but for two of its habits (below). Sparsity by layer is a list in the order
of `model.named_modules()`, one number for each module that `targets` names.

- One modifier prunes in one calibration pass. Several do so one after the other, each on a model
  that the ones before have pruned; so there is one, or one for each N of an N:M pattern.
- Wanda drops int(inputs * sparsity) of each row. SparseGPT drops int(size * sparsity) + 1 of each
  block of columns, for it compares with <=. The numbers here are chosen for the nearest counts.
- N of its `mask_structure` N:M is what goes, where ours is what is kept.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from optishear.calibration.origin import Origin
from optishear.errors import ConfigError
from optishear.interchange.profiles import Deviation, deviation, refuse_fused_experts
from optishear.recipe.canonical import MASK
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.metric_forms import OWN
from optishear.recipe.parts import Parts
from optishear.recipe.pattern import Block, Pattern, Row
from optishear.recipe.quadratic import USUAL_DAMPING
from optishear.recipe.recipe import Recipe


VERSION = "0.14.0.1"
WANDA, SPARSEGPT = "WandaPruningModifier", "SparseGPTModifier"
BLOCK = 128  # columns: SparseGPT's own
DECIMALS = 9


@dataclass(frozen=True)
class Written:
    """The YAML text; how far its counts are from the recipe's; what it cannot say, in sentences."""

    text: str
    deviation: Deviation
    lost: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"llm-compressor: {self.deviation}", *(f"not expressed: {s}" for s in self.lost))


def llmcompressor_recipe(
    recipe: Recipe, layout: ModelLayout, modules: Sequence[str], origin: Origin
) -> Written:
    """`modules`: names of the model's Linear modules in the order of `named_modules()`.

    Raises a `ConfigError` where layers are no such modules: llm-compressor would pass them over
    without a word.
    """
    refuse_fused_experts(layout, "llm-compressor")
    order = {name: position for position, name in enumerate(modules)}
    for layer in layout.layers:
        if layer.name not in order:
            raise ConfigError(
                f"{layer.name} is no nn.Linear, and llm-compressor would leave it dense without a "
                f"word. Prune with optishear, or export the profile."
            )
    modifier = _modifier(recipe, layout)
    pruned = [layer for layer in layout.layers if recipe.drop[layer.name]]
    pruned.sort(key=lambda layer: order[layer.name])
    groups = list(_groups(recipe, pruned, modifier))
    got = dict.fromkeys(layout.sizes, 0)
    for _, counts in groups:
        got |= counts
    deviates = deviation(recipe.drop, got, layout)
    lost = tuple(_lost(recipe, layout, modifier))
    data = {
        "pruning_stage": {
            f"group_{index}_modifiers": {modifier: settings}
            for index, (settings, _) in enumerate(groups)
        }
    }
    head = _head(recipe, modifier, origin, deviates, lost, len(groups))
    body = yaml.safe_dump(data, sort_keys=False, width=100)
    return Written(f"{head}{body}", deviates, lost)


def _modifier(recipe: Recipe, layout: ModelLayout) -> str:
    """Its name. Raises a `ConfigError` where roles need different ones: the second would calibrate
    on what the first has pruned."""
    kinds = {recipe.at(x).metric.name == OWN or recipe.at(x).solver != MASK for x in layout.layers}
    if len(kinds) > 1:
        raise ConfigError(
            "The recipe masks some roles and solves others: llm-compressor has a modifier for "
            "each, of which the second would calibrate on a pruned model. Prune with optishear, or "
            "export the profile."
        )
    return SPARSEGPT if kinds.pop() else WANDA


def _groups(
    recipe: Recipe, layers: Sequence[Layer], modifier: str
) -> Iterator[tuple[dict[str, Any], dict[str, int]]]:
    """Settings of each modifier, with the weights that it will drop by layer."""
    alike: dict[tuple[int | None, float], list[Layer]] = {}
    for pattern in dict.fromkeys(recipe.at(layer).pattern for layer in layers):
        own = [layer for layer in layers if recipe.at(layer).pattern == pattern]
        m = _m_of(pattern, own)
        for layer in own:
            damping = _damping(recipe.at(layer)) if modifier == SPARSEGPT else 0.0
            alike.setdefault((m, damping), []).append(layer)
    for (m, damping), members in alike.items():
        members.sort(key=layers.index)
        extra = {"block_size": BLOCK, "dampening_frac": damping} if modifier == SPARSEGPT else {}
        yield from _groups_of(recipe, members, modifier, m, extra)


def _damping(parts: Parts) -> float:
    settings = parts.quadratic
    return USUAL_DAMPING if settings.auto else float(settings.damping)


def _groups_of(
    recipe: Recipe, layers: Sequence[Layer], modifier: str, m: int | None, extra: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], dict[str, int]]]:
    if m is None:
        rule = sparsegpt_sparsity if modifier == SPARSEGPT else wanda_sparsity
        found = {layer.name: rule(layer, recipe.drop[layer.name]) for layer in layers}
        found = {name: pair for name, pair in found.items() if pair[1]}
        if found:
            yield (
                {
                    "sparsity": [sparsity for sparsity, _ in found.values()],
                    "mask_structure": "0:0",
                    "targets": list(found),
                    **extra,
                },
                {name: count for name, (_, count) in found.items()},
            )
        return
    gone = {x.name: recipe.drop[x.name] // recipe.at(x).pattern.step(x) for x in layers}
    for n in sorted(set(gone.values())):
        members = [layer.name for layer in layers if gone[layer.name] == n]
        yield (
            {
                "sparsity": n / m,
                "mask_structure": f"{n}:{m}",
                "targets": members,
                **extra,
            },
            {name: recipe.drop[name] for name in members},
        )


def _m_of(pattern: Pattern, layers: Sequence[Layer]) -> int | None:
    """M, where the pattern is N:M in all these layers."""
    found = {pattern.m_of((layer.out_features, layer.in_features)) for layer in layers}
    return found.pop() if len(found) == 1 else None


def wanda_sparsity(layer: Layer, drop: int) -> tuple[float, int]:
    """The sparsity at which its Wanda drops nearest to `drop`, and how many that are."""
    rows, width = layer.out_features, layer.in_features
    column = min(round(drop / rows), width - 1)
    return _least(lambda s: int(width * s), column, column / width), rows * column


def sparsegpt_sparsity(layer: Layer, drop: int) -> tuple[float, int]:
    """The same for its SparseGPT, which drops one more than asked in every block of columns."""
    sizes = [
        layer.out_features * min(BLOCK, layer.in_features - start)
        for start in range(0, layer.in_features, BLOCK)
    ]

    def dropped(sparsity: float) -> int:
        return sum(int(size * sparsity) + 1 for size in sizes)

    start = max(0.0, (drop - len(sizes)) / layer.size)
    nearby = [round(max(0.0, start + k * 0.25 / max(sizes)), DECIMALS) for k in range(-8, 9)]
    best = min(nearby, key=lambda s: (abs(dropped(s) - drop), s))
    return best, dropped(best)


def _least(count: Callable[[float], int], wanted: int, start: float) -> float:
    """The smallest number of so many decimals, from `start` on, at which `count` is `wanted`."""
    unit = 10.0**-DECIMALS
    value = round(math.floor(start / unit) * unit, DECIMALS)
    while count(value) < wanted:
        value = round(value + unit, DECIMALS)
    return value


def _lost(recipe: Recipe, layout: ModelLayout, modifier: str) -> Iterator[str]:
    """What llm-compressor will do otherwise, a sentence each."""
    alike: dict[Parts, list[Layer]] = {}
    for layer in layout.layers:
        alike.setdefault(recipe.at(layer), []).append(layer)
    of = {
        parts: f"{', '.join(dict.fromkeys(x.role for x in own))}: " if len(alike) > 1 else ""
        for parts, own in alike.items()
    }
    for parts in alike:
        yield from (f"{of[parts]}{sentence}" for sentence in _lost_of(parts, modifier))
    if recipe.mixed:
        yield "the quadratic is MOONSHOT's mix of reconstruction and Taylor loss; plain here"
    if any(parts.quadratic.guided for parts in recipe.every):
        yield "the quadratic weighs tokens as the loss hears them; plain here"
    yield from (f"the recipe has {said}; none here" for said in recipe.only_by_block())
    own = Row() if modifier == WANDA else Block(BLOCK)
    for parts, layers in alike.items():
        if _m_of(parts.pattern, layers) is None and parts.pattern != own:
            yield (
                f"{of[parts]}the pattern is {parts.pattern.text}; weights compete under {own.text} "
                f"instead"
            )
    if modifier == SPARSEGPT:
        yield "where a Hessian cannot be inverted llm-compressor goes on with the identity"


def _lost_of(parts: Parts, modifier: str) -> Iterator[str]:
    """Of metric, solver and damping."""
    metric, solver = parts.metric, parts.solver
    if parts.quadratic.centred:
        yield "biases make up for the mean of what is pruned; they stay what they are here"
    if modifier == SPARSEGPT and parts.quadratic.auto:
        yield f"damping is chosen layer by layer by what is held back; {USUAL_DAMPING:g} here"
    if modifier == WANDA and metric != {"name": "wanda"}:
        yield f"the metric is {_spelt(metric)}; Wanda's takes its place"
    if modifier == SPARSEGPT and solver != {"name": "sparsegpt"}:
        by = "" if metric.get("name") == OWN else f" of the metric {_spelt(metric)}"
        yield f"the solver is {_spelt(solver)}{by}; SparseGPT takes its place, masks and weights"


def _head(
    recipe: Recipe,
    modifier: str,
    origin: Origin,
    deviates: Deviation,
    lost: Sequence[str],
    groups: int,
) -> str:
    lines = [
        f"optishear recipe {recipe.key} for llm-compressor {VERSION}: {modifier}",
        f"found on: model {origin.model} ({origin.model_hash})",
        f"calibration there: {_calibration(origin)}",
        "to use: oneshot(model=..., dataset=..., recipe=THIS_FILE, max_seq_length=...,",
        "    num_calibration_samples=...); the data are not part of a recipe",
        f"counts: {deviates}",
        "sparsity is a list in the order of model.named_modules(), one number a target",
    ]
    if groups > 1:
        lines += [
            "several modifiers, one for each N of N:M or damping: add pipeline='sequential' to",
            "    oneshot(...), else each calibrates on what those before it have pruned",
        ]
    lines += [f"NOT EXPRESSED: {sentence}" for sentence in lost]
    return "".join(f"# {line}\n" for line in lines)


def _calibration(origin: Origin) -> str:
    if origin.calibration is None:
        return "not known"
    return ", ".join(f"{key} {value}" for key, value in asdict(origin.calibration).items())


def _spelt(spec: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{key}={value}" for key, value in spec.items() if key != "name")
    return f"{spec.get('name')}({settings})" if settings else str(spec.get("name"))
