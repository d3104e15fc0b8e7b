"""State that blocks share beside hidden states: a mapping that the model gives to each of them.

Gemma-3n and Gemma-4 keep the keys and values of some blocks so, for later blocks to read. Nothing
else is looked for; whether that is all that a block needs is proved where blocks are run apart.
"""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


# By argument, key and place in the entry: what blocks have left for those after them.
Shared = Mapping[tuple[str, str, int], Tensor]
NOTHING: Shared = MappingProxyType({})
ALONE = -1  # the place of a tensor that is the whole entry


@runtime_checkable
class SharedStates(Protocol):
    """What goes into the next block beside hidden states, by batch; nothing before the first."""

    def __getitem__(self, batch: int, /) -> Shared: ...

    def __setitem__(self, batch: int, shared: Shared, /) -> None: ...


@contextmanager
def sharing(block: nn.Module, given: Shared) -> Iterator[dict[tuple[str, str, int], Tensor]]:
    """`block` finds these entries when it is called; after it they are there with what it wrote.

    Entries that are not tensors, or tuples of them, are left alone.
    """
    found = dict(given)
    before: dict[tuple[str, str], int] = {}

    def give(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        for argument, mapping in _mappings(kwargs):
            _put(mapping, {key: t for key, t in given.items() if key[0] == argument})
            before.update({(argument, key): id(entry) for key, entry in mapping.items()})

    def take(_module: nn.Module, _args: Any, kwargs: dict[str, Any], _returned: Any) -> None:
        for argument, mapping in _mappings(kwargs):
            for key, entry in mapping.items():
                if before.get((argument, key)) != id(entry):
                    found.update(
                        {(argument, key, place): t.clone() for place, t in _tensors_of(entry)}
                    )

    with ExitStack() as stack:
        stack.callback(block.register_forward_pre_hook(give, with_kwargs=True).remove)
        stack.callback(block.register_forward_hook(take, with_kwargs=True).remove)
        yield found


def _mappings(kwargs: Mapping[str, Any]) -> list[tuple[str, MutableMapping[Any, Any]]]:
    return [(name, each) for name, each in kwargs.items() if isinstance(each, MutableMapping)]


def _put(mapping: MutableMapping[Any, Any], given: Shared) -> None:
    """Copies, for some models work in place."""
    entries: dict[str, dict[int, Tensor]] = {}
    for (_, key, place), tensor in given.items():
        entries.setdefault(key, {})[place] = tensor.clone()
    for key, parts in entries.items():
        alone = parts.get(ALONE)
        mapping[key] = tuple(parts[place] for place in sorted(parts)) if alone is None else alone


def _tensors_of(entry: Any) -> Sequence[tuple[int, Tensor]]:
    if isinstance(entry, Tensor):
        return [(ALONE, entry)]
    if type(entry) is tuple and all(isinstance(each, Tensor) for each in entry):
        return list(enumerate(entry))
    return []
