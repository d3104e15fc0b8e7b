"""The table of named methods: each is a metric x a pattern x a quadratic x a solver."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import (
    STATISTICS,
    Cross,
    Gram,
    HeldBackCross,
    HeldBackGram,
    InputSq,
    Mean,
    Need,
    summed,
)
from optishear.calibration.token_weights import TokenWeights
from optishear.errors import ConfigError
from optishear.metrics import Metric, make_metric
from optishear.metrics.base import metric_from
from optishear.metrics.given import Given
from optishear.recipe.canonical import CHOOSES_ITSELF, chooser_of
from optishear.recipe.layout import ModelLayout
from optishear.recipe.lookup import did_you_mean
from optishear.recipe.metric_forms import GIVEN, OWN
from optishear.recipe.parts import Parts
from optishear.recipe.pattern import Pattern
from optishear.recipe.patterns import Patterns
from optishear.recipe.quadratic import (
    MOONSHOT,
    RECONSTRUCTION,
    USUAL,
    QuadraticSettings,
    blended_layers,
    canonical_quadratic,
)
from optishear.recipe.recipe import BY_BLOCK, BY_SITE, Recipe
from optishear.recipe.solver_settings import check_settings, value_of
from optishear.solvers.alps import ALPS
from optishear.solvers.base import Mask, Solver
from optishear.solvers.refit import Refit
from optishear.solvers.sparsegpt import SparseGPT


@dataclass(frozen=True)
class Method:
    """A named combination. `pattern` is the one its paper uses; a command may ask for another.

    `moonshot_lambda` other than 1 mixes that much reconstruction with Taylor loss. `settings` of
    the quadratic and `order` are the usual ones, those of all that was published before them.
    """

    metric: Mapping[str, Any]
    pattern: str
    paper: str
    solver: Mapping[str, Any] = field(default_factory=lambda: {"name": "mask"})
    moonshot_lambda: float = 1.0
    settings: QuadraticSettings = USUAL
    order: str = BY_BLOCK

    @property
    def quadratic(self) -> str:
        return RECONSTRUCTION if self.moonshot_lambda == 1 else MOONSHOT

    def recipe(
        self,
        layout: ModelLayout,
        drop: Mapping[str, int],
        given: Pattern | Patterns | str,
        *,
        refit: bool = False,
        moonshot_lambda: float | None = None,
        moonshot_roles: str | Sequence[str] = "attention",
        settings: QuadraticSettings | None = None,
        order: str | None = None,
    ) -> Recipe:
        """This method with these counts; what is None is its own. `given` may say a pattern by
        role."""
        lam = self.moonshot_lambda if moonshot_lambda is None else moonshot_lambda
        mixed = blended_layers(layout, moonshot_roles) if lam != 1 else []
        settings = self.settings if settings is None else settings
        quadratic = canonical_quadratic(dict.fromkeys(mixed, lam), settings)
        solver = refitted(self.solver) if refit else self.solver
        patterns = Patterns.over(given)
        roles = [(match, {"pattern": asked.pattern}) for match, asked in patterns.roles]
        default = patterns.default.pattern
        order = self.order if order is None else order
        return Recipe.of(self.metric, drop, default, solver, quadratic, roles, order)

    @property
    def only_by_block(self) -> bool:
        """Whether it has no meaning where every layer reads what the dense model makes."""
        return self.settings.target_shift != 0 or self.order != BY_BLOCK

    @property
    def costs(self) -> str:
        """What a change of the weights costs, and in which order layers are solved, in words."""
        said = [f"{key} {value}" for key, value in self.settings.unusual.items()]
        said += [f"order {self.order}"] * (self.order != BY_BLOCK)
        return ", ".join([self.quadratic, *said])

    @property
    def parts(self) -> Parts:
        """On its own pattern."""
        return Parts.of(self.metric, self.pattern, self.solver, self.settings)

    @property
    def needs(self) -> str:
        """What calibration has to collect for it, in words."""
        needs = needs_of_parts(self.parts, self.quadratic == MOONSHOT)
        kinds: list[Need] = [*STATISTICS.values(), LayerGradients]
        found = [kind.words for kind in kinds if kind in needs]
        more = [words for words in found if words != InputSq.words]  # all that read more read these
        return " and ".join(more or found) or "nothing"


_OWN = {"name": OWN}
_MOONSHOT = "MOONSHOT, Afriat et al. 2026, arXiv 2604.13287, in our formulation"

# What the plain one of the name does, from layers that imitate the dense model half-way, in the
# order in which data flow; what that gains: results/kept_weights.md.
SHIFTED = QuadraticSettings(target_shift=0.5)
_SHIFTED = "ours; a whole shift: GPTAQ (ICML 2025)"

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
    "optima-shifted": Method(
        {"name": "wanda"},
        "row",
        _SHIFTED,
        {"name": "refit", "of": "mask"},
        settings=SHIFTED,
        order=BY_SITE,
    ),
    "alps-shifted": Method(
        _OWN, "layer", _SHIFTED, {"name": "alps"}, settings=SHIFTED, order=BY_SITE
    ),
}


@dataclass(frozen=True)
class Chooser:
    """A solver that says which weights are kept: what it does, and how a recipe's is made."""

    about: str
    make: Callable[[Parts], Solver]


CHOOSERS: dict[str, Chooser] = {
    "mask": Chooser(
        "what the metric scores lowest goes, the rest stays as it is",
        lambda parts: Mask(_metric_of(parts)),
    ),
    "sparsegpt": Chooser(
        "chooses and updates column by column",
        lambda parts: SparseGPT(value_of(parts.solver, "block")),
    ),
    "alps": Chooser(
        "chooses by ADMM, then the best weights for that mask",
        lambda parts: ALPS(
            value_of(parts.solver, "iterations"), value_of(parts.solver, "tolerance")
        ),
    ),
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


def solver_of(parts: Parts) -> Solver:
    """The solver that these name, with its metric inside; a `ConfigError` for unknown names,
    settings, and values that these cannot have."""
    settings = parts.solver
    name = settings.get("name")
    if name not in solver_names():
        raise ConfigError(
            f"No solver is called {name!r}.{did_you_mean(str(name), solver_names())} "
            f"There are: {', '.join(solver_names())}."
        )
    of = chooser_of(settings)
    if not isinstance(of, str) or of not in CHOOSERS:
        raise ConfigError(
            f"Solver 'refit': of is {of!r}.{did_you_mean(str(of), CHOOSERS)} "
            f"There are: {', '.join(CHOOSERS)}."
        )
    check_settings(settings, "recipe.solver")
    window = parts.pattern.window
    if "block" in settings and window is not None:
        raise ConfigError(
            f"recipe.solver: block of solver {name!r} says nothing under the pattern "
            f"{parts.pattern.text!r}, whose groups lie in runs of {window} columns, each chosen "
            f"when its turn comes. Leave block out, or choose another pattern."
        )
    metric = parts.metric.name
    if (metric == OWN) != (of in CHOOSES_ITSELF):
        raise ConfigError(
            f"Solver {of!r} with the metric {metric!r}: {' and '.join(CHOOSES_ITSELF)} choose by "
            f"themselves (metric {OWN!r}), mask needs the name of a metric."
        )
    if metric == OWN and len(parts.metric) > 1:
        raise ConfigError(
            f"recipe.metric: {OWN!r} has no settings, found "
            f"{', '.join(key for key in parts.metric if key != 'name')}."
        )
    chooser = CHOOSERS[of].make(parts)
    return Refit(chooser, value_of(settings, "tolerance")) if name == REFIT else chooser


def check_parts(recipe: Recipe, where: str) -> None:
    """Raises a `ConfigError` unless metric and solver are known, and so are all their settings."""
    for parts in recipe.every:
        try:
            solver_of(parts)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None


def _metric_of(parts: Parts) -> Metric:
    if parts.metric.name == GIVEN:
        return metric_from({GIVEN: Given}, parts.metric, "recipe.metric")
    return make_metric(parts.metric, "recipe.metric")


def needs_of(recipe: Recipe) -> frozenset[Need]:
    """The statistics that applying this recipe reads."""
    return frozenset().union(*(needs_of_parts(parts, recipe.mixed) for parts in recipe.every))


def needs_of_parts(parts: Parts, mixed: bool) -> frozenset[Need]:
    """What pruning by them reads; `mixed`: where the Taylor loss has a part."""
    needs = solver_of(parts).needs
    if mixed:
        needs |= {InputSq, Gram, LayerGradients}  # the normalisers read both terms
    shifts = bool(parts.quadratic.target_shift)
    if shifts:
        needs |= {Gram, Cross}
    if parts.quadratic.auto and (shifts or Gram in needs):
        needs |= {HeldBackGram, *([HeldBackCross] if shifts else ())}
    if parts.quadratic.centred:
        needs |= {Mean}
    if parts.quadratic.guided and summed(needs):
        needs |= {TokenWeights}
    return needs
