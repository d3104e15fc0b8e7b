"""Drivers by pymoo, NSGA-II and NSGA-III: pymoo selects, our operators vary.

pymoo never sees a failure, a constraint or a non-finite number. Importing this module imports
pymoo; `drivers` does so when such a driver is made.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from math import comb
from typing import Any

import numpy as np
from jaxtyping import Float
from pymoo.algorithms.moo.nsga2 import NSGA2, binary_tournament
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.core.crossover import Crossover
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.mating import Mating
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination
from pymoo.operators.mutation.nom import NoMutation
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.util.ref_dirs import get_reference_directions

from optishear.search.driver import Driver, DriverSettings, Genomes, Values, checked
from optishear.search.exhaustive_driver import grid_size, lexicographic
from optishear.search.guided_moves import Moves
from optishear.search.operators import (
    GeneTable,
    GuidedMutation,
    PrefixVariation,
    TypedCrossover,
    TypedMutation,
    gene_table,
    sampled,
)


ROUNDS = 20  # of mating, then of sampling, in search of genomes that were not asked for before


def nsga2(settings: DriverSettings) -> "PymooDriver":
    """Deb et al. 2002. With one objective: an elitist genetic algorithm, same operators."""
    return PymooDriver(settings, NSGA2, binary_tournament)


def nsga3(settings: DriverSettings) -> "PymooDriver":
    """Deb and Jain 2014, with as many reference directions as the population has room for."""
    directions = reference_directions(settings.objectives, settings.population)
    return PymooDriver(settings, partial(NSGA3, directions), either_parent)


def reference_directions(objectives: int, population: int) -> Float[np.ndarray, "directions k"]:
    """The largest Das-Dennis set not above the population; at least one corner an objective."""
    partitions = 1
    while objectives > 1 and comb(partitions + objectives, objectives - 1) <= population:
        partitions += 1
    return get_reference_directions("das-dennis", objectives, n_partitions=partitions)


def either_parent(pop: Any, pairs: np.ndarray, random_state: np.random.Generator, **_: Any) -> Any:
    """NSGA-III's tournament is a coin. pymoo's own drops the seed on ties and cannot be pickled."""
    side = random_state.integers(0, 2, size=len(pairs))
    return pairs[np.arange(len(pairs)), side][:, None]


def operators(table: GeneTable, settings: DriverSettings) -> tuple[Crossover, Mutation]:
    """How genomes vary: freely, from one block on, or guided by curves besides."""
    if settings.variation == "prefix":
        return PrefixVariation(table, settings), NoMutation()
    crossover = TypedCrossover(table, settings.crossover_prob, settings.crossover_eta)
    mutation = TypedMutation(table, settings.mutation_prob, settings.mutation_eta)
    if settings.variation == "guided":
        return crossover, GuidedMutation(mutation, Moves.along(settings.curves or ()))
    return crossover, mutation


class PymooDriver(Driver):
    """An evolutionary algorithm of pymoo that never asks for one genome twice.

    Where mating finds nothing new the generation is filled with random genomes; a countable space
    is walked to its end before `ask` returns no rows. A first generation that fails as a whole is
    not told to pymoo, and the next one is random again.
    """

    def __init__(
        self,
        settings: DriverSettings,
        algorithm: Callable[..., Any],
        tournament: Callable[..., Any],
    ) -> None:
        self._settings = settings
        self._table = gene_table(settings.genes)
        self._fresh = np.random.default_rng([settings.seed, 1])  # the algorithm's own is [seed]
        self._asked: set[bytes] = set()
        self._infills = Population.empty()
        self._ladder = FailureScale(settings.objectives)
        new = OnlyNew(self._asked)
        mating = Mating(
            TournamentSelection(func_comp=tournament),
            *operators(self._table, settings),
            eliminate_duplicates=new,
            n_max_iterations=ROUNDS,
        )
        self._algorithm = algorithm(
            pop_size=settings.population,
            sampling=self._filled(settings.seeds),
            mating=mating,
            eliminate_duplicates=new,
            seed=settings.seed,
        )
        problem = Problem(
            n_var=len(settings.genes),
            n_obj=settings.objectives,
            xl=self._table.low,
            xu=self._table.high,
        )
        self._algorithm.setup(problem, termination=NoTermination())

    def ask(self) -> Genomes:
        offspring = self._algorithm.ask()  # None where mating found nothing new
        found = [] if offspring is None else [individual.X for individual in offspring]
        rows = self._filled(np.array(found).reshape(len(found), len(self._settings.genes)))
        self._asked.update(row.tobytes() for row in rows)
        self._infills = Population.new("X", rows) if len(rows) else Population.empty()
        return rows.copy()

    def tell(self, values: Sequence[Values]) -> None:
        told = checked(values, len(self._infills), self._settings.objectives)
        infills, self._infills = self._infills, Population.empty()
        if self._ladder.grade(self._algorithm.pop, infills, told):
            with warnings.catch_warnings():  # NSGA-III's survival silences the whole process
                self._algorithm.tell(infills=infills)

    def _filled(self, rows: Genomes) -> Float[np.ndarray, "population genes"]:
        """The same rows, and new random ones up to a population of genomes never asked for."""
        size = self._settings.population
        found = {row.tobytes(): row for row in rows}
        for _ in range(ROUNDS):
            for row in sampled(self._table, size - len(found), self._fresh):
                if row.tobytes() not in self._asked:
                    found.setdefault(row.tobytes(), row)
        if len(found) < size and grid_size(self._settings.genes) is not None:
            # Sampling misses so often only when most genomes were asked for: the walk is short.
            for row in map(np.array, lexicographic(self._settings.genes)):
                if len(found) == size:
                    break
                if row.tobytes() not in self._asked:
                    found.setdefault(row.tobytes(), row)
        return np.array(list(found.values())).reshape(len(found), len(self._settings.genes))


class OnlyNew(DuplicateElimination):
    """Drops what was asked for before, in any generation, and doubles among the rest."""

    def __init__(self, asked: set[bytes]) -> None:
        super().__init__()
        self.asked = asked

    def _do(self, pop: Any, other: Any, is_duplicate: Any) -> Any:
        near = set() if other is None else {individual.X.tobytes() for individual in other}
        for index, individual in enumerate(pop):
            key = individual.X.tobytes()
            is_duplicate[index] = key in self.asked or key in near
            if other is None:
                near.add(key)
        return is_duplicate


class FailureScale:
    """Puts what was told on a scale around one, with failures on the rungs above all real values.

    Objectives become (value - best) / (median - best), best and median taken once, over the first
    generation with a real value, because NSGA-III's normalisation has absolute tolerances (1e-3,
    1e-6). The median and not the worst: a perplexity is 1e6 now and then.

    A failure is worse in every objective than every real value told so far, and an earlier failure
    better than a later one. Failures that still live are moved up as worse real values come in.
    """

    LARGEST = 1e100  # where scaled values end, for their squares have to stay finite

    def __init__(self, objectives: int) -> None:
        self._best: np.ndarray | None = None
        self._unit = np.ones(objectives)
        self._worst = np.zeros(objectives)
        self._failures = 0

    def grade(self, survivors: Any, infills: Any, values: Sequence[Values]) -> bool:
        """Give every individual its objectives; False where nothing real was ever told."""
        real = np.array([value for value in values if value is not None], dtype=np.float64)
        real = np.clip(real.reshape(-1, len(self._unit)), -self.LARGEST, self.LARGEST)
        if len(real) and self._best is None:
            self._best, self._unit = real.min(axis=0), unit_of(real)
        if self._best is None or not len(infills):
            return False
        scaled = iter(np.clip((real - self._best) / self._unit, -self.LARGEST, self.LARGEST))
        for individual, value in zip(infills, values, strict=True):
            individual.evaluated.update({"F", "G", "H"})
            if value is None:
                self._failures += 1
                individual.set("failure", self._failures)
            else:
                individual.F = next(scaled)
                self._worst = np.maximum(self._worst, individual.F)
        failed = [one for one in (*survivors, *infills) if "failure" in one.data]
        step = np.maximum(self._worst, 1.0)
        for rung, one in enumerate(sorted(failed, key=lambda one: one.data["failure"]), start=1):
            one.F = self._worst + rung * step
        return True


def unit_of(values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " k"]:
    """Median minus best; the whole range where the median is the best; the size where all agree."""
    best = values.min(axis=0)
    size = np.where(best == 0.0, 1.0, np.abs(best))
    unit = np.median(values, axis=0) - best
    for wider in (values.max(axis=0) - best, size):
        unit = np.where(unit > 1e-9 * np.abs(best), unit, wider)
    return np.maximum(unit, 1e-100)
