"""Search pruning metrics and layer sparsities of language models for a Pareto front.

The names a notebook needs (docs/api.md); each is imported when it is first used, so that
`import optishear` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from optishear.api import prune as prune
    from optishear.api import run_search as run_search
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
    from optishear.runs.watcher import Callbacks as Callbacks
    from optishear.runs.watcher import Watcher as Watcher
    from optishear.text.sources import TextSpec as TextSpec
    from optishear.tools.evaluate import evaluate as evaluate
    from optishear.tools.evaluate import evaluate_loaded as evaluate_loaded
    from optishear.tools.named import NamedMethod as NamedMethod
    from optishear.tools.prune import pruned as pruned

_WHERE = {
    "Callbacks": "optishear.runs.watcher",
    "ConfigError": "optishear.errors",
    "Front": "optishear.runs.results",
    "NamedMethod": "optishear.tools.named",
    "NumericalError": "optishear.errors",
    "OptiShearError": "optishear.errors",
    "Recipe": "optishear.recipe.recipe",
    "Run": "optishear.runs.results",
    "StorageError": "optishear.errors",
    "TextSpec": "optishear.text.sources",
    "Watcher": "optishear.runs.watcher",
    "evaluate": "optishear.tools.evaluate",
    "evaluate_loaded": "optishear.tools.evaluate",
    "load": "optishear.models.load",
    "load_experiment": "optishear.config",
    "open_run": "optishear.runs.results",
    "prune": "optishear.api",
    "pruned": "optishear.tools.prune",
    "run_search": "optishear.api",
}

__all__ = [  # noqa: RUF022 (sorted as a reader looks for them)
    "run_search",
    "open_run",
    "load_experiment",
    "load",
    "prune",
    "pruned",
    "evaluate",
    "evaluate_loaded",
    "Recipe",
    "NamedMethod",
    "TextSpec",
    "Run",
    "Front",
    "Watcher",
    "Callbacks",
    "OptiShearError",
    "ConfigError",
    "NumericalError",
    "StorageError",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'optishear' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
