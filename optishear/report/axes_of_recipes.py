"""The axes of parallel coordinates: what varied between the recipes, then what came of it."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from optishear.report.run_view import RunView
from optishear.report.style import number
from optishear.report.varying import varying


@dataclass(frozen=True)
class RecipeAxis:
    """One axis.

    - `places`: of each recipe, from 0 at the first of `ends` to 1 at the second; NaN where the
      axis does not apply to it.
    - `names`: what stands along an axis of names, evenly spaced; empty for numbers.
    - `log`: between its ends the axis is even in the logarithm.
    - `percent`: numbers are fractions, shown in per cent.
    """

    label: str
    places: Float[np.ndarray, " recipes"]
    ends: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()
    log: bool = False
    percent: bool = False
    objective: bool = False

    @property
    def marks(self) -> list[tuple[float, str]]:
        """Places along the axis and what stands there."""
        if self.names:
            spaced = np.linspace(0, 1, len(self.names)).tolist()
            return list(zip(spaced, self.names, strict=True))
        texts = [f"{100 * x:.1f} %" if self.percent else number(x) for x in self.ends]
        return list(zip((0.0, 1.0), texts, strict=True))


def recipe_axes(view: RunView) -> tuple[RecipeAxis, ...]:
    """Of the recipes that succeeded, in the order made. Objectives beyond the bounds that their
    figure shows are put at the end of the axis."""
    axes = [_of_feature(str(name), column) for name, column in varying(view.made).items()]
    for index, quantity in enumerate(view.front.quantities):
        low, high, log = view.front.bounds(index)
        places = _between(view.front.candidates[:, index], low, high, log)
        label = quantity.name + (" (log)" if log else "")
        axes.append(
            RecipeAxis(label, places, (low, high), (), log, quantity.percent, objective=True)
        )
    return tuple(axes)


def _of_feature(name: str, column: pd.Series) -> RecipeAxis:
    if not pd.api.types.is_numeric_dtype(column):
        names = tuple(sorted(column.dropna().unique()))
        places = dict(zip(names, np.linspace(0, 1, len(names)).tolist(), strict=True))
        return RecipeAxis(name, column.map(places).to_numpy(float), names=names)
    ends = float(column.min()), float(column.max())
    places = _between(column.to_numpy(float), *ends, log=False)
    return RecipeAxis(name, places, ends, percent=name.startswith("sparsity"))


def _between(
    values: Float[np.ndarray, " n"], low: float, high: float, log: bool
) -> Float[np.ndarray, " n"]:
    if log:
        values, low, high = np.log10(values), float(np.log10(low)), float(np.log10(high))
    return np.clip((values - low) / ((high - low) or 1.0), 0.0, 1.0)
