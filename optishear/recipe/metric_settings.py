"""The settings of the metrics that come with the package, as recipes may name them.

Numbers within bounds, words of a list, formulas: what is in a file is checked where it is read, as
`solver_settings` does for solvers. Other metrics are checked by their own classes alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optishear.errors import ConfigError
from optishear.recipe.formula import parse_formula
from optishear.recipe.lookup import did_you_mean
from optishear.recipe.metric_forms import COEFFICIENTS, TRANSFORMS
from optishear.recipe.solver_settings import Setting


@dataclass(frozen=True)
class Word:
    """One of `options`."""

    usual: str
    options: tuple[str, ...]

    def check(self, value: Any, where: str) -> None:
        """Raises a `ConfigError` for anything else."""
        if value not in self.options:
            raise ConfigError(
                f"{where} is {value!r}.{did_you_mean(str(value), self.options)} "
                f"There are: {', '.join(self.options)}."
            )


@dataclass(frozen=True)
class Formula:
    """A text that `parse_formula` reads."""

    usual: str

    def check(self, value: Any, where: str) -> None:
        """Raises a `ConfigError` for anything else."""
        if not isinstance(value, str):
            raise ConfigError(f"{where} is {value!r}, expected a text such as {self.usual}.")
        parse_formula(value, where)


ANY = float(2**63 - 1)
TRANSFORM, COEFFICIENT = Word("no_op", TRANSFORMS), Word("no_coe", COEFFICIENTS)
METRIC_SETTINGS: dict[str, dict[str, Setting | Word | Formula]] = {
    "magnitude": {},
    "wanda": {},
    "random": {"seed": Setting(0, -(2**63), 2**63 - 1, "another one, another draw")},
    "ria": {"power": Setting(0.5, -ANY, ANY, "of the input's norm")},
    "power": {
        "alpha": Setting(1.0, 0.0, ANY, "the power of the weight's size"),
        "beta": Setting(0.0, -ANY, ANY, "the power that its row's sum is divided by"),
        "gamma": Setting(0.0, -ANY, ANY, "the power that its column's sum is divided by"),
        "delta": Setting(1.0, -ANY, ANY, "the power of the input's norm"),
        "mix": Setting(0.0, 0.0, 1.0, "the share of the column's term"),
    },
    "meta": {
        "weight_transform": TRANSFORM,
        "input_transform": TRANSFORM,
        "weight_coefficient": COEFFICIENT,
        "input_coefficient": COEFFICIENT,
    },
    "tree": {"formula": Formula("mul(W, sqrt(X))")},
}


def check_metric(metric: Mapping[str, Any], where: str) -> None:
    """Raises a `ConfigError` for a setting that a metric of the package lacks, or a value that it
    cannot have."""
    name = metric.get("name")
    if not isinstance(name, str) or (known := METRIC_SETTINGS.get(name)) is None:
        return
    for key, value in metric.items():
        if key == "name":
            continue
        if key not in known:
            raise ConfigError(
                f"{where}: metric {name!r} has no setting {key!r}.{did_you_mean(key, known)} "
                f"It has: {', '.join(known) or 'none'}."
            )
        known[key].check(value, f"{where}: {key} of metric {name!r}")
