"""Lookup of names in files and commands. Each package owns one plain dict."""

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from optishear.errors import ConfigError


T = TypeVar("T")


def is_path(name: str, suffixes: tuple[str, ...] = ()) -> bool:
    """Whether somebody who writes this means a file or folder, be it there or not: it has a
    separator or one of these endings. No name of ours has; a path that is not there is a mistake.
    """
    separators = tuple(filter(None, ("/", os.sep, os.altsep)))
    return (
        any(separator in name for separator in separators)
        or name in (".", "..", "~")
        or name.lower().endswith(suffixes)
    )


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
