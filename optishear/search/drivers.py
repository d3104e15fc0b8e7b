"""The table of search drivers: names in experiment files -> drivers.

A factory imports its engine when it is called, so that reading this table costs nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

from optishear.errors import ConfigError
from optishear.recipe.lookup import lookup
from optishear.search.driver import Driver, DriverSettings
from optishear.search.exhaustive_driver import ExhaustiveDriver
from optishear.search.genes import Choice, Gene
from optishear.search.ladder import Ladder


OPTUNA_SEEDS = 2**32  # numpy's RandomState takes no more
FREE = "free"
EVERY_VARIATION = (FREE, "prefix", "guided")


@dataclass(frozen=True)
class DriverEntry:
    """How a driver is made, what it is, where it is described, its smallest population, the most
    objectives it takes (None: any number), and the `variations` of genomes that it has. `staged`:
    whether each of its generations climbs the ladder of fidelities at once, to tell it the top.
    `seeded`: whether chance has a part in it. `seeds_below`: where its engine's seeds end.
    `curves`: whether it needs to know what layers cost alone; `slopes`: how fast the objective
    changes with each gene."""

    make: Callable[[DriverSettings], Driver]
    about: str
    paper: str
    smallest: Callable[[int], int] = lambda objectives: 2
    most_objectives: int | None = None
    variations: tuple[str, ...] = (FREE,)
    staged: bool = False
    seeded: bool = True
    seeds_below: int | None = None
    curves: bool = False
    slopes: bool = False

    @property
    def settings(self) -> tuple[str, ...]:
        """The keys of `search` that it reads, beside those which every search reads."""
        varies = self.variations != (FREE,)
        read = {"population": True, "seed": self.seeded, "variation": varies}
        return tuple(name for name, is_read in read.items() if is_read)


def make_driver(name: str, settings: DriverSettings) -> Driver:
    """The driver called `name`, or a `ConfigError` which says what it cannot work with."""
    entry = lookup(DRIVERS, name, kind="driver")
    check_population(name, settings.population, settings.objectives)
    check_genes(settings.genes)
    check_seed(name, settings.seed)
    check_variation(name, settings.variation)
    if settings.variation == "prefix" and settings.gene_blocks is None:
        raise ConfigError(
            "The variation 'prefix' needs to know which block each gene acts on, but gene_blocks "
            "is not given. Take it from the search space, or use the variation 'free'."
        )
    check_curves(settings)
    width = None if settings.initial is None else settings.initial.shape[1]
    if width not in (None, len(settings.genes)):
        raise ConfigError(
            f"The initial genomes have {width} genes but the search space has "
            f"{len(settings.genes)}. They must come from the same search space."
        )
    return entry.make(settings)


def make_ladder(driver: str, rungs: tuple[int, ...], promoted: float, population: int) -> Ladder:
    """The ladder of these rungs (search tokens, the last is all), climbed as the driver needs."""
    if lookup(DRIVERS, driver, kind="driver").staged:
        return Ladder(rungs, promoted, by_generation=True)
    return Ladder(rungs, promoted, least=population)


def check_budget(driver: str, population: int, evaluations: int, objectives: int) -> None:
    """Refuse, before anything is loaded, a search which could not complete one population."""
    check_population(driver, population, objectives)
    if evaluations < population:
        raise ConfigError(
            f"A budget of {evaluations} evaluations is less than one population of {population}. "
            f"Allow at least {population} evaluations, or make the population smaller."
        )


def check_population(driver: str, population: int, objectives: int) -> None:
    entry = lookup(DRIVERS, driver, kind="driver")
    if objectives < 1:
        raise ConfigError(f"A search needs at least one objective, not {objectives}.")
    if entry.most_objectives is not None and objectives > entry.most_objectives:
        raise ConfigError(
            f"The search has {objectives} objectives, but {driver} takes {entry.most_objectives} "
            "only. Name fewer objectives, or use another driver, such as nsga2."
        )
    least = entry.smallest(objectives)
    if population < least:
        plural = "" if objectives == 1 else "s"
        raise ConfigError(
            f"A population of {population} is too small for {driver} with {objectives} "
            f"objective{plural}: it needs at least {least}."
        )


def check_seed(driver: str, seed: int) -> None:
    """Refuse a seed which the driver's engine would not take."""
    below = lookup(DRIVERS, driver, kind="driver").seeds_below
    if below is not None and not 0 <= seed < below:
        raise ConfigError(
            f"search.seed: {seed}, but {driver} takes seeds from 0 to {below - 1} (Optuna's). "
            f"Choose a smaller one."
        )


def check_variation(driver: str, variation: str) -> None:
    """Refuse a way to vary genomes which the driver does not have."""
    if variation in lookup(DRIVERS, driver, kind="driver").variations:
        return
    having = ", ".join(name for name, entry in DRIVERS.items() if variation in entry.variations)
    raise ConfigError(
        f"The driver {driver} has no variation {variation!r}. Use the variation 'free', or one of "
        f"the drivers that have it: {having}."
    )


def check_curves(settings: DriverSettings) -> None:
    """Refuse curves of another space, and guided variation without any."""
    curves = settings.curves
    if curves is not None and len(curves) != len(settings.genes):
        raise ConfigError(
            f"There are curves for {len(curves)} genes but the search space has "
            f"{len(settings.genes)}. They must come from the same search space."
        )
    if settings.variation == "guided" and not any(curves or ()):
        raise ConfigError(
            "The variation 'guided' needs curves of what layers cost alone, but no gene has one. "
            "Use sparsity.by 'block' or 'layer' with curves measured, or the variation 'free'."
        )


def check_genes(genes: tuple[Gene, ...]) -> None:
    if not genes:
        raise ConfigError("The search space has no genes: there is nothing to search for.")
    for gene in genes:
        if isinstance(gene, Choice):
            if not gene.options:
                raise ConfigError(f"The gene {gene.name!r} has no options to choose from.")
        elif not (isfinite(gene.low) and isfinite(gene.high) and gene.low <= gene.high):
            raise ConfigError(
                f"The gene {gene.name!r} runs from {gene.low} to {gene.high}; it needs two finite "
                "bounds, the lower one first."
            )


def _evopress(settings: DriverSettings) -> Driver:
    from optishear.search.evopress_driver import EvoPressDriver

    return EvoPressDriver(settings)


def _gradient(settings: DriverSettings) -> Driver:
    from optishear.search.gradient_driver import GradientDriver

    return GradientDriver(settings)


def _knapsack(settings: DriverSettings) -> Driver:
    from optishear.search.knapsack_driver import BudgetKnapsack
    from optishear.search.knapsack_front import FrontKnapsack

    return FrontKnapsack(settings) if settings.budget is None else BudgetKnapsack(settings)


def _nsga2(settings: DriverSettings) -> Driver:
    from optishear.search.pymoo_driver import nsga2

    return nsga2(settings)


def _nsga3(settings: DriverSettings) -> Driver:
    from optishear.search.pymoo_driver import nsga3

    return nsga3(settings)


def _tpe(settings: DriverSettings) -> Driver:
    from optishear.search.optuna_driver import tpe

    return tpe(settings)


def _optuna_nsga2(settings: DriverSettings) -> Driver:
    from optishear.search.optuna_driver import optuna_nsga2

    return optuna_nsga2(settings)


def _optuna_nsga3(settings: DriverSettings) -> Driver:
    from optishear.search.optuna_driver import optuna_nsga3

    return optuna_nsga3(settings)


def _qmc(settings: DriverSettings) -> Driver:
    from optishear.search.optuna_driver import qmc

    return qmc(settings)


def _random(settings: DriverSettings) -> Driver:
    from optishear.search.optuna_driver import random

    return random(settings)


DRIVERS: dict[str, DriverEntry] = {
    "evopress": DriverEntry(
        _evopress,
        "EvoPress: one parent, sparsity moves from one block or layer to any other; one objective; "
        "other genes mutate, each with a probability of one over all",
        "Sieberling et al. 2024, arXiv 2410.14649",
        most_objectives=1,
        staged=True,
    ),
    "exhaustive": DriverEntry(
        ExhaustiveDriver,
        "every genome of a small space without real genes, in order",
        "(enumeration)",
        seeded=False,
    ),
    "gradient": DriverEntry(
        _gradient,
        "Adam down the slopes of one objective under a budget, from one start or several; ours: "
        "one backward pass says what every layer's sparsity is worth",
        "Adam: Kingma and Ba 2015, arXiv 1412.6980",
        smallest=lambda objectives: 1,
        slopes=True,
    ),
    "knapsack": DriverEntry(
        _knapsack,
        "exact knapsack over single-layer curves; ours: the best split of a budget if costs add "
        "up, then evolution of the curves' weights; without a budget, answers to many",
        "additive costs: Malinovskii et al. 2024, arXiv 2411.17525; knapsack: Puzzle, Bercovich et "
        "al. 2024, arXiv 2411.19146",
        curves=True,
    ),
    "nsga2": DriverEntry(
        _nsga2,
        "non-dominated sorting and crowding distance; best for one to three objectives",
        "Deb et al. 2002, doi:10.1109/4235.996017",
        variations=EVERY_VARIATION,
    ),
    "nsga3": DriverEntry(
        _nsga3,
        "non-dominated sorting and reference directions; for three objectives and more",
        "Deb and Jain 2014, doi:10.1109/TEVC.2013.2281535",
        smallest=lambda objectives: max(2, objectives),  # one direction for each corner
        variations=EVERY_VARIATION,
    ),
    "optuna-nsga2": DriverEntry(
        _optuna_nsga2,
        "Optuna's NSGA-II: uniform crossover, mutation by drawing anew",
        "Deb et al. 2002, doi:10.1109/4235.996017",
        seeds_below=OPTUNA_SEEDS,
    ),
    "optuna-nsga3": DriverEntry(
        _optuna_nsga3,
        "Optuna's NSGA-III with its defaults, the search OptiShear was published with",
        "Deb and Jain 2014, doi:10.1109/TEVC.2013.2281535",
        seeds_below=OPTUNA_SEEDS,
    ),
    "qmc": DriverEntry(
        _qmc,
        "scrambled Sobol points: random search which leaves no holes; learns nothing",
        "Sobol' 1967, doi:10.1016/0041-5553(67)90144-9",
        seeds_below=OPTUNA_SEEDS,
    ),
    "random": DriverEntry(
        _random,
        "independent uniform genomes: the baseline every other driver has to beat",
        "Bergstra and Bengio 2012, JMLR 13:281",
        seeds_below=OPTUNA_SEEDS,
    ),
    "tpe": DriverEntry(
        _tpe,
        "Optuna's tree-structured Parzen estimator: few, expensive evaluations of few genes",
        "Bergstra et al. 2011 (NeurIPS); Ozaki et al. 2020, doi:10.1145/3377930.3389817",
        seeds_below=OPTUNA_SEEDS,
    ),
}
