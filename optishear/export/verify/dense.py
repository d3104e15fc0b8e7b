"""A pruned model beside the dense one: what may have changed, what must not have."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optishear.errors import ConfigError
from optishear.export.verify.check import FAILED, INFO, OK, Check
from optishear.export.verify.files import StoredFiles
from optishear.models.as_stored import AsStored
from optishear.models.stored import parameter_of
from optishear.models.weights import read, view_of
from optishear.recipe.layout import Layer, ModelLayout
from optishear.solvers.ranks import BITS


MASK_ONLY = "mask"  # the solver that leaves the kept weights as they are


@dataclass(frozen=True)
class Beside:
    """What a walk through both checkpoints' files found, one part of each in memory at a time.

    - `change`, `changed`: by layer, of its weights that are not zero: ‖new − dense‖ / ‖dense‖, and
      how many are another number.
    - `wrong`: sentences about other tensors. `others`: how many of them there are.
    - `moved`: how many other tensors were not held against the dense ones.
    - `rounded`: types that hold less than the dense files' did, which were compared rounded.
    """

    change: dict[str, float]
    changed: dict[str, int]
    wrong: list[str]
    others: int
    rounded: tuple[str, ...]
    moved: int = 0

    @property
    def how(self) -> str:
        return f"rounded to {', '.join(self.rounded)}" if self.rounded else "bit for bit"


def check_architecture(model: Any, layout: ModelLayout, dense: AsStored) -> Check:
    """The same class and the same prunable layers."""
    ours, theirs = type(model).__name__, type(dense.model).__name__
    if ours != theirs:
        return Check("dense model", FAILED, f"It is a {ours}, the dense model a {theirs}.")
    for layer in layout.layers:
        try:
            place = view_of(dense.model, layer.name)
            shape = tuple(place.view(place.parameter).shape)
        except (ConfigError, IndexError):
            return _other_layers(f"{layer.name} is not there")
        if shape != (layer.out_features, layer.in_features):
            there = f"{layer.name} [{shape[0]} x {shape[1]}] there"
            return _other_layers(f"{_shape(layer)} is {there}")
    if more := sorted(dense.model.state_dict().keys() - model.state_dict().keys()):
        return _other_layers(f"{more[0]} is only there")
    return Check("dense model", OK, f"{ours} with the same {len(layout.layers)} layers.")


def _other_layers(why: str) -> Check:
    return Check("dense model", FAILED, f"Its layers are not the dense model's: {why}.")


def compare(
    ours: AsStored, dense: AsStored, layout: ModelLayout, moved: Collection[str] = ()
) -> Beside:
    """Of two checkpoints of one architecture, as their files hold them.

    `moved`: names of tensors that are not pruned and may be other ones all the same.
    """
    change: dict[str, float] = {}
    changed: dict[str, int] = {}
    wrong: list[str] = []
    rounded: set[str] = set()
    others = let = 0
    layers: dict[str, list[Layer]] = {}
    for layer in layout.layers:
        layers.setdefault(parameter_of(dense.model, layer.name), []).append(layer)
    for names in dense.parts:
        with dense.reading(names) as old, ours.reading(names) as new:
            for name in names:
                if name in dense.tied:
                    continue
                for layer in layers.get(name, ()):
                    change[layer.name], changed[layer.name] = _moved(
                        read(ours.model, layer), read(dense.model, layer)
                    )
                if name in moved:
                    let += 1
                elif name not in layers:
                    others += 1
                    wrong += _apart(name, new[name], old[name])
                rounded |= _rounded(new[name], old[name])
    held = set(ours.files.file_of)
    for key, old in dense.files.read(dense.unknown):
        others += 1
        if key in held:
            [(_, new)] = ours.files.read([key])
            wrong += _apart(key, new, old)
            rounded |= _rounded(new, old)
        else:
            wrong.append(f"{key}: is not there")
    return Beside(change, changed, wrong, others, tuple(sorted(rounded)), let)


def check_kept(
    beside: Beside, solvers: Mapping[str, str] | None, reconstructed: bool = False
) -> Check:
    """Whether weights that are not zero are the dense ones, as the name of each layer's solver
    promises.

    None: no recipe says which solvers these were. `reconstructed`: afterwards any weights may have
    been moved.
    """
    change, counts = beside.change, beside.changed
    changed = sorted((n for n in counts if counts[n]), key=lambda name: -change[name])
    worst = tuple(f"{n}: {counts[n]} changed, relative change {change[n]:.3g}" for n in changed)
    values = sorted(change.values())
    told = (
        f"Changed in {len(changed)} of {len(counts)} layers; relative change "
        f"{values[len(values) // 2]:.3g} in the middle one, at most {values[-1]:.3g}."
    )
    if not changed:
        told = f"All are the dense ones {beside.how} in {len(counts)} layers."
    status = OK
    if solvers is None:
        return Check("kept weights", INFO, told, worst, change)
    for solver in dict.fromkeys(solvers.values()):
        own = [name for name in counts if solvers[name] == solver]
        moved = [name for name in own if counts[name]]
        if solver == MASK_ONLY and moved and not reconstructed:
            status, told = FAILED, f"{told} The solver {solver!r} changes none."
        elif solver != MASK_ONLY and not moved:
            status, told = FAILED, f"{told} The solver {solver!r} updates them: its update is lost."
    return Check("kept weights", status, told, worst, change)


def check_others(beside: Beside) -> Check:
    """Embeddings, norms, head, biases, routers, what the model does not know: the dense ones.

    What is one tensor in the dense model counts once; whether it still is one is another check.
    """
    if beside.wrong:
        found = (
            f"{len(beside.wrong)} of {beside.others} tensors that are not pruned differ from the "
            f"dense."
        )
        return Check("other tensors", FAILED, found, tuple(beside.wrong))
    moved = (
        f"; {beside.moved} norms and biases were changed with the weights" if beside.moved else ""
    )
    told = f"All {beside.others} are the dense ones {beside.how}{moved}."
    return Check("other tensors", OK, told)


def _moved(new: Tensor, old: Tensor) -> tuple[float, int]:
    kept = new != 0
    count = int((kept & _differ(new, old)).sum())
    new, old = new[kept].double(), old.to(new.dtype)[kept].double()
    apart, size = (new - old).norm().item(), old.norm().item()
    return apart / size if size else float(apart > 0), count


def _apart(name: str, new: Tensor, old: Tensor) -> list[str]:
    if new.shape != old.shape:
        return [f"{name}: is not there in the same shape"]
    count = int(_differ(new, old).sum())
    return [f"{name}: {count} of {new.numel()} numbers differ"] if count else []


def _differ(new: Tensor, old: Tensor) -> Tensor:
    """Bit for bit in one type; of two types as numbers of the new one."""
    if new.dtype != old.dtype:
        return new != old.to(new.dtype)
    if not new.is_floating_point():
        return new != old
    return new.view(BITS[new.itemsize]) != old.view(BITS[old.itemsize])


def _rounded(new: Tensor, old: Tensor) -> set[str]:
    """The new type, if it does not hold all numbers of the old one."""
    if torch.promote_types(new.dtype, old.dtype) == new.dtype:
        return set()
    return {str(new.dtype).removeprefix("torch.")}


def check_tied(model: Any, dense: AsStored | None, stored: StoredFiles) -> Check:
    """What is one tensor in the dense model still is, or two with equal numbers.

    Without a dense model: the embedding and the head, if config.json says that they are tied.
    """
    here = dict(model.named_parameters(remove_duplicate=False))
    groups = [_embeddings(model)] if dense is None else list(_tied(dense.model))
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
