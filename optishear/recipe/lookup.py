"""Names in files and commands -> things in code. Each package owns one plain dict."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from optishear.errors import ConfigError


T = TypeVar("T")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'wanda'?` when something known is near, else an empty string."""
    near = get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def lookup(table: Mapping[str, T], name: str, *, kind: str) -> T:
    """The entry called `name`, or a `ConfigError` that lists what there is."""
    if name in table:
        return table[name]
    raise ConfigError(
        f"No {kind} is called {name!r}.{did_you_mean(name, table)} "
        f"There are: {', '.join(sorted(table))}."
    )
