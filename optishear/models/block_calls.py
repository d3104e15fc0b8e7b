"""Calls of a block: the hidden states in what it takes and returns, and another in its place."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


Hidden = Float[Tensor, "..."]  # [batch, seq, hidden] in most models; some carry several streams


class Entangled(Exception):
    """Why the blocks of a model cannot be run apart. Whoever catches it says what to do then."""


def hidden_of(returned: Any) -> Hidden:
    """The hidden states in what a block returned: all of it, or the first item."""
    hidden = returned[0] if type(returned) in (tuple, list) and returned else returned
    if not isinstance(hidden, Tensor):
        raise Entangled(
            f"a block returns a {type(returned).__name__} that does not begin with hidden states"
        )
    return hidden


def form_of(returned: Any) -> Callable[[Hidden], Any]:
    """Other hidden states as a block would return them. What it returns beside them is None: to
    keep it would take more memory (attention weights), and no model that passes reads it."""
    if isinstance(returned, Tensor):
        return lambda hidden: hidden
    kind, more = type(returned), [None] * (len(returned) - 1)
    return lambda hidden: kind([hidden, *more])


def given(give: Callable[[], Hidden]) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """A module reads what `give` gives in the place of the hidden states that it is handed."""

    def replace(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (give(), *args[1:]), kwargs
        if "hidden_states" in kwargs:
            return args, {**kwargs, "hidden_states": give()}
        raise Entangled(f"a block is handed {', '.join(kwargs)}, none of them its hidden states")

    return replace


def as_forward(form: Callable[[Hidden], Any], give: Callable[[], Hidden]) -> Callable[..., Any]:
    """A forward that does not look at what it is asked."""
    return lambda *_args, **_kwargs: form(give())


@contextmanager
def answering(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """`module` answers by this while it is open; its own forward is given back."""
    own = vars(module)
    before = {"forward": own["forward"]} if "forward" in own else {}  # accelerate sets one
    own["forward"] = forward
    try:
        yield
    finally:
        del own["forward"]
        own.update(before)
