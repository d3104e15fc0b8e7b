"""Importance: which of the things that varied go together with an objective, and how surely.

Spearman's rank correlation for numbers (signed), and for names the correlation ratio of the ranks:
the root of the share of their variance that lies between the names, the effect that the
Kruskal-Wallis test is about. Both are 0 for nothing and 1 for all. A search does not choose its
candidates at random, and they differ in many things at once: this describes what was evaluated,
and is no cause. So every number stands beside two others:

- its interval, from evaluations drawn again with replacement (percentile bootstrap of the ranks);
- noise: what it is below in 95 of 100 cases where the objective's values are shuffled.

They see what rises or falls with a feature. PED-ANOVA (Watanabe, Bansal and Hutter 2023, arXiv
2304.10255, as optuna has it) also sees a best place in the middle, and stands beside them in the
report's table; it is too slow to be drawn again so often.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int


LEAST = 40  # evaluations, of an objective and of each feature; below it noise reaches 0.3
DRAWS = 200  # of the interval, and of the noise
LEVEL = 0.9  # of the interval
NOISE = 0.95  # the share of shuffled effects that are below noise
BEST = 0.25  # the share of evaluations that PED-ANOVA sets apart
SEED = 0

Ranks = Float[np.ndarray, "draws n"]
Effects = Float[np.ndarray, " draws"]


@dataclass(frozen=True)
class Importance:
    """One objective. `table` has a row a feature, the strongest first, and the columns

    - `effect`: `signed` for numbers, from 0 for names; `low`, `high`: its interval;
    - `noise`: what is no more than this in size could be chance;
    - `clear`: whether the whole interval lies beyond noise, on one side.
    """

    objective: str
    evaluations: int
    table: pd.DataFrame


def importances(
    features: pd.DataFrame, objectives: Mapping[str, pd.Series]
) -> tuple[Importance, ...]:
    """Each objective's, in the order given. Left out is an objective that is the same for all or
    has no feature with `LEAST` evaluations. Seeded: the same evaluations, the same numbers."""
    found = []
    for name, values in objectives.items():
        rows = {
            feature: row
            for feature, column in features.items()
            if (row := _row(column, values)) is not None
        }
        if rows:
            table = pd.DataFrame.from_dict(rows, orient="index")
            order = table.effect.abs().sort_values(ascending=False, kind="stable").index
            found.append(Importance(name, int(values.notna().sum()), table.loc[order]))
    return tuple(found)


def _row(feature: pd.Series, values: pd.Series) -> dict[str, float | bool] | None:
    present = feature.notna() & values.notna()
    feature, values = feature.loc[present], values.loc[present]
    if len(values) < LEAST or feature.nunique() < 2 or values.nunique() < 2:
        return None
    random = np.random.default_rng(SEED)
    ranks = values.rank().to_numpy()
    drawn = random.integers(len(ranks), size=(DRAWS, len(ranks)))
    mixed = random.permuted(np.tile(ranks, (DRAWS, 1)), axis=1)
    signed = pd.api.types.is_numeric_dtype(feature)
    if signed:
        places = feature.rank().to_numpy()
        effect = _correlation(places[None], ranks[None])
        again = _correlation(places[drawn], ranks[drawn])
        shuffled = _correlation(np.broadcast_to(places, mixed.shape), mixed)
    else:
        groups, _ = pd.factorize(feature)
        effect = _ratio(groups[None], ranks[None])
        again = _ratio(groups[drawn], ranks[drawn])
        shuffled = _ratio(np.broadcast_to(groups, mixed.shape), mixed)
    low, high = np.quantile(again, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    noise = float(np.quantile(np.abs(shuffled), NOISE))
    return {
        "effect": float(effect[0]),
        "signed": signed,
        "low": float(low),
        "high": float(high),
        "noise": noise,
        "clear": bool(low > noise or high < -noise),
    }


def _correlation(one: Ranks, other: Ranks) -> Effects:
    """Pearson's, of each draw; 0 where a draw happens not to vary."""
    one = one - one.mean(axis=1, keepdims=True)
    other = other - other.mean(axis=1, keepdims=True)
    size = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    return (one * other).sum(axis=1) / np.where(size > 0, size, 1.0)


def _ratio(groups: Int[np.ndarray, "draws n"], ranks: Ranks) -> Effects:
    """Root of the variance between groups over all variance, of each draw."""
    deviation = ranks - ranks.mean(axis=1, keepdims=True)
    between = np.zeros(len(ranks))
    for group in range(int(groups.max()) + 1):
        inside = groups == group
        between += (deviation * inside).sum(axis=1) ** 2 / np.maximum(inside.sum(axis=1), 1)
    total = (deviation**2).sum(axis=1)
    return np.sqrt(between / np.where(total > 0, total, 1.0))


def ped_anova(features: pd.DataFrame, values: pd.Series, maximise: bool) -> dict[str, float]:
    """Shares of importance that sum to 1, by feature: what sets the best quarter apart.

    Features that some evaluations lack are left out.
    """
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    made = values.notna()
    whole = features[made].dropna(axis="columns")
    whole = whole.loc[:, whole.nunique() > 1]
    spaces: dict[str, BaseDistribution] = {
        str(name): FloatDistribution(float(column.min()), float(column.max()))
        if pd.api.types.is_numeric_dtype(column)
        else CategoricalDistribution(sorted(column.unique()))
        for name, column in whole.items()
    }
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it announces every study
    try:
        study = optuna.create_study(direction="maximize" if maximise else "minimize")
        study.add_trials(
            [
                optuna.create_trial(params=row, distributions=spaces, value=float(value))
                for row, value in zip(whole.to_dict("records"), values[made], strict=True)
            ]
        )
        evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST)
        return get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(level)
