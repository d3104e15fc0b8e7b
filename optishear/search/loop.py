"""The loop of every search: ask, evaluate, tell."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from optishear.recipe.recipe import Recipe
from optishear.search.driver import Driver, GeneSlopes, SlopeDriver
from optishear.search.evaluator import Evaluation, minimised
from optishear.search.ladder import Ladder
from optishear.search.space import SearchSpace


SlopesOf = Callable[[Sequence[Recipe], int], Sequence[GeneSlopes]]
"""Recipes and a rung in, d objective / d code of each gene out."""

STALLED = 50  # generations in a row without one new recipe: the space is used up, or nearly


@dataclass
class Found:
    """What became of every distinct recipe of a search, on every rung that it reached.

    - `rungs`: {search tokens: {recipe key: evaluation}}, ascending. All recipes are on the lowest
      rung, in the order in which they were first asked for.
    """

    rungs: dict[int, dict[str, Evaluation]]
    ended: str = ""

    @property
    def asked(self) -> int:
        """How many distinct recipes were asked for: what the budget counts."""
        return len(self.rungs[min(self.rungs)])

    @property
    def evaluations(self) -> dict[str, Evaluation]:
        """Each recipe on the highest rung that it reached, in the order first asked for."""
        return {key: e for rung in self.rungs.values() for key, e in rung.items()}

    @property
    def good(self) -> list[Evaluation]:
        """The successes on the top rung: only they have values that a front can be made of."""
        return [e for e in self.rungs[max(self.rungs)].values() if not e.failed]

    @property
    def failed(self) -> list[Evaluation]:
        return [e for e in self.evaluations.values() if e.failed]


def run(
    space: SearchSpace,
    driver: Driver,
    evaluate: Callable[[Sequence[Recipe], int], Iterable[Evaluation]],
    evaluations: int,
    objectives: Sequence[str],
    maximise: Sequence[bool],
    ladder: Ladder,
    watch: Callable[[Found, Evaluation], None] = lambda found, evaluation: None,
    slopes: SlopesOf | None = None,
) -> Found:
    """Searches until `evaluations` distinct recipes were asked for, remembered ones included.

    The count follows from the driver's questions alone, never from what a journal knows, so a
    resumed search ends exactly where an unbroken one does. A generation that would cross the limit
    is cut and not told. All recipes are measured on the ladder's lowest rung, then the best climb.
    `watch` is called after each new evaluation. `slopes` are those of a generation, on the lowest
    rung, for a driver that goes by them.
    """
    found = Found({rung: {} for rung in ladder.rungs})

    def measure(recipes: Sequence[Recipe], rung: int) -> None:
        on_rung = found.rungs[rung]
        for evaluation in evaluate(recipes, rung):
            on_rung[evaluation.recipe.key] = evaluation
            watch(found, evaluation)
        for recipe in recipes:  # in the order asked for, whichever was done first
            on_rung[recipe.key] = on_rung.pop(recipe.key)

    def climb(recipes: Sequence[Recipe]) -> None:
        for lower, rung in pairwise(ladder.rungs):
            told = minimised([found.rungs[lower][r.key] for r in recipes], objectives, maximise)
            alive = [(r, v) for r, v in zip(recipes, told, strict=True) if v is not None]
            values = np.array([v for _, v in alive]).reshape(len(alive), len(objectives))
            recipes = [alive[index][0] for index in ladder.going_on(values)]
            measure(recipes, rung)

    lowest, idle = ladder.rungs[0], 0
    while not found.ended:
        recipes = [space.decode(genome) for genome in driver.ask()]
        new = {r.key: r for r in recipes if r.key not in found.rungs[lowest]}
        affordable = list(new.values())[: evaluations - found.asked]
        measure(affordable, lowest)
        if ladder.by_generation:
            climb(affordable)
        idle = 0 if new else idle + 1
        if not recipes:
            found.ended = "the space holds no further recipe"
        elif len(affordable) < len(new):
            found.ended = "the evaluation budget is spent"
        else:
            if isinstance(driver, SlopeDriver):
                assert slopes is not None
                driver.tell_slopes(slopes(recipes, lowest))
            told = found.rungs[ladder.told]
            driver.tell(minimised([told.get(r.key) for r in recipes], objectives, maximise))
            if idle == STALLED:
                found.ended = f"{STALLED} generations in a row held no new recipe"
    if not ladder.by_generation:
        climb([e.recipe for e in found.rungs[lowest].values()])
    return found
