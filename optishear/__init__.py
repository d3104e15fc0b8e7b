"""Search pruning metrics and layer sparsities of language models for a Pareto front.

The names a notebook needs; each is imported when it is first used, so `import optishear` is quick.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from optishear.config import load_experiment as load_experiment
    from optishear.errors import ConfigError as ConfigError
    from optishear.errors import NumericalError as NumericalError
    from optishear.errors import OptiShearError as OptiShearError
    from optishear.errors import StorageError as StorageError
    from optishear.models.load import load as load
    from optishear.recipe.recipe import Recipe as Recipe
    from optishear.runs.results import Front as Front
    from optishear.runs.results import Run as Run
    from optishear.runs.results import open_run as open_run
    from optishear.tools.evaluate import evaluate as evaluate
    from optishear.tools.prune import pruned as pruned

_WHERE = {
    "ConfigError": "optishear.errors",
    "Front": "optishear.runs.results",
    "NumericalError": "optishear.errors",
    "OptiShearError": "optishear.errors",
    "Recipe": "optishear.recipe.recipe",
    "Run": "optishear.runs.results",
    "StorageError": "optishear.errors",
    "evaluate": "optishear.tools.evaluate",
    "load": "optishear.models.load",
    "load_experiment": "optishear.config",
    "open_run": "optishear.runs.results",
    "pruned": "optishear.tools.prune",
}

__all__ = [  # noqa: RUF022 (sorted as a reader looks for them)
    "search",
    "open_run",
    "load_experiment",
    "load",
    "pruned",
    "evaluate",
    "Recipe",
    "Run",
    "Front",
    "OptiShearError",
    "ConfigError",
    "NumericalError",
    "StorageError",
]


def search(experiment: str, settings: Sequence[str] = (), out: str | Path = "results") -> "Run":
    """Runs, resumes or finds a search: `optishear search` for notebooks.

    `experiment` is a YAML file or a shipped experiment's name, `settings` are `key=value` texts.
    """
    from optishear.config import load_experiment
    from optishear.runs.search import search as run_search
    from optishear.runs.watcher import Silent

    return run_search(load_experiment(experiment, settings), Path(out), Silent())


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'optishear' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
