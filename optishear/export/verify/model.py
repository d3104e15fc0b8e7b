"""The model that transformers makes of a folder, beside its recipe where there is one."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optishear.errors import ConfigError
from optishear.export.checkpoint import broken_groups, logits_of, too_few_zeros
from optishear.export.verify.check import FAILED, INFO, OK, Check, percent
from optishear.models.auto import auto_class_of
from optishear.models.catalog import quiet_transformers
from optishear.models.experts import expert_count
from optishear.models.load import DTYPES, load
from optishear.models.weights import read
from optishear.recipe.layout import ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.tasks import task_of


KNOWN_PATTERNS = ((1, 2), (1, 4), (2, 4), (2, 8), (4, 8), (8, 16))  # N kept of M
ELIGIBLE = (2, 4)  # what sparse tensor cores take

PROBE_UNITS = 32


@dataclass(frozen=True, eq=False)
class Opened:
    """A model as transformers alone opens it, and which tensors it missed or had no use for."""

    model: Any
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def open_plainly(folder: Path, dtype: str) -> Opened:
    """With an auto class of transformers alone, in eval mode. A `ConfigError` says why it cannot
    be."""
    import transformers

    try:
        with quiet_transformers():
            loaded: Any = auto_class_of(folder).from_pretrained(
                folder,
                dtype=DTYPES[dtype],
                use_safetensors=True,
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=False,
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # each architecture of transformers has its own kinds
        first = next(iter(str(error).strip().splitlines()), "no reason given")
        raise ConfigError(
            f"transformers {transformers.__version__} cannot open it "
            f"({type(error).__name__}: {first})."
        ) from error
    model, told = loaded
    model.requires_grad_(False).eval()
    missing, unexpected = (
        tuple(sorted(told[f"{kind}_keys"])) for kind in ("missing", "unexpected")
    )
    return Opened(model, missing, unexpected)


def check_keys(opened: Opened, carried: Collection[str] | None = None) -> Check:
    """Every tensor that the architecture has is there, and no other but those of the dense files.

    - `carried`: tensors that the dense files have without use for this architecture; None where
      they cannot be looked at.
    """
    unknown = tuple(name for name in opened.unexpected if name not in (carried or ()))
    wrong = {"missing": opened.missing, "of no use": unknown}
    if carried is None and unknown and not opened.missing:
        return Check(
            "keys",
            INFO,
            f"All tensors of {type(opened.model).__name__}, and {len(unknown)} that it does not "
            f"know; the dense files, which may have them too, are not at hand.",
            unknown,
        )
    if any(wrong.values()):
        counts = " and ".join(f"{len(names)} {what}" for what, names in wrong.items() if names)
        return Check(
            "keys",
            FAILED,
            f"Of the tensors that config.json calls for there are {counts}.",
            tuple(f"{name}: {what}" for what, names in wrong.items() for name in names),
        )
    other = f"{len(opened.unexpected)} that only the dense files know"
    return Check(
        "keys",
        OK,
        f"All tensors of {type(opened.model).__name__}, and "
        f"{other if opened.unexpected else 'no other'}.",
    )


def check_reload(folder: Path, model: Any, dtype: str) -> Check:
    """Finite logits with transformers alone, equal to those of the model as optishear loads it."""
    import transformers

    sample = task_of(model).made_up(model, PROBE_UNITS)
    plain = logits_of(model, sample)
    if bad := int((~plain.isfinite()).sum()):
        return Check("reload", FAILED, f"{bad} of {plain.numel():,} logits are NaN or infinite.")
    how = ""
    if any(expert_count(module) for module in model.modules()):
        # Another kernel rounds otherwise: what is compared is what is in the model.
        model.set_experts_implementation("eager")
        plain, how = logits_of(model, sample), " (experts one by one)"
    try:
        ours = logits_of(load(str(folder.resolve()), dtype=dtype).model, sample)
    except ConfigError as error:
        return Check("reload", FAILED, f"Opens with transformers, not with optishear: {error}")
    if not torch.equal(plain, ours):
        worst = (plain - ours).abs().max().item()
        return Check("reload", FAILED, f"Logits differ from optishear's by up to {worst:.3g}.")
    return Check(
        "reload",
        OK,
        f"Opens with transformers {transformers.__version__}; logits finite, and equal through "
        f"optishear{how}.",
    )


def check_recipe(recipe: Recipe, layout: ModelLayout) -> Check:
    """The recipe is one for these layers."""
    try:
        recipe.check(layout)
    except ConfigError as error:
        return Check("recipe", FAILED, str(error))
    return Check("recipe", OK, f"{recipe.key}: {len(layout.layers)} layers, each with its count.")


def check_zeros_of(model: nn.Module, layout: ModelLayout, recipe: Recipe | None) -> Check:
    """In every layer at least as many zeros as the recipe drops; without one, how many."""
    zeros = {layer.name: int((read(model, layer) == 0).sum()) for layer in layout.layers}
    everything = sum(p.numel() for p in model.parameters())
    reached = (
        f"{percent(sum(zeros.values()) / layout.total)} of the prunable weights are zero, "
        f"{percent(sum(zeros.values()) / everything)} of all parameters"
    )
    by_layer = {layer.name: zeros[layer.name] / layer.size for layer in layout.layers}
    if recipe is None:
        ends = f"between {percent(min(by_layer.values()))} and {percent(max(by_layer.values()))}"
        return Check("zeros", INFO, f"{reached}; by layer {ends}.", (), by_layer)
    beyond = {name: zeros[name] - recipe.drop[name] for name in zeros}
    worst = sorted(layout.layers, key=lambda layer: beyond[layer.name])
    wrong = [too_few_zeros(read(model, x), x, recipe) for x in worst if beyond[x.name] < 0]
    if wrong:
        return Check(
            "zeros",
            FAILED,
            f"{len(wrong)} of {len(zeros)} layers have fewer zeros than the recipe drops.",
            tuple(filter(None, wrong)),
            by_layer,
        )
    more = [layer.name for layer in reversed(worst) if beyond[layer.name]]
    return Check(
        "zeros",
        OK,
        f"{reached}; the recipe drops {percent(layout.sparsity(recipe.drop))}.",
        tuple(
            f"{name}: {beyond[name]} more than the recipe drops (kept weights may have been zero)"
            for name in more
        ),
        by_layer,
    )


def check_groups(model: nn.Module, layout: ModelLayout, recipe: Recipe | None) -> Check:
    """Every group of the recipe's pattern; else which N:M hold, and how much is 2:4 already."""
    n, m = ELIGIBLE
    fits = [layer for layer in layout.layers if layer.in_features % m == 0]
    share = {x.name: _share(read(model, x), n, m) for x in fits}
    if recipe is not None:
        wrong = tuple(_broken(model, layout, recipe))
        if wrong:
            found = f"In {len(wrong)} of {len(layout.layers)} layers groups have too few zeros."
            return Check("n:m groups", FAILED, found, wrong, share)
        alike = [x for x in layout.layers if recipe.at(x).pattern.levels is not None]
        if alike:
            spelt = {recipe.at(x).pattern.spelt(x, recipe.drop[x.name]) for x in alike}
            rest = len(layout.layers) - len(alike)
            of = f"all {len(alike)} layers" if not rest else f"{len(alike)} layers"
            others = "" if not rest else f" The other {rest} have {_others(recipe, layout)}."
            found = f"{', '.join(sorted(spelt))}: every group of {of}.{others}"
            return Check("n:m groups", OK, found, (), share)
    holding = [
        f"{n}:{m}"
        for n, m in KNOWN_PATTERNS
        if all(
            layer.in_features % m == 0 and _share(read(model, layer), n, m) == 1
            for layer in layout.layers
        )
    ]
    groups = sum(layer.size // m for layer in fits)
    held = sum(round(share[layer.name] * (layer.size // m)) for layer in fits)
    pattern = "no recipe" if recipe is None else f"the recipe's pattern is {recipe.patterns.text}"
    return Check(
        "n:m groups",
        INFO,
        f"{pattern}; in all layers hold: {', '.join(holding) or 'none'}; {n}:{m} holds in "
        f"{sum(part == 1 for part in share.values())} of {len(layout.layers)} layers, in "
        f"{percent(held / max(groups, 1))} of the groups.",
        (),
        share,
    )


def _broken(model: nn.Module, layout: ModelLayout, recipe: Recipe) -> Iterator[str]:
    """By layer what is wrong with groups. Where these may lose unequally many, a layer that lacks
    zeros altogether lacks them in a group, too: the check of zeros says it of that one."""
    for layer in layout.layers:
        weight = read(model, layer)
        alike = recipe.at(layer).pattern.levels is not None
        if alike or too_few_zeros(weight, layer, recipe) is None:
            wrong = broken_groups(weight, layer, recipe)
            yield from () if wrong is None else (wrong,)


def _others(recipe: Recipe, layout: ModelLayout) -> str:
    """The patterns that have no levels."""
    found = dict.fromkeys(recipe.at(layer).pattern for layer in layout.layers)
    return ", ".join(pattern.text for pattern in found if pattern.levels is None)


def _share(weight: Tensor, n: int, m: int) -> float:
    """Of all groups of m, how many keep n at most."""
    zeros = (weight == 0).reshape(-1, m).sum(1)
    return (zeros >= m - n).double().mean().item()
