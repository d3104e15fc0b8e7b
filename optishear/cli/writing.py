"""A decorator for commands that write a file: its place is checked before any work."""

import functools
from collections.abc import Callable
from typing import Any

from optishear.records.output import file_for


Command = Callable[..., None]


def writes(option: str) -> Callable[[Command], Command]:
    """The file that `--option` names, if it is given, can be written; else nothing is begun."""

    def around(command: Command) -> Command:
        @functools.wraps(command)
        def run(*args: Any, **kwargs: Any) -> None:
            with file_for(kwargs[option], f"--{option}"):
                command(*args, **kwargs)

        return run

    return around
