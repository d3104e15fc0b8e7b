"""The order of several experiments: those that cost least first."""

import math
from collections.abc import Sequence

from optishear.config import Experiment
from optishear.models.catalog import MODELS


def in_order_of_cost(experiments: Sequence[Experiment]) -> list[Experiment]:
    """By candidates x tokens of the lowest rung x parameters, as far as they are known before
    anything is loaded; models without a name of ours come last. Equal costs keep their order."""
    return sorted(experiments, key=_cost)


def _cost(experiment: Experiment) -> float:
    entry, text = MODELS.get(experiment.model), experiment.text.search
    tokens = text.sequences * text.seq_len or math.inf
    lowest = min((*experiment.search.rungs, tokens))
    parameters = entry.parameters if entry else math.inf
    return float(experiment.search.evaluations * lowest * parameters)
