"""A pruned model beside the dense one: what may have changed, what must not have."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from optishear.export.verify.check import FAILED, OK, TOLD, Check
from optishear.export.verify.files import StoredFiles
from optishear.models.weights import place_of, read
from optishear.recipe.layout import Layer, ModelLayout


MASK_ONLY = "mask"  # the solver that leaves the kept weights as they are


def check_architecture(
    model: nn.Module, layout: ModelLayout, dense: Any, own: ModelLayout
) -> Check:
    """The same class and the same prunable layers."""
    ours, theirs = type(model).__name__, type(dense).__name__
    if ours != theirs:
        return Check("dense model", FAILED, f"It is a {ours}, the dense model a {theirs}.")
    if layout != own:
        pairs = zip(layout.layers, own.layers, strict=False)
        differ = ((a, b) for a, b in pairs if a != b)
        first = next((f"{_shape(a)} is {_shape(b)} there" for a, b in differ), "one has more")
        return Check("dense model", FAILED, f"Its layers are not the dense model's: {first}.")
    return Check("dense model", OK, f"{ours} with the same {len(layout.layers)} layers.")


def check_kept(
    model: nn.Module, dense: nn.Module, layout: ModelLayout, solver: str | None
) -> Check:
    """Whether weights that are not zero are the dense ones, as the solver's name promises.

    None: no recipe says which solver it was. The relative change is ‖new − dense‖ / ‖dense‖ over a
    layer's kept weights.
    """
    change: dict[str, float] = {}
    counts: dict[str, int] = {}
    for layer in layout.layers:
        new = read(model, layer)
        old = read(dense, layer).to(new.dtype)
        kept = new != 0
        counts[layer.name] = int((kept & (new != old)).sum())
        apart, size = (x[kept].double().norm().item() for x in (new - old, old))
        change[layer.name] = apart / size if size else float(apart > 0)
    changed = sorted((n for n in counts if counts[n]), key=lambda name: -change[name])
    worst = tuple(f"{n}: {counts[n]} changed, relative change {change[n]:.3g}" for n in changed)
    values = sorted(change.values())
    told = (
        f"Changed in {len(changed)} of {len(counts)} layers; relative change "
        f"{values[len(values) // 2]:.3g} in the middle one, at most {values[-1]:.3g}."
    )
    if not changed:
        told = f"All are the dense ones bit for bit in {len(counts)} layers."
    status = OK
    if solver is None:
        status = TOLD
    elif solver == MASK_ONLY and changed:
        status, told = FAILED, f"{told} The solver {solver!r} changes none."
    elif solver != MASK_ONLY and not changed:
        status, told = FAILED, f"{told} The solver {solver!r} updates them: its update is lost."
    return Check("kept weights", status, told, worst, change)


def check_others(model: Any, dense: Any, layout: ModelLayout) -> Check:
    """Embeddings, norms, head, biases, routers: the dense ones bit for bit, as they are stored.

    What is one tensor in the dense model counts once; whether it still is one is another check.
    """
    pruned = {id(place_of(dense, layer.name).parameter) for layer in layout.layers}
    ours = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    theirs = [(n, p) for n, p in dense.named_parameters() if id(p) not in pruned]
    theirs += [(n, b) for n, b in dense.named_buffers()]
    wrong = []
    for name, old in theirs:
        new = ours.get(name)
        if new is None or new.shape != old.shape:
            wrong.append(f"{name}: is not there in the same shape")
        elif not torch.equal(new, old.to(new.dtype)):
            count = int((new != old.to(new.dtype)).sum())
            wrong.append(f"{name}: {count} of {new.numel()} numbers differ")
    if wrong:
        found = f"{len(wrong)} of {len(theirs)} tensors that are not pruned differ from the dense."
        return Check("other tensors", FAILED, found, tuple(wrong))
    return Check("other tensors", OK, f"All {len(theirs)} are the dense ones bit for bit.")


def check_tied(model: Any, dense: nn.Module | None, stored: StoredFiles) -> Check:
    """What is one tensor in the dense model still is, or two with equal numbers.

    Without a dense model: the embedding and the head, if config.json says that they are tied.
    """
    here = dict(model.named_parameters(remove_duplicate=False))
    groups = [_embeddings(model)] if dense is None else list(_tied(dense))
    groups = [group for group in groups if len(group) > 1]
    apart, told = [], []
    for first, *rest in groups:
        for name in rest:
            if here[name] is here[first]:
                told.append(f"{first} and {name}: one tensor")
            elif torch.equal(here[name], here[first]):
                told.append(f"{first} and {name}: two tensors with equal numbers")
            else:
                apart.append(f"{first} and {name} differ")
    if apart:
        return Check("tied", FAILED, "Weights that were tied differ now.", tuple(apart))
    if not groups:
        return Check("tied", OK, "Nothing is tied.")
    held = {tensor.name: tensor.numbers for tensor in stored.tensors}
    twice = [name for first, *rest in groups for name in rest if {first, name} <= held.keys()]
    return Check(
        "tied",
        OK,
        f"{'; '.join(told)}.",
        tuple(f"{name}: is stored once more, {held[name]:,} numbers" for name in twice),
    )


def _shape(layer: Layer) -> str:
    return f"{layer.name} [{layer.out_features} x {layer.in_features}]"


def _embeddings(model: Any) -> list[str]:
    """Names of the embedding and the head where config.json ties them, else none."""
    if not model.config.get_text_config().tie_word_embeddings:
        return []
    wanted = [model.get_input_embeddings(), model.get_output_embeddings()]
    return [
        next(f"{name}.weight" for name, found in model.named_modules() if found is module)
        for module in wanted
        if module is not None
    ]


def _tied(model: nn.Module) -> Iterable[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return groups.values()
