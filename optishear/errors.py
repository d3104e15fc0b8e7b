"""Errors a user can act on. Anything else is a bug and stays a plain Python error."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class OptiShearError(Exception):
    """Base class: `except OptiShearError` catches everything a user can put right."""


class ConfigError(OptiShearError):
    """What was asked for cannot be: a file, a name, a number, a model. Exit code 2."""


class ConfigErrors(ConfigError):
    """Several mistakes that were found together; as one sentence the first, and how many more.

    `unchecked`: what could not be looked at because of them.
    """

    def __init__(self, mistakes: Sequence[str], unchecked: Sequence[str] = ()) -> None:
        self.mistakes, self.unchecked = tuple(dict.fromkeys(mistakes)), tuple(unchecked)
        first, *more = self.mistakes
        super().__init__(first + (f" ({len(more)} more mistakes.)" if more else ""))


class NumericalError(OptiShearError):
    """A layer could not be solved as asked. Never answered by a quiet fallback.

    The only error that becomes a failed evaluation of a search.
    """


class StorageError(OptiShearError):
    """A file could not be written or read back: full disk, lost permission. Exit code 1."""


class WorkerError(OptiShearError):
    """Workers died, over and over, on one thing or before they began. Exit code 1.

    It is no property of what they did, so nothing is recorded of that.
    """


@contextmanager
def collect_errors(mistakes: list[str]) -> Iterator[None]:
    """Writes a `ConfigError` of what is inside down in place of raising it."""
    try:
        yield
    except ConfigErrors as error:
        mistakes += error.mistakes
    except ConfigError as error:
        mistakes.append(str(error))
