"""Metrics: HOW MUCH each weight matters. To add one: write the class, add one line here."""

from optishear.metrics.base import Metric as Metric
from optishear.metrics.base import metric_from
from optishear.metrics.classic import Magnitude, Power, Random, Ria, Wanda
from optishear.metrics.meta import Meta
from optishear.metrics.tree import Tree


METRICS: dict[str, type[Metric]] = {
    "magnitude": Magnitude,
    "meta": Meta,
    "power": Power,
    "random": Random,
    "ria": Ria,
    "tree": Tree,
    "wanda": Wanda,
}


def make_metric(spec, where: str = "metric") -> Metric:
    """The metric that a recipe's `{"name": ..., ...}` describes."""
    return metric_from(METRICS, spec, where)
