"""Ask, evaluate, tell: the one loop of every search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from optishear.recipe.recipe import Recipe
from optishear.search.driver import Driver
from optishear.search.evaluator import Evaluation, minimised
from optishear.search.space import SearchSpace


STALLED = 50  # generations in a row without one new recipe: the space is used up, or nearly


@dataclass
class Found:
    """Every distinct recipe of a search, in the order in which it was first asked for."""

    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    ended: str = ""

    @property
    def good(self) -> list[Evaluation]:
        return [e for e in self.evaluations.values() if not e.failed]


def run(
    space: SearchSpace,
    driver: Driver,
    evaluate: Callable[[Recipe], Evaluation],
    evaluations: int,
    objectives: Sequence[str],
    maximise: Sequence[bool],
    watch: Callable[[Found, Evaluation], None] = lambda found, evaluation: None,
) -> Found:
    """Searches until `evaluations` distinct recipes were asked for, remembered ones included.

    The count follows from the driver's questions alone, never from what a journal knows, so a
    resumed search ends exactly where an unbroken one does. A generation that would cross the limit
    is cut and not told. `watch` is called after each new recipe.
    """
    found, idle = Found(), 0
    while True:
        genomes = driver.ask()
        if not len(genomes):
            found.ended = "the space holds no further recipe"
            return found
        before, answers = len(found.evaluations), []
        for recipe in map(space.decode, genomes):
            if recipe.key not in found.evaluations:
                if len(found.evaluations) == evaluations:
                    found.ended = "the evaluation budget is spent"
                    return found
                found.evaluations[recipe.key] = evaluate(recipe)
                watch(found, found.evaluations[recipe.key])
            answers.append(found.evaluations[recipe.key])
        driver.tell(minimised(answers, objectives, maximise))
        idle = 0 if len(found.evaluations) > before else idle + 1
        if idle == STALLED:
            found.ended = f"{STALLED} generations in a row held no new recipe"
            return found
