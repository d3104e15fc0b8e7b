"""Errors a user can act on. Anything else is a bug and stays a plain Python error."""


class OptiShearError(Exception):
    """Base class: `except OptiShearError` catches everything a user can put right."""


class ConfigError(OptiShearError):
    """What was asked for cannot be: a file, a name, a number, a model. Exit code 2."""


class NumericalError(OptiShearError):
    """A layer could not be solved as asked. Never answered by a quiet fallback.

    The only error that becomes a failed evaluation of a search.
    """


class StorageError(OptiShearError):
    """A file could not be written or read back: full disk, lost permission. Exit code 1."""
