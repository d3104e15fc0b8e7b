"""Rounds of one search: each goes on around what the one before it picked, at half its step."""

from collections.abc import Callable, Iterator

from optishear.calibration.origin import SEQUENTIAL
from optishear.config import Experiment
from optishear.config.sections import KNAPSACK
from optishear.errors import ConfigError
from optishear.recipe.recipe import Recipe
from optishear.runs.results import Run


def in_rounds(
    experiment: Experiment, rounds: int, search: Callable[[Experiment], Run], shared: bool = False
) -> Iterator[tuple[Experiment, Run]]:
    """So many experiments one after the other, and the finished run of each, as `search` makes it.

    `shared`: whether several processes make each of the runs together.

    Raises a `ConfigError` before the first if none can follow it, as far as the experiment tells; a
    further one where its own model tells, with the number of the round.
    """
    if rounds > 1:
        _refuse_no_next(experiment, shared)
    for number in range(rounds):
        try:
            run = search(experiment)
        except ConfigError as error:
            if number == 0:
                raise
            raise ConfigError(
                f"round {number + 1}, around what the one before it picked and on levels of half "
                f"its step: {error}"
            ) from None
        yield experiment, run
        if number + 1 < rounds:
            experiment = next_round(experiment, run.front.pick().recipe)


def next_round(experiment: Experiment, picked: Recipe) -> Experiment:
    """The experiment that goes on around this recipe.

    Statistics are of the model as `picked` prunes it, so all levels are solved anew; where the
    space has a grid of levels, twice as many. What goes by curves of layers pruned alone has no
    place in it: the seed `knapsack` is left out, and `variation: guided` becomes `free`.
    """
    search = experiment.search
    seeds = tuple(seed for seed in search.seeds if seed != KNAPSACK)
    variation = "free" if search.variation == "guided" else search.variation
    space, sparsity = experiment.space, experiment.space.sparsity
    if sparsity.steps is not None:
        sparsity = sparsity.model_copy(update={"steps": 2 * sparsity.steps})
    said = {name: getattr(experiment, name) for name in type(experiment).model_fields}
    changes = {
        "around": picked.to_json(),
        "search": search.model_copy(update={"seeds": seeds, "variation": variation}),
        "space": space.model_copy(update={"sparsity": sparsity}),
    }
    return Experiment.model_validate({**said, **changes})


def _refuse_no_next(experiment: Experiment, shared: bool) -> None:
    if shared:
        raise ConfigError(
            "--rounds with --study: every process picks by itself, so that they would go on around "
            "different recipes. Leave one of them out, or give all of them the same --around."
        )
    if experiment.driver.curves:
        raise ConfigError(
            f"--rounds: the driver {experiment.search.driver} goes by curves of layers that are "
            f"pruned alone, and a further round is about a model that is pruned already. Choose "
            f"another driver, for instance gradient."
        )
    if experiment.mode == SEQUENTIAL:
        raise ConfigError(
            f"--rounds: mode is {experiment.mode}, where every candidate is pruned with "
            f"statistics of its own, so there is nothing to solve anew. Leave one of them out."
        )
