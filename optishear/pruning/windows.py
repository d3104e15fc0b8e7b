"""The windows of a reconstruction: a decoder block, or its halves, on stored hidden states."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optishear.errors import ConfigError
from optishear.models.blocks import (
    MISSED,
    BlockStack,
    Entangled,
    Handed,
    Hidden,
    answering,
    form_of,
    hidden_of,
)
from optishear.pruning.reconstruction import Window
from optishear.recipe.layout import Layer
from optishear.tasks import Batch


class StackWindow(Window):
    """A decoder block, or what some of its modules do.

    - `inputs`, `targets`: hidden states that go into it, and what the dense one made of them or of
      their like; by batch. No input is that of the whole model.
    - `silent`: modules of the block that add nothing while it runs.
    """

    def __init__(
        self,
        name: str,
        stack: BlockStack,
        block: int,
        batches: Sequence[Batch],
        inputs: Handed,
        targets: Handed,
        silent: "Silent | None" = None,
    ) -> None:
        self.name, self.stack, self.block, self.silent = name, stack, block, silent
        self.batches, self.inputs, self.targets = batches, inputs, targets
        self._places = [(n, row) for n, batch in enumerate(batches) for row in range(len(batch))]
        self.sequences = len(self._places)

    def output(self, sequence: int) -> Hidden:
        number, row = self._places[sequence]
        handed = self.inputs[number]
        part = None if handed is None else handed[row : row + 1]
        run = self.stack.recorded if torch.is_grad_enabled() else self.stack.run
        with self._silence():
            return run(self.block, self.batches[number][row : row + 1], part)

    def target(self, sequence: int) -> Hidden:
        number, row = self._places[sequence]
        made = self.targets[number]
        assert made is not None
        return made[row : row + 1]

    def _silence(self) -> AbstractContextManager[None]:
        return nullcontext() if self.silent is None else self.silent()


class Silent:
    """Modules that add nothing to the hidden states while it is open: they return zeros, of the
    width and in the form that they were seen to return."""

    def __init__(self, seen: Mapping[nn.Module, "Seen"]) -> None:
        self._seen = dict(seen)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module, seen in self._seen.items():
                stack.enter_context(answering(module, seen.zeros))
            yield


@dataclass(frozen=True, eq=False)
class Seen:
    """How a module returned hidden states: as which kind of thing, how wide."""

    form: Callable[[Hidden], Any]
    width: int

    def zeros(self, *args: Any, **kwargs: Any) -> Any:
        read = next(given for given in (*args, *kwargs.values()) if isinstance(given, Tensor))
        return self.form(read.new_zeros(*read.shape[:-1], self.width))


@dataclass(frozen=True, eq=False)
class Half:
    """One half of a block: the layers in it, and what is silent while it runs."""

    layers: tuple[Layer, ...]
    silent: Silent


def halves_of(
    stack: BlockStack, block: int, layers: Sequence[Layer], sample: Batch, handed: Hidden | None
) -> tuple[Half, Half]:
    """The two halves of a block, proved on a sample: one after the other they are the block.

    The first is the module with prunable layers that is called first (attention, in models that
    pass), the second are the others. A half is the block while the modules of the other one add
    nothing, so each brings its norms and its residual along. A `ConfigError` where a block is not
    one after the other: parallel residuals, or norms that come after them.
    """
    path = f"{stack.path}.{block}"
    own: dict[str, list[Layer]] = {}
    for layer in layers:
        own.setdefault(layer.name.removeprefix(f"{path}.").partition(".")[0], []).append(layer)
    modules = {name: stack.model.get_submodule(f"{path}.{name}") for name in own}
    seen, whole = _seen(stack, block, modules, sample, handed)
    if len(seen) < 2:
        raise _undivided(path, f"all its layers lie in {', '.join(own)}")
    first, *others = seen
    one = Half(tuple(own[first]), Silent({modules[name]: seen[name] for name in others}))
    more = tuple(layer for name in others for layer in own[name])
    two = Half(more, Silent({modules[first]: seen[first]}))
    try:
        with one.silent():
            between = stack.run(block, sample, handed)
        with two.silent():
            again = stack.run(block, sample, between)
    except MISSED as error:
        raise _undivided(path, f"one half alone fails ({error!r})") from error
    miss = ((again - whole).float().norm() / whole.float().norm()).item()
    if not miss <= torch.finfo(whole.dtype).eps:  # nan is no match either
        raise _undivided(path, f"one half after the other is off by {miss:.1e} of its norm")
    return one, two


def _seen(
    stack: BlockStack,
    block: int,
    modules: Mapping[str, nn.Module],
    sample: Batch,
    handed: Hidden | None,
) -> tuple[dict[str, Seen], Hidden]:
    """What these modules of a block return, in the order in which they are called first, and what
    the block makes."""
    seen: dict[str, Seen] = {}

    def note(name: str) -> Callable[..., None]:
        def listen(_module: nn.Module, _args: Any, returned: Any) -> None:
            seen.setdefault(name, Seen(form_of(returned), hidden_of(returned).shape[-1]))

        return listen

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(module.register_forward_hook(note(name)).remove)
        try:
            whole = stack.run(block, sample, handed)
        except Entangled as why:
            raise _undivided(f"{stack.path}.{block}", str(why)) from why
    return seen, whole


def _undivided(path: str, why: str) -> ConfigError:
    return ConfigError(
        f"{path} has no two halves, one after the other, that could be reconstructed on their own: "
        f"{why}. Reconstruct it as a whole (--reconstruct block)."
    )
