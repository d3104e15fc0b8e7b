"""A metric says how much each weight of one layer matters."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from optishear.calibration.statistics import LayerStats, Need
from optishear.errors import ConfigError
from optishear.kernels.separable import Separable
from optishear.recipe.lookup import did_you_mean


class Metric(ABC):
    """Higher scores are kept longer. A metric sees one layer, never a model.

    Concrete metrics are frozen dataclasses; their fields are the settings that a recipe may name.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str] = ""

    @abstractmethod
    def score(self, weight: Float[Tensor, "out in"], stats: LayerStats) -> Float[Tensor, "out in"]:
        """Finite scores, fp32 or better. Never writes to `weight`."""

    def separable(self, weight: Float[Tensor, "out in"], stats: LayerStats) -> Separable | None:
        """The very same scores, bit for bit, as a weight and vectors, where they are no more."""
        return None


def metric_from(table: Mapping[str, type[Metric]], spec: Mapping[str, Any], where: str) -> Metric:
    """The metric that `{"name": ..., setting: value, ...}` describes, or a `ConfigError`."""
    settings = dict(spec)
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in table:
        raise ConfigError(
            f"{where}: no metric is called {name!r}.{did_you_mean(str(name), table)} "
            f"There are: {', '.join(sorted(table))}."
        )
    kind = table[name]
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for key, value in settings.items():
        if key not in known:
            raise ConfigError(
                f"{where}: metric {name!r} has no setting {key!r}.{did_you_mean(key, known)} "
                f"It has: {', '.join(known) or 'none'}."
            )
        default = known[key].default
        wanted = (int, float) if isinstance(default, float) else type(default)
        truth = isinstance(value, bool) and not isinstance(default, bool)
        wrong = default is not MISSING and (truth or not isinstance(value, wanted))
        infinite = isinstance(value, float) and not math.isfinite(value)
        if wrong or infinite:
            number = infinite or isinstance(default, float)
            raise ConfigError(
                f"{where}: {key} of metric {name!r} is {value!r}, expected a "
                f"{'finite number' if number else type(default).__name__}."
            )
        settings[key] = float(value) if isinstance(default, float) else value
    if missing := [key for key, f in known.items() if _required(f) and key not in settings]:
        raise ConfigError(f"{where}: metric {name!r} needs {', '.join(missing)}.")
    return kind(**settings)


def _required(field: Field) -> bool:
    return field.init and field.default is MISSING and field.default_factory is MISSING
