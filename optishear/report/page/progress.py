"""The page's section on progress, rung by rung, and on failures."""

from dataclasses import dataclass

import pandas as pd

from optishear.report.page.wording import duration


LEAST = 5  # recipes measured on both rungs, to say how alike they rank them


@dataclass(frozen=True)
class Rung:
    """Evaluations on one number of search tokens.

    - `agreement`: (objective, Spearman's rank correlation with the top rung, recipes on both).
    """

    tokens: int
    evaluations: int
    failed: int
    time: str
    agreement: tuple[tuple[str, float, int], ...]


def rungs(evaluations: pd.DataFrame, objectives: list[str]) -> tuple[Rung, ...]:
    """From few tokens to many."""
    found = []
    top = evaluations[evaluations.rung == evaluations.rung.max()].set_index("key")
    for tokens in sorted(evaluations.rung.unique().tolist()):
        part = pd.DataFrame(evaluations[evaluations.rung == tokens])
        agreement = []
        for name in objectives if tokens < evaluations.rung.max() else ():
            column = f"value.{name}"
            both = pd.concat([part.set_index("key")[column], top[column]], axis=1).dropna()
            ranks = both.rank()
            if len(both) >= LEAST and (ranks.nunique() > 1).all():
                agreement.append((name, float(ranks.corr().iloc[0, 1]), len(both)))
        failed = int((part.reason != "").sum())
        spent = duration(part.seconds.sum())
        found.append(Rung(tokens, len(part), failed, spent, tuple(agreement)))
    return tuple(found)


def failures(evaluations: pd.DataFrame) -> list[tuple[str, int]]:
    """Reasons and how often each was given, the commonest first."""
    counts = evaluations.reason[evaluations.reason != ""].value_counts()
    return sorted(((str(k), int(v)) for k, v in counts.items()), key=lambda x: (-x[1], x[0]))
