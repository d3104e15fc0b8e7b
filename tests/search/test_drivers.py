"""What every driver promises, and what each kind of driver adds."""

import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optishear.errors import ConfigError
from optishear.search.curves import GeneCurve
from optishear.search.driver import DriverSettings, SlopeDriver
from optishear.search.drivers import DRIVERS, check_budget, check_variation, make_driver
from optishear.search.evopress_driver import EvoPressDriver
from optishear.search.exhaustive_driver import grid_size
from optishear.search.front import hypervolume, non_dominated
from optishear.search.genes import Choice, Integer, Real, cleaned
from optishear.search.pymoo_driver import FailureScale, reference_directions, unit_of


MIXED = (
    Choice("metric", ("a", "b", "c")),
    Integer("power", -1, 8),
    Choice("pattern", (True, "x")),
    *(Real(f"ratio{i}", 0.2, 1.2) for i in range(5)),
)
EXCHANGING = (0, 0, 0, 70, 70, 70, 70, 70)  # of MIXED: weights of each gene, 0 for no ratio
COUNTABLE = (
    Choice("metric", tuple("abc")),
    Integer("n", 2, 8),
    Choice("p", (1, 2)),
    Real("r", 5.0, 5.0),
)
STEPS = np.arange(65)
RATIO = GeneCurve(0.2 + STEPS / 64, STEPS, 1e-3 * 1.1**STEPS)
CURVES = (None, None, None, *[RATIO] * 5)  # of MIXED: what each gene costs alone
BUDGETED = {
    "knapsack": {"curves": CURVES, "budget": 160},  # half of what all five can drop
    "gradient": {"gene_sizes": EXCHANGING},
}
OWN_FIRST = {"knapsack": 1}  # genomes asked before the initial ones: the answer to the budget
EVOLUTION = ["nsga2", "nsga3", "optuna-nsga2", "optuna-nsga3"]


def genes_for(name):
    return COUNTABLE if name == "exhaustive" else MIXED


def objectives_of(name):
    return DRIVERS[name].most_objectives or 2 if name in DRIVERS else 2


def settings_for(name, **changes):
    plain = DriverSettings(genes_for(name), objectives_of(name), population=12, seed=3)
    if name == "evopress":
        plain = replace(plain, exchangeable=EXCHANGING)
    return replace(plain, **BUDGETED.get(name, {}) | changes)


def problem(row):
    """DTLZ2 with two objectives, made worse by the wrong categories and integer."""
    share = (row[3] - 0.2) if len(row) > 4 else row[1] / 10
    rest = ((row[4:] - 0.7) ** 2).sum() + 0.5 * (row[0] != 2) + 0.3 * (row[2] != 0)
    rest += 0.1 * abs(row[1] - 6)
    return ((1 + rest) * np.cos(share * np.pi / 2), (1 + rest) * np.sin(share * np.pi / 2))


def one_objective(row):
    return (sum(problem(row)),)


def problem_for(name):
    return one_objective if objectives_of(name) == 1 else problem


def slopes(measure, row):
    """Of the sum of what is measured, by each gene."""
    ahead = [sum(measure(row + step)) for step in 1e-6 * np.eye(len(row))]
    with np.errstate(over="ignore"):
        return np.clip((np.array(ahead) - sum(measure(row))) / 1e-6, -1e300, 1e300)


def searched(driver, evaluations, fails=lambda count: False, measure=None, smooth=None):
    """All genomes asked for and all values told, in order; with slopes of `smooth`, or the same."""
    rows, values = [], []
    measure = measure or (one_objective if isinstance(driver, EvoPressDriver) else problem)
    while len(rows) < evaluations:
        asked = driver.ask()
        if not len(asked):
            break
        told = [None if fails(len(rows) + i) else measure(row) for i, row in enumerate(asked)]
        if isinstance(driver, SlopeDriver):
            driver.tell_slopes(
                [value and slopes(smooth or measure, row) for value, row in zip(told, asked)]
            )
        driver.tell(told)
        rows.extend(asked)
        values.extend(told)
    return np.array(rows), values


def volume_of(values):
    return hypervolume(np.array([v for v in values if v is not None]), np.array([2.0, 2.0]))


@pytest.mark.parametrize("name", sorted(DRIVERS))
class TestEveryDriver:
    def test_asks_are_legal_genomes(self, name):
        rows, _ = searched(make_driver(name, settings_for(name)), 42)
        assert len(rows) == 42 if name == "exhaustive" else len(rows) >= 42
        genes = genes_for(name)
        assert all(np.array_equal(cleaned(genes, row), row) for row in rows)
        assert set(rows[:, 0]) <= {0.0, 1.0, 2.0}
        assert set(rows[:, 2]) <= {0.0, 1.0}
        assert np.array_equal(rows[:, 1], np.rint(rows[:, 1]))

    def test_the_initial_genomes_open_the_first_population(self, name):
        genes = genes_for(name)
        lows = np.array([gene.low for gene in genes], dtype=float)
        highs = np.array([gene.high for gene in genes], dtype=float)
        asked = make_driver(name, settings_for(name, initial=np.stack([highs, lows, highs]))).ask()
        assert asked.shape == (12, len(genes))
        own = OWN_FIRST.get(name, 0)
        assert np.array_equal(asked[own : own + 2], [highs, lows])
        assert len(np.unique(asked, axis=0)) == 12

    def test_more_initial_genomes_than_fit_are_cut(self, name):
        other = make_driver(name, settings_for(name, seed=8, population=14)).ask()
        asked = make_driver(name, settings_for(name, initial=other)).ask()
        assert np.array_equal(asked, other[:12])

    def test_initial_genomes_are_brought_onto_the_grid(self, name):
        wild = np.full((1, len(genes_for(name))), 1e9)
        asked = make_driver(name, settings_for(name, initial=wild)).ask()
        first = asked[OWN_FIRST.get(name, 0)]
        assert np.array_equal(first, [gene.high for gene in genes_for(name)])

    def test_one_seed_is_one_sequence_bit_for_bit(self, name):
        def fails(count):
            return count % 4 == 1

        runs = [searched(make_driver(name, settings_for(name)), 60, fails)[0] for _ in range(2)]
        assert runs[0].tobytes() == runs[1].tobytes()

    def test_a_search_resumes_by_replay(self, name):
        rows, values = searched(make_driver(name, settings_for(name)), 40)
        known = {row.tobytes(): value for row, value in zip(rows[:25], values[:25])}
        paid = []

        def answered(row):
            if row.tobytes() not in known:
                paid.append(row)
            return known.setdefault(row.tobytes(), problem_for(name)(row))

        smooth = problem_for(name)
        again, _ = searched(
            make_driver(name, settings_for(name)), 40, measure=answered, smooth=smooth
        )
        assert again.tobytes() == rows.tobytes()
        assert len(paid) == len({row.tobytes() for row in rows} - {r.tobytes() for r in rows[:25]})

    def test_another_seed_is_another_sequence_where_the_seed_is_a_setting(self, name):
        one = make_driver(name, settings_for(name, seed=0)).ask()
        same = np.array_equal(one, make_driver(name, settings_for(name, seed=1)).ask())
        assert same != ("seed" in DRIVERS[name].settings)

    def test_a_quarter_of_failures_leaves_a_comparable_front(self, name):
        sizes = []
        for fails in (lambda count: False, lambda count: count % 4 == 1):
            _, values = searched(make_driver(name, settings_for(name)), 72, fails)
            real = np.array([value for value in values if value is not None])
            sizes.append(len(non_dominated(real)))
        assert sizes[1] >= max(min(2, sizes[0]), 0.4 * sizes[0])

    def test_a_search_survives_that_everything_fails_at_first(self, name):
        driver = make_driver(name, settings_for(name))
        rows, values = searched(driver, 42, lambda count: count < 30)
        assert len(rows) >= 42
        assert any(value is not None for value in values)

    def test_nothing_global_is_read_or_changed(self, name):
        warned = list(warnings.filters)
        optuna.logging.set_verbosity(optuna.logging.INFO)  # its default
        np.random.seed(1)
        state = np.random.get_state()[1].copy()
        first, _ = searched(make_driver(name, settings_for(name)), 40)
        assert np.array_equal(np.random.get_state()[1], state)
        assert list(warnings.filters) == warned
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
        with pytest.warns(UserWarning, match="still shown"):
            warnings.warn("still shown", UserWarning, stacklevel=1)
        np.random.seed(2)
        second, _ = searched(make_driver(name, settings_for(name)), 40)
        assert first.tobytes() == second.tobytes()

    def test_nothing_is_printed_or_logged(self, name, capfd, caplog):
        optuna.logging.enable_propagation()
        try:
            searched(make_driver(name, settings_for(name)), 30, lambda count: count % 4 == 1)
        finally:
            optuna.logging.disable_propagation()
        assert capfd.readouterr() == ("", "")
        assert not caplog.records

    @pytest.mark.parametrize("objectives", [1, 3])
    def test_it_works_with_any_number_of_objectives(self, name, objectives):
        if objectives > (DRIVERS[name].most_objectives or objectives):
            with pytest.raises(ConfigError, match=f"has {objectives} objectives, but {name} takes"):
                make_driver(name, settings_for(name, objectives=objectives))
            return

        def measure(row):
            return (*problem(row), float(row.sum()))[:objectives]

        driver = make_driver(name, settings_for(name, objectives=objectives))
        rows, _ = searched(driver, 42, measure=measure)
        assert len(rows) >= 42

    def test_a_countable_space_is_asked_for_to_its_end_and_no_further(self, name):
        if name in ("optuna-nsga2", "optuna-nsga3", "tpe"):
            pytest.skip("these may circle for ever around what they have found")
        if name == "evopress":
            pytest.skip("it keeps the total of every group")
        if name == "knapsack":
            pytest.skip("it asks for answers to its curves only")
        if name == "gradient":
            pytest.skip("it goes where slopes lead")
        rows, _ = searched(make_driver(name, settings_for(name, genes=COUNTABLE)), 3000)
        assert len(np.unique(rows, axis=0)) == grid_size(COUNTABLE) == 42
        assert len(rows) < 3000

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda k: (np.nan,) + (1.0,) * (k - 1),
            lambda k: (np.inf,) + (1.0,) * (k - 1),
            lambda k: (1.0,) * (k - 1),
            lambda k: (1.0,) * (k + 1),
        ],
        ids=["nan", "inf", "short", "long"],
    )
    def test_values_that_do_not_fit_are_a_bug_and_refused(self, name, wrong):
        driver, bad = make_driver(name, settings_for(name)), wrong(objectives_of(name))
        asked = driver.ask()
        with pytest.raises(ValueError, match="finite numbers"):
            driver.tell([bad] * len(asked))
        with pytest.raises(ValueError, match="12 genomes were asked for but 11"):
            driver.tell([None] * 11)

    def test_extreme_values_do_not_stop_it(self, name):
        sizes = np.random.default_rng(0)

        def measure(row):
            huge = 10.0 ** sizes.integers(-300, 308, size=2)
            both = np.array(problem(row)) * huge * sizes.choice([-1, 1])
            return tuple(both[: objectives_of(name)].tolist())

        rows, _ = searched(make_driver(name, settings_for(name)), 42, measure=measure)
        assert len(rows) >= 42

    def test_curves_of_another_space_are_refused(self, name):
        with pytest.raises(ConfigError, match="curves for 2 genes but the search space has"):
            make_driver(name, settings_for(name, curves=(None, RATIO)))

    def test_it_needs_curves_or_does_without_as_its_entry_says(self, name):
        bare = settings_for(name, curves=None)
        if DRIVERS[name].curves:
            with pytest.raises(ConfigError, match="needs curves of what layers cost alone"):
                make_driver(name, bare)
        else:
            assert len(make_driver(name, bare).ask()) == 12

    def test_the_entry_says_what_it_is(self, name):
        assert DRIVERS[name].about
        assert DRIVERS[name].paper


class TestEvolution:
    @pytest.mark.parametrize("name", EVOLUTION)
    def test_it_beats_random_search(self, name):
        def median(driver):
            return np.median(
                [
                    volume_of(
                        searched(
                            make_driver(driver, settings_for(driver, seed=seed, population=20)), 240
                        )[1]
                    )
                    for seed in range(3)
                ]
            )

        assert median(name) > median("random") + 0.1

    @pytest.mark.parametrize("name", ["nsga2", "nsga3"])
    def test_no_genome_is_asked_for_twice(self, name):
        genes = (Choice("a", tuple(range(6))), Integer("b", 0, 5), Choice("c", tuple(range(4))))
        rows, _ = searched(make_driver(name, settings_for(name, genes=genes, population=2)), 399)
        assert len(rows) == len(np.unique(rows, axis=0)) == 6 * 6 * 4

    @pytest.mark.parametrize("name", ["nsga2", "nsga3"])
    def test_the_scale_of_the_objectives_does_not_matter(self, name):
        def scaled(row):
            one, two = problem(row)
            return (2.0**-20 * one, 2.0**30 * two)

        runs = [
            searched(make_driver(name, settings_for(name)), 72, measure=measure)[0]
            for measure in (problem, scaled)
        ]
        assert runs[0].tobytes() == runs[1].tobytes()

    @pytest.mark.parametrize("name", EVOLUTION)
    def test_generations_made_of_failures_alone_do_not_end_the_search(self, name):
        driver = make_driver(name, settings_for(name))
        rows, values = searched(driver, 200, lambda count: count < 40)
        assert len(rows) >= 200
        assert volume_of(values) > 1.5

    @pytest.mark.parametrize("name", ["optuna-nsga2", "optuna-nsga3"])
    def test_an_optuna_generation_is_completed_before_the_next(self, name):
        driver = make_driver(name, settings_for(name))
        asked = [len(driver.ask())]
        driver.tell([None, *[(1.0, 2.0)] * 8, None, None, (2.0, 1.0)])
        asked.append(len(driver.ask()))
        driver.tell([(3.0, 3.0), None, (0.5, 4.0)])
        asked.append(len(driver.ask()))
        driver.tell([(3.0, 3.0)])
        asked.append(len(driver.ask()))
        assert asked == [12, 3, 1, 12]

    @pytest.mark.parametrize("name", ["optuna-nsga2", "optuna-nsga3"])
    def test_an_optuna_generation_descends_from_the_successes_of_the_last(self, name):
        driver, asked = make_driver(name, settings_for(name)), []
        for fails in (6, 0, 0):
            asked.append(driver.ask())
            driver.tell([None] * fails + [problem(row) for row in asked[-1][fails:]])
        first, second, third = (rows[:, 3:] for rows in asked)
        assert not np.isin(second, first).any()  # still the first generation: random
        assert np.isin(third, [*first[6:], *second]).mean() > 0.6
        assert not np.isin(third, first[:6]).any()

    @settings(deadline=None, max_examples=40)
    @given(st.integers(1, 6), st.integers(6, 120))
    def test_reference_directions_follow_the_population(self, objectives, population):
        directions = reference_directions(objectives, population)
        assert len(directions) <= population
        assert np.allclose(directions.sum(axis=1), 1)
        for corner in np.eye(objectives):
            assert (directions == corner).all(axis=1).any()
        if objectives == 3:
            assert len(directions) == max(
                n
                for n in (3, 6, 10, 15, 21, 28, 36, 45, 55, 66, 78, 91, 105, 120)
                if n <= population
            )


class TestVariation:
    BLOCKS = (0, 0, 0, 0, 1, 2, 3, 4)  # of MIXED
    SIZES = (0, 0, 0, 7, 7, 9, 9, 9)

    @pytest.mark.parametrize("name", ["nsga2", "nsga3"])
    def test_knowing_the_blocks_changes_nothing_while_variation_is_free(self, name):
        known = settings_for(name, gene_blocks=self.BLOCKS, gene_sizes=self.SIZES)
        runs = [searched(make_driver(name, s), 60)[0] for s in (settings_for(name), known)]
        assert runs[0].tobytes() == runs[1].tobytes()

    @pytest.mark.parametrize("sizes", [None, SIZES])
    @pytest.mark.parametrize("name", ["nsga2", "nsga3"])
    def test_prefix_children_open_as_an_earlier_genome_did(self, name, sizes):
        prefix = settings_for(
            name, variation="prefix", gene_blocks=self.BLOCKS, gene_sizes=sizes, population=20
        )
        runs = [searched(make_driver(name, prefix), 400)[0] for _ in range(2)]
        assert runs[0].tobytes() == runs[1].tobytes()
        rows = runs[0]
        assert all(np.array_equal(cleaned(MIXED, row), row) for row in rows)
        assert len(np.unique(rows, axis=0)) == len(rows)
        kept = [
            max(int((row != old).argmax()) for old in rows[: 20 * (i // 20)])
            for i, row in enumerate(rows)
            if i >= 20
        ]
        assert np.mean([count >= 4 for count in kept]) > 0.8  # block 0 and what is global

    def test_prefix_variation_beats_random_search(self):
        prefix = {"variation": "prefix", "gene_blocks": self.BLOCKS, "population": 20}

        def median(name, **changes):
            runs = (settings_for(name, seed=seed, **changes) for seed in range(3))
            return np.median([volume_of(searched(make_driver(name, s), 240)[1]) for s in runs])

        assert median("nsga2", **prefix) > median("random", population=20) + 0.1

    def test_a_driver_without_it_says_who_has_it(self):
        with pytest.raises(ConfigError, match=r"tpe has no variation 'prefix'.*: nsga2, nsga3\."):
            make_driver("tpe", settings_for("tpe", variation="prefix", gene_blocks=self.BLOCKS))
        with pytest.raises(ConfigError, match="needs to know which block"):
            make_driver("nsga2", settings_for("nsga2", variation="prefix"))
        check_variation("nsga3", "prefix")
        check_variation("nsga3", "guided")
        check_variation("tpe", "free")

    @pytest.mark.parametrize("name", ["nsga2", "nsga3"])
    def test_guided_children_are_others_than_free_ones_and_as_legal(self, name):
        guided = settings_for(name, variation="guided", curves=CURVES)
        runs = [searched(make_driver(name, guided), 60)[0] for _ in range(2)]
        assert runs[0].tobytes() == runs[1].tobytes()
        assert all(np.array_equal(cleaned(MIXED, row), row) for row in runs[0])
        free, _ = searched(make_driver(name, settings_for(name, curves=CURVES)), 60)
        assert np.array_equal(runs[0][:12], free[:12])
        assert not np.array_equal(runs[0], free)

    @pytest.mark.parametrize("curves", [None, (None,) * len(MIXED)])
    def test_guided_variation_without_curves_is_refused(self, curves):
        with pytest.raises(ConfigError, match=r"'guided' needs curves .* the variation 'free'\."):
            make_driver("nsga2", settings_for("nsga2", variation="guided", curves=curves))
        with pytest.raises(ConfigError, match=r"tpe has no variation 'guided'.*: nsga2, nsga3\."):
            make_driver("tpe", settings_for("tpe", variation="guided", curves=CURVES))


class Stub:
    """As much of a pymoo individual as grading touches."""

    def __init__(self):
        self.data, self.evaluated, self.F = {}, set(), None

    def set(self, key, value):
        self.data[key] = value


class TestLadder:
    values = st.none() | st.tuples(*[st.floats(-1e308, 1e308)] * 2)

    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.lists(values, min_size=1, max_size=8), min_size=1, max_size=5))
    def test_failures_are_finite_in_order_and_worse_than_every_real_value(self, generations):
        ladder, alive = FailureScale(2), []
        for told in generations:
            infills = [Stub() for _ in told]
            if not ladder.grade(alive, infills, told):
                assert all(value is None for value in told)
                continue
            alive += infills
            graded = np.array([one.F for one in alive])
            failed = np.array(["failure" in one.data for one in alive])
            assert np.isfinite(graded).all()
            assert (np.diff(graded[failed], axis=0) > 0).all()
            if failed.any() and not failed.all():
                assert (graded[failed].min(axis=0) > graded[~failed].max(axis=0)).all()

    def test_the_scale_is_fixed_by_the_first_real_generation(self):
        ladder = FailureScale(2)
        first, later = [Stub() for _ in range(3)], [Stub()]
        ladder.grade([], first, [(10.0, -3.0), (30.0, 5.0), (1e6, -1.0)])
        ladder.grade(first, later, [(50.0, -7.0)])
        assert [tuple(one.F) for one in first] == [(0, 0), (1, 4), (49999.5, 1)]
        assert tuple(later[0].F) == (2, -2)

    def test_a_generation_without_a_spread_still_has_a_unit(self):
        same = np.array([[5.0, 0.0, -8.0], [5.0, 0.0, -8.0]])
        assert unit_of(same).tolist() == [5.0, 1.0, 8.0]
        assert unit_of(np.array([[1.0], [1.0], [1.0], [4.0]])).tolist() == [3.0]


class TestExhaustive:
    def test_it_goes_through_the_product_in_order_after_the_initial_genomes(self):
        genes = (Choice("a", ("x", "y")), Integer("b", -1, 1))
        start = np.array([[1.0, 0.0]])
        driver = make_driver("exhaustive", DriverSettings(genes, 1, 4, initial=start))
        batches = [driver.ask() for _ in range(3)]
        assert [batch.tolist() for batch in batches] == [
            [[1, 0], [0, -1], [0, 0], [0, 1]],
            [[1, -1], [1, 1]],
            [],
        ]
        assert batches[2].shape == (0, 2)

    def test_a_real_gene_is_refused_by_name(self):
        with pytest.raises(ConfigError, match="cannot enumerate the real gene 'ratio0'"):
            make_driver("exhaustive", DriverSettings(MIXED, 2, 12))

    def test_a_huge_product_is_refused_with_its_size(self):
        genes = tuple(Choice(str(i), tuple(range(10))) for i in range(7))
        with pytest.raises(
            ConfigError, match="10,000,000 genomes; the most it accepts is 1,000,000"
        ):
            make_driver("exhaustive", DriverSettings(genes, 2, 12))
        assert len(make_driver("exhaustive", DriverSettings(genes[:6], 2, 12)).ask()) == 12


class TestTpe:
    def test_after_the_first_population_it_asks_one_by_one_or_as_told(self):
        for batch, expected in ((None, [12, 1, 1]), (5, [12, 5, 5])):
            driver, sizes = make_driver("tpe", settings_for("tpe", batch=batch)), []
            for _ in range(3):
                asked = driver.ask()
                sizes.append(len(asked))
                driver.tell([problem(row) for row in asked])
            assert sizes == expected


class TestTheTable:
    def test_a_wrong_name_is_answered_with_a_near_one(self):
        with pytest.raises(ConfigError, match=r"No driver is called 'nsga4'. Did you mean 'nsga"):
            make_driver("nsga4", settings_for("nsga3"))

    def test_a_population_too_small_is_refused_with_the_minimum(self):
        with pytest.raises(ConfigError, match="for nsga3 with 5 objectives: it needs at least 5"):
            make_driver("nsga3", settings_for("nsga3", objectives=5, population=4))
        with pytest.raises(ConfigError, match=r"population of 1 .* at least 2"):
            make_driver("nsga2", settings_for("nsga2", population=1))
        assert len(make_driver("nsga3", settings_for("n", objectives=5, population=5)).ask()) == 5

    def test_a_budget_below_one_population_is_refused_before_anything_is_loaded(self):
        with pytest.raises(ConfigError, match=r"budget of 49 evaluations is less than .* of 50"):
            check_budget("nsga3", population=50, evaluations=49, objectives=2)
        with pytest.raises(ConfigError, match="at least 3"):
            check_budget("nsga3", population=2, evaluations=49, objectives=3)
        with pytest.raises(ConfigError, match="at least one objective"):
            check_budget("nsga2", population=2, evaluations=49, objectives=0)
        check_budget("nsga3", population=50, evaluations=50, objectives=2)

    @pytest.mark.parametrize(
        ("genes", "sentence"),
        [
            ((), "nothing to search for"),
            ((Choice("m", ()),), "'m' has no options"),
            ((Integer("n", 3, 2),), "'n' runs from 3 to 2"),
            ((Real("x", 0.0, np.inf),), "'x' runs from 0.0 to inf"),
        ],
    )
    def test_genes_that_have_no_value_are_refused(self, genes, sentence):
        with pytest.raises(ConfigError, match=sentence):
            make_driver("random", DriverSettings(genes, 2, 12))

    def test_initial_genomes_of_another_space_are_refused(self):
        with pytest.raises(ConfigError, match="have 3 genes but the search space has 8"):
            make_driver("random", settings_for("random", initial=np.zeros((2, 3))))

    def test_reading_the_table_loads_no_engine(self):
        code = (
            "import sys, optishear.search.drivers, optishear.search.front, optishear.search.pick\n"
            "print([m for m in ('pymoo', 'optuna', 'torch', 'scipy') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.strip() == "[]", done.stderr
