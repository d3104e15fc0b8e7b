"""Drivers by Optuna's samplers: a genome is a trial, a failure a failed trial.

Importing this module imports optuna; `drivers` does so when such a driver is made. Uses only what
optuna 4.5 and 5 share.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import optuna
from jaxtyping import Float
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from optishear.search.driver import Driver, DriverSettings, Genomes, Values, checked
from optishear.search.exhaustive_driver import grid_size
from optishear.search.genes import Choice, Gene, Integer, Real


LARGEST = 1e30  # where values end, for TPE multiplies those of all objectives


def tpe(settings: DriverSettings) -> "OptunaDriver":
    """Random for one population, then model-based, `batch` genomes at a time (one)."""
    batch = settings.batch or 1
    with quiet():
        sampler = TPESampler(
            seed=settings.seed, n_startup_trials=settings.population, constant_liar=batch > 1
        )
    return OptunaDriver(settings, sampler, batch)


def optuna_nsga2(settings: DriverSettings) -> "OptunaDriver":
    """Optuna's defaults (uniform crossover with probability 0.9, mutation 1/n)."""
    with quiet():
        sampler = NSGAIISampler(population_size=settings.population, seed=settings.seed)
    return OptunaDriver(settings, sampler, generations=True)


def optuna_nsga3(settings: DriverSettings) -> "OptunaDriver":
    """Optuna's defaults, as OptiShear's authors ran it (they left the population at 50, too).

    Its reference directions are fixed at three partitions: four for two objectives, ten for three.
    """
    with quiet():
        sampler = NSGAIIISampler(population_size=settings.population, seed=settings.seed)
    return OptunaDriver(settings, sampler, generations=True)


def qmc(settings: DriverSettings) -> "OptunaDriver":
    """Scrambled Sobol points; unscrambled ones would be the same for every seed.

    Before optuna 5 the first population is plainly random and the points follow it.
    """
    with quiet():
        sampler = QMCSampler(seed=settings.seed, scramble=True, warn_independent_sampling=False)
    return OptunaDriver(settings, sampler, settings.batch or settings.population)


def random(settings: DriverSettings) -> "OptunaDriver":
    sampler = RandomSampler(seed=settings.seed)
    return OptunaDriver(settings, sampler, settings.batch or settings.population)


class OptunaDriver(Driver):
    """One Optuna study in memory, asked a population first and then `batch` genomes at a time.

    With `generations` an ask is what the current generation lacks of `population` successes:
    Optuna counts only those, so candidates that failed are replaced in a shorter ask. Samplers may
    ask for one genome again; a countable space is exhausted once each genome was asked for.
    """

    def __init__(
        self,
        settings: DriverSettings,
        sampler: BaseSampler,
        batch: int = 1,
        *,
        generations: bool = False,
    ) -> None:
        self._settings = settings
        self._space = {f"{i:04d}": distribution(gene) for i, gene in enumerate(settings.genes)}
        self._size = grid_size(settings.genes)
        self._asked: set[bytes] = set()
        self._trials: list[Trial] = []
        self._over: Callable[[], bool] = lambda: False
        self._batch = batch
        self._generations = generations
        self._lacking = self._next = settings.population
        with quiet():
            self._study = optuna.create_study(
                directions=[StudyDirection.MINIMIZE] * settings.objectives, sampler=sampler
            )
            for row in settings.seeds:
                self._study.enqueue_trial(dict(zip(self._space, codes_of(settings.genes, row))))

    def join(self, study: optuna.Study, over: Callable[[], bool]) -> None:
        """Asks a study that others ask, too, a genome at a time, until it is `over`.

        The sampler's random numbers start anew, or all processes would propose the same.
        """
        with quiet():
            study.sampler = self._study.sampler
            study.sampler.reseed_rng()
            if not study.get_trials(deepcopy=False):
                for row in self._settings.seeds:
                    study.enqueue_trial(
                        dict(zip(self._space, codes_of(self._settings.genes, row))),
                        skip_if_exists=True,
                    )
        self._study, self._over = study, over
        self._batch = self._next = 1
        self._generations = False

    def ask(self) -> Genomes:
        width = len(self._settings.genes)
        if self._over() or (self._size is not None and len(self._asked) >= self._size):
            return np.empty((0, width))
        with quiet():
            self._trials = [
                self._study.ask(fixed_distributions=self._space) for _ in range(self._next)
            ]
        found = [trial.params for trial in self._trials]
        rows = [[float(params[name]) for name in self._space] for params in found]
        genomes = np.array(rows).reshape(len(rows), width) + 0.0  # no -0.0: equal means equal bits
        self._asked.update(row.tobytes() for row in genomes)
        return genomes

    def tell(self, values: Sequence[Values]) -> None:
        told = checked(values, len(self._trials), self._settings.objectives)
        trials, self._trials = self._trials, []
        with quiet():
            for trial, value in zip(trials, told, strict=True):
                if value is None:
                    self._study.tell(trial, state=TrialState.FAIL)
                else:
                    self._study.tell(trial, np.clip(value, -LARGEST, LARGEST).tolist())
        self._next = self._batch
        if self._generations:
            self._lacking -= sum(value is not None for value in told)
            self._lacking = self._lacking or self._settings.population
            self._next = self._lacking


def codes_of(genes: Sequence[Gene], row: Float[np.ndarray, " genes"]) -> list[int | float]:
    """A genome as Optuna wants its parameters: whole numbers as int."""
    pairs = zip(genes, row.tolist(), strict=True)
    return [code if isinstance(gene, Real) else int(code) for gene, code in pairs]


def distribution(gene: Gene) -> BaseDistribution:
    """Categories by their index, because Optuna compares options by value (1 == True == 1.0)."""
    if isinstance(gene, Choice):
        return CategoricalDistribution(tuple(range(len(gene.options))))
    if isinstance(gene, Integer):
        return IntDistribution(gene.low, gene.high)
    return FloatDistribution(gene.low, gene.high)


@contextmanager
def quiet() -> Iterator[None]:
    """No news from Optuna inside (errors still are), and everything as it was afterwards."""
    level = optuna.logging.get_verbosity()
    try:
        optuna.logging.set_verbosity(max(level, optuna.logging.ERROR))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
