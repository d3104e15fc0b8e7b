"""The coverage of a layout: how much of the matrices in a model's blocks can be pruned.

A sparsity is a fraction of the prunable weights. Where these are few of all, it says little of the
model, and nobody would see it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from optishear.models.stacks import language_stacks
from optishear.recipe.layout import ModelLayout


LEAST = 0.95  # routers, convolutions and gates are less than the rest of it in most families
NAMED = 6  # of what was left out


@dataclass(frozen=True)
class Coverage:
    """How much of the matrices in the blocks of a language model can be pruned.

    - `weights`: numbers in all of them, in every stack of blocks. `prunable`: in the layout's.
    - `left_out`: numbers in the others by name, most first; `*` is any block or expert.
    """

    weights: int
    prunable: int
    left_out: Mapping[str, int]

    @property
    def share(self) -> float:
        return self.prunable / self.weights

    @property
    def text(self) -> str:
        return f"{100 * self.share:.2f} % of the weights in its blocks' matrices are prunable"

    @property
    def warning(self) -> str | None:
        """A sentence that names what was left out, where that is much."""
        if self.share >= LEAST:
            return None
        names = [f"{name} ({size:,})" for name, size in [*self.left_out.items()][:NAMED]]
        more = len(self.left_out) - len(names)
        return (
            f"Only {self.text} ({self.prunable:,} of {self.weights:,}): a sparsity of 50 % is "
            f"{50 * self.share:.1f} % of them. Left out: {', '.join(names)}"
            f"{f' and {more} more' if more else ''}."
        )


def coverage_of(model: nn.Module, layout: ModelLayout) -> Coverage:
    """Of the layout that `layout_of` finds. Matrices are all parameters of two dimensions or more
    that are no embeddings and no biases, in all stacks of blocks that the text can go through."""
    parameters = dict(model.named_parameters())
    prunable = dict.fromkeys(parameters, 0)
    for layer in layout.layers:
        expert = layer.name.rpartition(".")[0]
        prunable[expert if expert in parameters else f"{layer.name}.weight"] += layer.size
    stacks = tuple(f"{path}." for path in language_stacks(model))
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    weights, left = 0, dict[str, int]()
    for name, parameter in parameters.items():
        bias = name.rpartition(".")[2].endswith("bias")  # of experts: one row each
        if not name.startswith(stacks) or parameter.ndim < 2 or bias or id(parameter) in tables:
            continue
        weights += parameter.numel()
        if rest := parameter.numel() - prunable[name]:
            place = ".".join("*" if part.isdigit() else part for part in name.split("."))
            left[place] = left.get(place, 0) + rest
    ordered = sorted(left.items(), key=lambda item: (-item[1], item[0]))
    return Coverage(weights, layout.total, dict(ordered))
