"""The table of named methods: each is a metric x a pattern x a quadratic x a solver."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optishear.calibration.statistics import Need
from optishear.errors import ConfigError
from optishear.metrics import Metric, make_metric
from optishear.metrics.given import Given
from optishear.recipe.canonical import CHOOSES_ITSELF
from optishear.recipe.layout import ModelLayout
from optishear.recipe.lookup import did_you_mean
from optishear.recipe.metric_forms import GIVEN, OWN
from optishear.recipe.quadratic import (
    MOONSHOT,
    RECONSTRUCTION,
    USUAL_DAMPING,
    blended_layers,
    canonical_quadratic,
    uses_gradients,
)
from optishear.recipe.recipe import Recipe
from optishear.solvers.alps import ALPS
from optishear.solvers.base import Mask, Solver
from optishear.solvers.refit import Refit
from optishear.solvers.sparsegpt import SparseGPT


@dataclass(frozen=True)
class Method:
    """A named combination. `pattern` is the one its paper uses; a command may ask for another.

    `moonshot_lambda` other than 1 mixes that much reconstruction with Taylor loss.
    """

    metric: Mapping[str, Any]
    pattern: str
    paper: str
    solver: Mapping[str, Any] = field(default_factory=lambda: {"name": "mask"})
    moonshot_lambda: float = 1.0

    @property
    def quadratic(self) -> str:
        return RECONSTRUCTION if self.moonshot_lambda == 1 else MOONSHOT

    def recipe(
        self,
        layout: ModelLayout,
        drop: Mapping[str, int],
        pattern: str,
        *,
        refit: bool = False,
        moonshot_lambda: float | None = None,
        moonshot_roles: str | Sequence[str] = "attention",
        damping: float = USUAL_DAMPING,
    ) -> Recipe:
        """This method with these counts; `moonshot_lambda` None is its own."""
        lam = self.moonshot_lambda if moonshot_lambda is None else moonshot_lambda
        mixed = blended_layers(layout, moonshot_roles) if lam != 1 else []
        quadratic = canonical_quadratic(dict.fromkeys(mixed, lam), damping)
        solver = refitted(self.solver) if refit else self.solver
        return Recipe(self.metric, drop, pattern, solver, quadratic)

    @property
    def needs(self) -> str:
        """What calibration has to collect for it, in words."""
        needs = needs_of(
            Recipe(self.metric, {}, self.pattern, self.solver, {"name": self.quadratic})
        )
        words = {Need.GRAM: "Gram matrices", Need.GRADIENTS: "gradients"}
        found = [word for need, word in words.items() if need in needs]
        return " and ".join(found) or ("input norms" if needs else "nothing")


_OWN = {"name": OWN}
_MOONSHOT = "MOONSHOT, Afriat et al. 2026, arXiv 2604.13287, in our formulation"

METHODS: dict[str, Method] = {
    "magnitude": Method({"name": "magnitude"}, "layer", "Han et al. 2015, arXiv 1506.02626"),
    "random": Method({"name": "random"}, "row", "a floor, no paper"),
    "ria": Method({"name": "ria"}, "layer", "Zhang et al. 2024 (ICLR), Plug-and-Play"),
    "wanda": Method({"name": "wanda"}, "row", "Sun et al. 2023, arXiv 2306.11695"),
    "optima": Method(
        {"name": "wanda"},
        "row",
        "OPTIMA, Mozaffari et al. 2025, arXiv 2512.13886",
        {"name": "refit", "of": "mask"},
    ),
    "sparsegpt": Method(
        _OWN,
        "block:128",
        "Frantar & Alistarh 2023, arXiv 2301.00774",
        {"name": "sparsegpt"},
    ),
    "alps": Method(_OWN, "layer", "ALPS, Meng et al. 2024 (NeurIPS)", {"name": "alps"}),
    "moonshot-wanda": Method({"name": "wanda"}, "row", _MOONSHOT, moonshot_lambda=0.5),
    "moonshot-sparsegpt": Method(
        _OWN, "block:128", _MOONSHOT, {"name": "sparsegpt"}, moonshot_lambda=0.5
    ),
    "moonshot-alps": Method(_OWN, "layer", _MOONSHOT, {"name": "alps"}, moonshot_lambda=0.5),
}


@dataclass(frozen=True)
class Chooser:
    """A solver that says which weights are kept: what it does, and how a recipe's is made."""

    about: str
    make: Callable[[Recipe], Solver]


CHOOSERS: dict[str, Chooser] = {
    "mask": Chooser(
        "what the metric scores lowest goes, the rest stays as it is",
        lambda recipe: Mask(_metric_of(recipe)),
    ),
    "sparsegpt": Chooser("chooses and updates column by column", lambda recipe: SparseGPT()),
    "alps": Chooser("chooses by ADMM, then the best weights for that mask", lambda recipe: ALPS()),
}
REFIT = "refit"


def solver_names() -> list[str]:
    """What a recipe may name as its solver."""
    return [*CHOOSERS, REFIT]


def refitted(solver: Mapping[str, Any]) -> dict[str, Any]:
    """The refit of this solver's mask; ALPS ends in one already."""
    return (
        dict(solver)
        if solver["name"] in ("refit", "alps")
        else {
            "name": "refit",
            "of": solver["name"],
        }
    )


def solver_of(recipe: Recipe) -> Solver:
    """The solver that a recipe names, with its metric inside; a `ConfigError` for unknown names."""
    settings = dict(recipe.solver)
    name = settings.pop("name", None)
    if name not in solver_names():
        raise ConfigError(
            f"No solver is called {name!r}.{did_you_mean(str(name), solver_names())} "
            f"There are: {', '.join(solver_names())}."
        )
    of = settings.pop("of", "mask") if name == REFIT else name
    if settings:
        raise ConfigError(f"Solver {name!r} has no setting {', '.join(settings)}.")
    if of not in CHOOSERS:
        raise ConfigError(
            f"Solver 'refit': of is {of!r}.{did_you_mean(str(of), CHOOSERS)} "
            f"There are: {', '.join(CHOOSERS)}."
        )
    metric = recipe.metric.get("name")
    if (metric == OWN) != (of in CHOOSES_ITSELF):
        raise ConfigError(
            f"Solver {of!r} with the metric {metric!r}: {' and '.join(CHOOSES_ITSELF)} choose by "
            f"themselves (metric {OWN!r}), mask needs the name of a metric."
        )
    chooser = CHOOSERS[of].make(recipe)
    return Refit(chooser) if name == REFIT else chooser


def _metric_of(recipe: Recipe) -> Metric:
    if recipe.metric.get("name") == GIVEN:
        return Given(str(recipe.metric.get("hash")))
    return make_metric(recipe.metric, "recipe.metric")


def needs_of(recipe: Recipe) -> frozenset[Need]:
    """The statistics that applying this recipe reads."""
    needs = solver_of(recipe).needs
    if uses_gradients(recipe.quadratic):
        needs |= {Need.INPUT_SQ, Need.GRAM, Need.GRADIENTS}  # the normalisers read both terms
    return needs
