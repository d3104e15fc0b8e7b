"""The gradient driver goes down to the optimum on a budget, and goes on where something fails."""

import numpy as np
import pytest

from optishear.errors import ConfigError
from optishear.search.driver import DriverSettings
from optishear.search.genes import Choice, Integer, Real
from optishear.search.gradient_driver import GradientDriver


LOW, HIGH, START = 0.1, 0.95, 0.6


class Problem:
    """sum of n_j a_j exp(r_j x_j) over genes of n_j weights each, on the start's budget: what
    layers cost alone rises like this."""

    def __init__(self, seed, genes=8):
        rng = np.random.default_rng(seed)
        self.sizes = rng.integers(1, 9, genes) * 100
        self.scale, self.rate = rng.uniform(0.2, 5.0, genes), rng.uniform(1.0, 6.0, genes)
        self.start = np.full(genes, START)

    def value(self, x):
        return float((self.sizes * self.scale * np.exp(self.rate * x)).sum())

    def slopes(self, x):
        """As `gene_slopes` says them, with the budget taken out."""
        g = self.sizes * self.scale * self.rate * np.exp(self.rate * x)
        return g - self.sizes * g.sum() / self.sizes.sum()

    @property
    def least(self):
        """At the optimum every gene within its bounds has one slope by weight."""
        budget = self.sizes @ self.start

        def at(log):
            wanted = (log - np.log(self.scale * self.rate)) / self.rate
            return np.clip(wanted, LOW, HIGH)

        low, high = -50.0, 50.0
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if self.sizes @ at(middle) < budget else (low, middle)
        return self.value(at(low))

    def settings(self, genes=None, population=1, seed=0):
        made = genes or tuple(Real(f"g{i}", LOW, HIGH) for i in range(len(self.sizes)))
        sizes = tuple(self.sizes.tolist()) + (0,) * (len(made) - len(self.sizes))
        rest = [made[i].low for i in range(len(self.sizes), len(made))]
        start = np.array([*self.start, *rest])[None]
        return DriverSettings(made, 1, population, seed, start, gene_sizes=sizes)


def gone(driver, problem, steps, scale=1.0, fails=lambda row: False):
    """All genomes that it asks for in so many steps, as x, and which of them failed."""
    rows, failed = [], []
    for _ in range(steps):
        asked = driver.ask()
        if not len(asked):
            break
        for row in asked:
            rows.append(row)
            failed.append(fails(row))
        own = len(problem.sizes)
        told = [
            np.append(scale * problem.slopes(scale * row[:own]), 0 * row[own:]) for row in asked
        ]
        told = [None if fails(row) else slopes for row, slopes in zip(asked, told)]
        driver.tell_slopes(told)
        driver.tell([None if slopes is None else (1.0,) for slopes in told])
    return np.array(rows), np.array(failed)


def test_convex_problems_are_near_their_optima_in_thirty_steps_and_on_their_budgets():
    best, last = [], []
    for seed in range(40):
        problem = Problem(seed)
        rows, _ = gone(GradientDriver(problem.settings()), problem, 31)
        assert np.array_equal(rows[0], problem.start)
        assert rows @ problem.sizes == pytest.approx(problem.sizes @ problem.start)
        assert (rows >= LOW).all()
        assert (rows <= HIGH).all()
        values = [problem.value(row) for row in rows]
        gain = values[0] - problem.least
        best.append((min(values) - problem.least) / gain)
        last.append((values[-1] - problem.least) / gain)
    assert np.mean(best) <= 0.005
    assert np.max(best) <= 0.03
    assert np.mean(last) <= 0.006  # it comes to rest there


def test_the_scale_of_what_is_minimised_does_not_matter():
    problem = Problem(1)
    here, _ = gone(GradientDriver(problem.settings()), problem, 8)
    slopes = problem.slopes
    problem.slopes = lambda x: 1e-9 * slopes(x)
    there, _ = gone(GradientDriver(problem.settings()), problem, 8)
    assert there == pytest.approx(here, abs=1e-6)
    problem.slopes = lambda x: 1e300 * slopes(x)  # a square that no number holds
    assert np.isfinite(gone(GradientDriver(problem.settings()), problem, 8)[0]).all()


def test_whole_numbers_are_asked_for_and_the_path_between_them_is_kept():
    problem = Problem(2)
    genes = tuple(Integer(f"g{i}", 2, 19) for i in range(8))
    problem.start = np.full(8, 12.0)
    rows, _ = gone(GradientDriver(problem.settings(genes)), problem, 25, scale=1 / 20)
    assert np.array_equal(rows, np.rint(rows))
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert (
        np.abs(rows @ problem.sizes - problem.sizes @ problem.start).max()
        <= problem.sizes.sum() / 2
    )
    problem.start = rows[0] / 20
    values = [problem.value(row / 20) for row in rows]
    assert min(values) - problem.least <= 0.1 * (values[0] - problem.least)


def test_genes_without_slopes_stay_what_they_were():
    problem = Problem(3)
    extra = (Choice("solver", ("mask", "refit")), Real("alpha", 0.5, 2.0))
    genes = (*(Real(f"g{i}", LOW, HIGH) for i in range(8)), *extra)
    made = problem.settings(genes)
    made.initial[0, -2:] = 1.0, 1.25
    rows, _ = gone(GradientDriver(made), problem, 6)
    assert len(rows) == 6
    assert (rows[:, -2:] == (1.0, 1.25)).all()


def test_a_failure_is_gone_back_from_by_half_and_the_search_goes_on():
    problem = Problem(4)
    plain, _ = gone(GradientDriver(problem.settings()), problem, 3)
    wrong = plain[2]
    rows, failed = gone(
        GradientDriver(problem.settings()),
        problem,
        12,
        fails=lambda row: np.array_equal(row, wrong),
    )
    assert failed.tolist() == [False, False, True, *[False] * 9]
    assert rows[3] == pytest.approx((plain[1] + plain[2]) / 2)
    assert rows @ problem.sizes == pytest.approx(problem.sizes @ problem.start)
    assert problem.value(rows[-1]) < problem.value(rows[1])


def test_where_everything_fails_it_looks_around_the_start():
    problem = Problem(5)
    rows, failed = gone(GradientDriver(problem.settings()), problem, 10, fails=lambda row: True)
    assert failed.all()
    assert len(rows) == len(np.unique(rows, axis=0)) == 10
    assert np.abs(rows[1:] - START).max() < 0.5
    assert rows @ problem.sizes == pytest.approx(problem.sizes @ problem.start)


def test_half_the_way_back_to_what_was_asked_for_is_no_end():
    """Of whole numbers half a step back is often where the step began."""
    problem = Problem(6, genes=3)
    problem.start, problem.sizes = np.full(3, 2.0), np.full(3, 100)
    genes = tuple(Integer(f"g{i}", 1, 3) for i in range(3))
    seen = []

    def fails(row):
        seen.append(row)
        return not np.array_equal(row, problem.start)

    rows, failed = gone(GradientDriver(problem.settings(genes)), problem, 5, 1 / 4, fails)
    assert len(rows) == 5
    assert failed.tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("everything", [False, True], ids=["slopes", "failures"])
def test_it_ends_by_itself_and_stays_at_the_end(everything):
    problem = Problem(7, genes=2)
    problem.start, problem.sizes = np.full(2, 2.0), np.full(2, 100)
    genes = tuple(Integer(f"g{i}", 1, 3) for i in range(2))
    driver = GradientDriver(problem.settings(genes, population=2))
    rows, _ = gone(driver, problem, 100, 1 / 4, lambda row: everything)
    assert 1 <= len(rows) <= 9
    assert len(np.unique(rows, axis=0)) == len(rows)
    for _ in range(3):
        assert driver.ask().shape == (0, 2)
        driver.tell_slopes([])
        driver.tell([])


def test_the_population_is_so_many_paths_from_places_near_the_first():
    problem = Problem(8)
    driver = GradientDriver(problem.settings(population=4))
    first = driver.ask()
    assert first.shape == (4, 8)
    assert np.array_equal(first[0], problem.start)
    away = np.abs(first[1:] - START)
    assert (away.max(axis=1) > 0.01).all()
    assert away.max() < 0.5
    assert first @ problem.sizes == pytest.approx(problem.sizes @ problem.start)
    driver.tell_slopes([problem.slopes(row) for row in first[:3]] + [None])
    driver.tell([(1.0,)] * 3 + [None])
    assert driver.ask().shape == (4, 8)
    with pytest.raises(ValueError, match="4 genomes were asked for, 1 slopes told"):
        driver.tell_slopes([None])


def test_without_a_budget_it_is_refused():
    with pytest.raises(ConfigError, match="the least of it is the dense model"):
        GradientDriver(DriverSettings((Real("g", 0.0, 1.0),), 1, 1))


def test_without_any_slope_the_paths_end_and_no_others_begin():
    problem = Problem(9)
    problem.slopes = np.zeros_like
    driver = GradientDriver(problem.settings(population=2))
    assert len(gone(driver, problem, 100)[0]) == 2
    assert driver.ask().shape == (0, 8)
    driver.tell_slopes([])
    driver.tell([])
    assert driver.ask().shape == (0, 8)
