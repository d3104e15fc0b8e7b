"""What goes together in an experiment: its mode, what it is around, its seeds and finalists.

Each check raises a `ConfigError` with the one sentence that is to be said.
"""

from typing import TYPE_CHECKING

from optishear.calibration.gradients import LayerGradients
from optishear.calibration.origin import ONE_SHOT, SEQUENTIAL
from optishear.config.reach import reads_inputs
from optishear.config.sections import GRADIENT, KNAPSACK
from optishear.errors import ConfigError
from optishear.pruning.around import UNGUIDED_ONLY
from optishear.recipe.metric_forms import GIVEN
from optishear.search.sparsity_genes import GROUPINGS
from optishear.solvers.methods import check_parts, needs_of


if TYPE_CHECKING:
    from optishear.config.experiment import Experiment


def possible_around(experiment: "Experiment") -> None:
    """The recipe itself, and what cannot be had around one."""
    if experiment.around is None:
        return
    recipe = experiment.around_recipe
    assert recipe is not None
    check_parts(recipe, "around")
    if any(parts.metric.name == GIVEN for parts in recipe.every):
        raise ConfigError(
            "around: the recipe keeps what a mask keeps, which is not in it. Choose one that says "
            "by itself what goes."
        )
    if any(parts.quadratic.guided for parts in recipe.every):
        raise ConfigError(f"around: {UNGUIDED_ONLY}")
    wanted, given = experiment.gradient_sequences, experiment.text.calibration.sequences
    if LayerGradients in needs_of(recipe) and 0 < given < wanted:
        raise ConfigError(
            f"around: the recipe reads gradients, gradient_sequences is {wanted}, and "
            f"text.calibration has {given} sequences. Lower the one or raise the other."
        )
    if not reads_inputs(experiment.space):
        raise ConfigError(
            "around is given, but nothing in the space goes by what layers read, so that it would "
            "change nothing. Leave it out, or search another metric or solver."
        )
    if experiment.mode == SEQUENTIAL:
        raise ConfigError(
            f"around is given, but mode is {SEQUENTIAL}: every candidate is pruned with "
            f"statistics of its own. Leave one of them out."
        )
    if experiment.needs_curves:
        raise ConfigError(
            "around is given, but seeds or driver knapsack, or variation guided, go by curves "
            "of layers that are pruned alone, and around says that all are. Leave one of them "
            "out: driver gradient and seeds gradient go on from a recipe."
        )


def possible_mode(experiment: "Experiment") -> None:
    """What only one way of pruning candidates knows."""
    around = experiment.around is not None
    if experiment.mode == ONE_SHOT and (said := experiment.space.only_by_block(around)):
        where = "with statistics of the dense model" if not around else "at once"
        raise ConfigError(
            f"space: {', '.join(said)}: of no meaning where every layer is pruned {where}. "
            f"Add mode: {SEQUENTIAL}{' and take out around' if around else ''}."
        )
    if experiment.mode == SEQUENTIAL and (experiment.compile or experiment.cuda_graphs):
        what = "compile" if experiment.compile else "cuda_graphs"
        raise ConfigError(
            f"{what} is true, but mode is {SEQUENTIAL}: statistics are collected inside of "
            f"blocks that run as they are. Set one of them otherwise."
        )


def possible_seeds(experiment: "Experiment") -> None:
    """What is solved for before the search, and drivers and variations that go by the same."""
    search, by = experiment.search, experiment.space.sparsity.by.partition(":")[0]
    driver = experiment.driver
    guided, driven = "search.variation: guided", f"search.driver: {search.driver}"
    asked = {
        "search.seeds: knapsack": KNAPSACK in search.seeds,
        "search.seeds: gradient": GRADIENT in search.seeds,
        guided: search.variation == "guided",
        driven: driver.curves or driver.slopes,
    }
    if not (said := next((text for text, is_asked in asked.items() if is_asked), "")):
        return
    if by not in GROUPINGS:
        raise ConfigError(
            f"{said}: there is nothing to solve for, since sparsity.by {by!r} fixes what each "
            f"layer loses. Give it block, layer or curve."
        )
    if by == "curve" and (asked[guided] or driver.curves):
        raise ConfigError(
            f"{guided if asked[guided] else driven}: goes by what single layers cost, and "
            f"under sparsity.by 'curve' no gene is about one block or layer. Give it block or "
            f"layer; knapsack among search.seeds works with curve, too."
        )
    if experiment.mode == SEQUENTIAL:
        raise ConfigError(
            f"{said}: single layers and slopes are measured with statistics of the dense "
            f"model, but mode is {SEQUENTIAL}. Leave one of them out."
        )
    if not experiment.slope_objective:
        raise ConfigError(
            f"{said}: goes by an objective that can be split between layers, and none is "
            f"measured. Add kl to objectives or record."
        )
    if (GRADIENT in search.seeds or driver.slopes) and experiment.space.resolved_budget is None:
        down = "search.seeds: gradient" if GRADIENT in search.seeds else driven
        raise ConfigError(
            f"{down} goes down the slopes of one objective, and without a budget the least of "
            f"it is the dense model. Give the space a sparsity.budget, or go by knapsack, "
            f"which solves for a whole front."
        )


def possible_finalists(experiment: "Experiment") -> None:
    """Several, where there is a second way of measuring them."""
    if experiment.finalists == 1:
        raise ConfigError(
            "finalists is 1: of one recipe there is nothing to choose. Give at least 2, or "
            "leave it out, and the pick is made of what was measured one-shot."
        )
    if experiment.finalists and experiment.mode == SEQUENTIAL:
        raise ConfigError(
            f"finalists is {experiment.finalists}, but mode is {SEQUENTIAL}: every candidate is "
            f"measured block by block, so there is nothing to measure again. Leave one of them "
            f"out."
        )


TOGETHER = (possible_around, possible_mode, possible_seeds, possible_finalists)
