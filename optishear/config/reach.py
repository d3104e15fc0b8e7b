"""What a search space may ask of metrics, solvers and calibration: known names, statistics read."""

from optishear.calibration.statistics import InputSq, Need
from optishear.errors import ConfigError
from optishear.metrics import make_metric
from optishear.recipe.canonical import metric_under
from optishear.recipe.quadratic import MOONSHOT, RECONSTRUCTION
from optishear.recipe.recipe import Recipe
from optishear.search.space_file import SpaceSpec
from optishear.search.template_genes import Template, first_of, variants_of
from optishear.solvers.methods import needs_of, solver_of


def check_space(space: SpaceSpec) -> None:
    """Raises a `ConfigError` unless metrics and solvers accept every value a gene may take."""
    for index, template in enumerate(space.metrics):
        for metric in variants_of(template):
            make_metric(metric, f"space.metric.{index}")
    for index, template in enumerate(space.solvers):
        for solver in variants_of(template):
            try:
                solver_of(_plan(space, first_of(space.metrics[0]), solver))
            except ConfigError as error:
                raise ConfigError(f"space.solver.{index}: {error}") from None


def needs_of_space(space: SpaceSpec) -> frozenset[Need]:
    """What calibration must collect for every recipe of the space."""
    quadratic = RECONSTRUCTION if space.moonshot is None else MOONSHOT
    needs: set[Need] = {InputSq}  # the rules of layer sparsities read it, whatever the metric
    for template in space.solvers:
        for solver in variants_of(template):
            for metric in (m for metrics in space.metrics for m in variants_of(metrics)):
                needs |= needs_of(_plan(space, metric, solver, quadratic))
    return frozenset(needs)


def _plan(
    space: SpaceSpec, metric: Template, solver: Template, quadratic: str = RECONSTRUCTION
) -> Recipe:
    """A recipe for no layer in particular."""
    metric, pattern = metric_under(solver, metric), space.resolved_pattern.text
    return Recipe(metric, {}, pattern, solver, {"name": quadratic})
