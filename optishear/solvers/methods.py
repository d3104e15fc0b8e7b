"""The table of named methods: each is a metric x a pattern x a solver, and a paper."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optishear.errors import ConfigError
from optishear.metrics import METRICS, Metric, make_metric
from optishear.recipe.lookup import did_you_mean
from optishear.recipe.recipe import Recipe
from optishear.solvers.base import Mask, Solver


@dataclass(frozen=True)
class Method:
    """A named combination. `pattern` is the one its paper uses; a command may ask for another."""

    metric: Mapping[str, Any]
    pattern: str
    solver: Mapping[str, Any] = field(default_factory=lambda: {"name": "mask"})

    @property
    def paper(self) -> str:
        return METRICS[self.metric["name"]].paper


METHODS: dict[str, Method] = {
    "magnitude": Method({"name": "magnitude"}, "layer"),
    "random": Method({"name": "random"}, "row"),
    "ria": Method({"name": "ria"}, "layer"),
    "wanda": Method({"name": "wanda"}, "row"),
}

SOLVERS: dict[str, Callable[[Metric], Solver]] = {
    "mask": Mask,
}


def solver_of(recipe: Recipe) -> Solver:
    """The solver that a recipe names, with its metric inside; a `ConfigError` for unknown names."""
    settings = dict(recipe.solver)
    name = settings.pop("name", None)
    if name not in SOLVERS:
        raise ConfigError(
            f"No solver is called {name!r}.{did_you_mean(str(name), SOLVERS)} "
            f"There are: {', '.join(SOLVERS)}."
        )
    if settings:
        raise ConfigError(f"Solver {name!r} has no settings, found: {', '.join(settings)}.")
    return SOLVERS[name](make_metric(recipe.metric, "recipe.metric"))
