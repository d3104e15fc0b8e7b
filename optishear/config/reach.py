"""What a search space may ask of metrics, solvers and calibration: known names, statistics read."""

from collections.abc import Iterator

from optishear.calibration.statistics import InputSq, Need
from optishear.errors import ConfigError
from optishear.metrics import make_metric
from optishear.recipe.canonical import metric_under
from optishear.recipe.parts import Parts
from optishear.recipe.pattern import parse_asked
from optishear.recipe.quadratic import QuadraticSettings
from optishear.search.space_file import SpaceSpec
from optishear.search.space_parts import PartSpec
from optishear.search.template_genes import Template, first_of, variants_of
from optishear.solvers.methods import needs_of_parts, solver_of


def check_space(space: SpaceSpec) -> None:
    """Raises a `ConfigError` unless metrics and solvers accept every value a gene may take."""
    for spec in space.every:
        for index, template in enumerate(spec.metrics):
            for metric in variants_of(template):
                make_metric(metric, f"space.{spec.where}metric.{index}")
        for index, template in enumerate(spec.solvers):
            for solver in variants_of(template):
                try:
                    solver_of(_parts(spec, first_of(spec.metrics[0]), solver))
                except ConfigError as error:
                    where = f"space.{spec.where}solver.{index}"
                    raise ConfigError(f"{where}: {error}") from None


def needs_of_space(space: SpaceSpec) -> frozenset[Need]:
    """What calibration must collect for every recipe of the space."""
    needs: set[Need] = {InputSq}  # the rules of layer sparsities read it, whatever the metric
    for spec in space.every:
        for parts in _variants(spec):
            needs |= needs_of_parts(parts, space.moonshot is not None)
    return frozenset(needs)


def reads_inputs(space: SpaceSpec) -> bool:
    """Whether any recipe of the space goes by what layers read, or by gradients."""
    every = (parts for spec in space.every for parts in _variants(spec))
    return any(needs_of_parts(parts, space.moonshot is not None) for parts in every)


def _variants(spec: PartSpec) -> Iterator[Parts]:
    for template in spec.solvers:
        for solver in variants_of(template):
            for metric in (m for metrics in spec.metrics for m in variants_of(metrics)):
                for quadratic in variants_of(spec.quadratic):
                    yield _parts(spec, metric, solver, quadratic)


def _parts(
    spec: PartSpec, metric: Template, solver: Template, quadratic: Template | None = None
) -> Parts:
    pattern, _ = parse_asked(spec.pattern)
    settings = QuadraticSettings.of(quadratic or {})
    return Parts.of(metric_under(solver, metric), pattern, solver, settings)
