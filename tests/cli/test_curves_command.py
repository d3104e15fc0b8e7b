"""`optishear curves` as a user meets it: tables, figures, splits of budgets, sentences."""

import itertools
import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
from curved_run import RISE, STEPS, curved_run, curves_for, write_curves
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import llama_layout, small_layout
from mutations import mutated
from typer.testing import CliRunner

from optishear.calibration.origin import read_recipe
from optishear.cli import app
from optishear.errors import ConfigError
from optishear.objectives.size import Bytes
from optishear.pruning.result import PruneResult
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.profile import counts_within
from optishear.recipe.recipe import Recipe
from optishear.recipe.storage import Storage
from optishear.records.journal import Journal, memo_of
from optishear.records.run_directory import read_json, write_json
from optishear.report.additivity import additivity
from optishear.report.measured_curves import read_curves
from optishear.runs.allocated import splits_of
from optishear.search.budget_units import Budget
from optishear.search.space_file import SpaceSpec, build_space
from optishear.tools.pack import pack


LAYOUT = small_layout(blocks=2, scale=4)  # layers of 768 and 960 weights
GRID = {"by": "block", "low": 0.5, "high": 0.56}  # from 32 to 35 of 64


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A run for those who change nothing of it."""
    return curved_run(tmp_path_factory.mktemp("curved") / "curved" / "abc")


@pytest.fixture
def run(drawn, tmp_path):
    """One of their own for the others."""
    shutil.copytree(drawn.path, tmp_path / "curved" / "abc")
    return type(drawn)(tmp_path / "curved" / "abc")


@pytest.fixture
def undrawn(monkeypatch):
    """Most of the seconds of the command are figures."""
    monkeypatch.setattr("optishear.report.curve_figures.draw_curves", lambda run, found: [])


def invoke(*words, code=0):
    result = CliRunner().invoke(app, ["curves", *[str(word) for word in words]])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def asked(*words):
    return json.loads(invoke(*words, "--json").stdout)


class TestTables:
    def test_a_role_s_row_is_the_sum_over_its_layers(self, drawn):
        result = invoke(drawn.path)
        curves = curves_for(LAYOUT)
        for role in LAYOUT.roles:
            [line] = [line for line in result.stdout.splitlines() if line.strip().startswith(role)]
            own = [curves.points[layer.name] for layer in LAYOUT.layers if layer.role == role]
            sums = [sum(value for _, value in column) for column in zip(*own, strict=True)]
            assert line.split() == [role, "2", *(f"{value:.4g}" for value in sums)]
        assert "kl (nats/token)" in result.stdout
        assert "measured on 512 tokens of the search text, pruned by wanda" in result.stderr

    def test_a_row_a_layer(self, drawn):
        lines = invoke(drawn.path, "--layers").stdout.splitlines()
        curves = curves_for(LAYOUT)
        for name, points in curves.points.items():
            [line] = [line for line in lines if name in line]
            assert line.split()[1:] == [f"{value:.4g}" for _, value in points]

    def test_how_far_costs_add_up(self, drawn):
        said = invoke(drawn.path).stdout
        assert (
            "8 recipes of the search, on 4,096 tokens (8 more are pruned otherwise than the "
            "curves): rank correlation of the sum of curves and kl 1.00, measured / sum "
            f"{RISE:.2f} (median)."
        ) in said

    def test_the_same_in_json(self, drawn):
        found = asked(drawn.path)
        points = curves_for(LAYOUT).points
        assert found["curves"].keys() == points.keys()
        for name, told in found["curves"].items():
            assert [(one["dropped"], one["value"]) for one in told] == list(points[name])
        assert (found["objective"], found["unit"], found["tokens"]) == ("kl", "nats/token", 512)
        added = found["additivity"]
        assert (added["recipes"], added["others"], added["reason"]) == (8, 8, "")
        assert added["ratio"] == pytest.approx(RISE)
        assert all(
            one["measured"] == pytest.approx(RISE * one["predicted"]) for one in added["values"]
        )
        assert {path.rsplit("/", 1)[1] for path in found["files"]} == {
            f"{name}.{kind}" for name in ("curves", "additivity") for kind in ("png", "svg")
        }

    def test_failures_are_counted_and_leave_a_dash(self, run):
        run.curves.unlink()
        write_curves(run, LAYOUT, curves_for(LAYOUT), failing=1)
        result = invoke(run.path)
        assert "4 measurements failed" in result.stderr
        [line] = [x for x in result.stdout.splitlines() if x.strip().startswith("mlp.down")]
        assert line.split()[2:] == ["–"] * 4
        assert "1 layers have no curve yet, first blocks.1.mlp.down." in result.stdout


def brute(sparsity, budget):
    """The cheapest of all choices of the highest total within the budget."""
    spec = SpaceSpec.model_validate({"metric": {"name": "wanda"}, "sparsity": sparsity})
    layers, curves = build_space(spec, LAYOUT, {}).layers, curves_for(LAYOUT)
    options = []
    for layer in LAYOUT.layers:
        counts = counts_within(layer, layers.patterns, layers.bounds)
        grid = sparsity.get("steps", 64)
        options.append([count for count in counts if count * grid % layer.size == 0])
    assert {len(counts) for counts in options} == {4}
    found = [
        (sum(choice), -curves.total(dict(zip(LAYOUT.sizes, choice, strict=True))))
        for choice in itertools.product(*options)
    ]
    total, cost = max((total, cost) for total, cost in found if total <= budget * LAYOUT.total)
    return total, -cost


@pytest.mark.usefixtures("undrawn")
class TestBudgets:
    @pytest.mark.parametrize("share", [0.0, 0.25, 0.4167, 0.5, 0.75])
    def test_levels_are_split_as_trying_every_choice_says(self, drawn, share):
        [split] = asked(drawn.path, "--budget", share)["budgets"]
        total, cost = brute(STEPS, share)
        assert sum(split["drop"].values()) == total
        assert split["predicted"] == pytest.approx(cost, rel=1e-12)
        assert split["exact"]

    def test_without_levels_it_is_a_64th_of_each_layer(self, tmp_path):
        run = curved_run(tmp_path / "grid" / "abc", sparsity=GRID)
        for steps in (130, 137):  # of 256, that many in all
            total, cost = brute(GRID, steps / 256)
            [split] = asked(run.path, "--budget", total / LAYOUT.total)["budgets"]
            assert sum(split["drop"].values()) == total
            assert split["predicted"] == pytest.approx(cost, rel=1e-12)

    def test_layers_of_uneven_sizes_get_a_split_near_the_best(self, tmp_path):
        """No 64th of them is a whole number of weights, and hardly two totals are equal."""
        sizes = [(37, 23), (41, 29), (31, 43), (23, 53)]
        layers = [
            Layer(f"l{block}", block, "mlp.up", *size, f"l{block}")
            for block, size in enumerate(sizes)
        ]
        layout = ModelLayout(tuple(layers))
        wide = {"by": "layer", "low": 0.2, "high": 0.9}
        run = curved_run(tmp_path / "uneven" / "abc", layout, wide)
        curves = read_curves(run).curves
        every = [np.arange(-(-layer.size // 5), layer.size * 9 // 10 + 1) for layer in layers]
        costs = [
            np.array([curves.cost(layer.name, int(count)) for count in counts])
            for layer, counts in zip(layers, every, strict=True)
        ]
        for share in (0.3, 0.5, 0.7):
            budget = round(share * layout.total)
            least = max(  # Lagrange's bound: no split of the budget costs less
                sum((cost - price * counts).min() for cost, counts in zip(costs, every))
                + price * budget
                for price in np.geomspace(1e-8, 1e-3, 2000)
            )
            [split] = asked(run.path, "--budget", share)["budgets"]
            assert sum(split["drop"].values()) == budget
            assert least <= split["predicted"] < 1.005 * least

    def test_a_budget_is_met_to_the_weight_where_any_number_can_go(self, tmp_path):
        run = curved_run(tmp_path / "grid" / "abc", sparsity=GRID)
        [split] = asked(run.path, "--budget", 0.53)["budgets"]
        assert sum(split["drop"].values()) == round(0.53 * LAYOUT.total)

    def test_several_budgets_are_a_table_each_by_role_and_depth(self, tmp_path):
        run = curved_run(tmp_path / "deep" / "abc", llama_layout(blocks=7), {"by": "layer"}, 1)
        said = invoke(run.path, "--budget", "0.3,0.5").stdout
        assert said.count("were costs to add up") == 2
        for part in ("blocks 0-1", "blocks 2-3", "blocks 4-6", "50.00 %: kl"):
            assert part in said
        totals = [line.split() for line in said.splitlines() if line.strip().startswith("all ")]
        assert [line[-2] for line in totals] == ["30.00", "50.00"]

    def test_the_recipe_is_one_that_prune_takes_with_the_run_s_origin(self, run, tmp_path):
        to = tmp_path / "new" / "split.json"
        found = asked(run.path, "--budget", 0.5, "--to", to)
        recipe, origin = read_recipe(to)
        assert recipe == Recipe.of({"name": "wanda"}, found["budgets"][0]["drop"], "row")
        recipe.check(LAYOUT)
        assert (origin.model, origin.run) == ("embedded", "abc")
        assert str(to) in found["files"]

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (
                ["--budget", "half"],
                "--budget half: 'half' is neither a sparsity, such as 0.5 or 60%, nor a size",
            ),
            (["--budget", "60"], "Did you mean 0.6?"),
            (["--budget", "0.9"], "lies between 0 and 0.75"),
            (["--budget", "0.4,0.5", "--to", "x.json"], "for the split of one --budget"),
            (["--budget", "0.4", "--to", "x.csv"], "a file ending in .json"),
            (["--to", "x.json"], "for the split of one --budget"),
        ],
    )
    def test_what_cannot_be_split_is_a_sentence(self, drawn, tmp_path, monkeypatch, words, said):
        monkeypatch.chdir(tmp_path)
        result = invoke(drawn.path, *words, code=2)
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
        assert not list(tmp_path.iterdir())

    def test_a_recipe_of_a_budget_in_bytes_takes_what_the_objective_says_it_does(
        self, run, tmp_path
    ):
        to, storage = tmp_path / "split.json", Storage(1000, 4)
        write_json(run.front, {**read_json(run.front), "storage": asdict(storage)})
        found = asked(run.path, "--budget", "13 kB", "--to", to)
        [split] = found["budgets"]
        recipe, _ = read_recipe(to)
        kept = {name: size - recipe.drop[name] for name, size in LAYOUT.sizes.items()}
        size = Bytes().value(PruneResult(LAYOUT, kept, storage))
        assert split["reached"] == size <= split["bytes"] == 13_000
        assert split["drop"] == recipe.drop
        result = invoke(run.path, "--budget", "13kB,50%")
        assert "0.01 MB: kl" in result.stdout
        assert "50.00 %: kl" in result.stdout
        assert f"{size:,.0f} bytes of 13,000" in result.stderr
        said = invoke(run.path, "--budget", "5kB", code=2).stderr
        least = storage.bitmask(LAYOUT, {name: n // 4 for name, n in LAYOUT.sizes.items()})
        assert (
            f"--budget: 5000B: by the space's bounds and patterns the checkpoint takes {least}B"
            in said
        )
        assert said.count("\n") == 1

    def test_bytes_need_what_only_a_front_says(self, drawn, tmp_path):
        said = invoke(drawn.path, "--budget", "13kB", code=2).stderr
        assert "front.json: does not say what the checkpoint holds beside its layers" in said
        run = curved_run(tmp_path / "curved" / "abc", finished=False)
        said = invoke(run.path, "--budget", "13kB", code=2).stderr
        assert "front.json: is not there" in said

    def test_less_than_the_space_s_bounds_is_a_sentence(self, tmp_path):
        run = curved_run(tmp_path / "grid" / "abc", sparsity=GRID)
        assert "0.5 of all weights go at least" in invoke(run.path, "--budget", 0.4, code=2).stderr

    def test_a_recipe_of_a_run_that_has_not_finished_has_no_origin_yet(self, tmp_path):
        run = curved_run(tmp_path / "curved" / "abc", finished=False)
        assert "50.00 %: kl" in invoke(run.path, "--budget", 0.5).stdout
        said = invoke(run.path, "--budget", 0.5, "--to", tmp_path / "x.json", code=2).stderr
        assert "front.json: is not there" in said


@pytest.mark.usefixtures("undrawn")
class TestJournals:
    def test_a_run_without_curves_says_what_makes_them(self, run):
        run.curves.unlink()
        said = invoke(run.path, code=2).stderr
        assert "search.seeds: [methods, rules, knapsack]" in said
        assert "search.driver: knapsack" in said
        assert "search.variation: guided" in said

    def test_a_search_that_was_stopped_at_once_has_none_either(self, run):
        run.curves.write_bytes(run.curves.read_bytes().split(b"\n")[0] + b"\n")
        assert "has no curves of single layers" in invoke(run.path, code=2).stderr

    @pytest.mark.parametrize("content", [b"[]\n", b"{}\n", b"\xff\n", b'{"a": 1, "a": 2}\n'])
    def test_a_damaged_journal_is_one_sentence(self, run, content):
        run.curves.write_bytes(content)
        said = invoke(run.path, code=2).stderr
        assert str(run.curves) in said
        assert said.count("\n") == 1

    def test_a_journal_of_candidates_is_one_sentence(self, run):
        shutil.copyfile(run.journal, run.curves)
        assert "curves are of one quantity" in invoke(run.path, code=2).stderr

    @pytest.mark.parametrize(
        ("changes", "tokens", "metric", "said"),
        [
            ({"blocks.0.attn.q": 4, "blocks.1.attn.q": 4}, 512, "wanda", "drops weights of 2"),
            ({}, 512, "wanda", "drops weights of 0 layers"),
            ({"blocks.0.attn.q": 4}, 512, "ria", "differ in more than what a layer loses"),
            ({"blocks.0.attn.q": 4}, 1024, "wanda", "on several numbers of tokens"),
            ({"blocks.0.attn.q": 769}, 512, "wanda", "769 of 768 weights cannot be dropped"),
        ],
    )
    def test_what_is_no_point_of_a_curve_is_one_sentence(self, run, changes, tokens, metric, said):
        drop = {**dict.fromkeys(LAYOUT.sizes, 0), **changes}
        measure = {"model": "made up", "quantities": ["kl"]}
        outcome = {"values": {"kl": 1.0}, "reason": "", "seconds": 0.1}
        with Journal(run.curves, measure, list(LAYOUT.sizes)) as journal:
            journal.append(Recipe.of({"name": metric}, drop, "row"), tokens, outcome)
        found = invoke(run.path, code=2).stderr
        assert said in found
        assert "then measures them anew" in found
        assert found.count("\n") == 1

    def test_one_of_another_model_is_one_sentence(self, run):
        write_json(run.layout, small_layout(blocks=3, scale=4).to_json())
        assert "is of other layers than layout.json" in invoke(run.path, code=2).stderr

    def test_a_damaged_space_is_one_sentence(self, run):
        manifest = read_json(run.manifest)
        manifest["experiment"]["space"]["sparsity"] = {"by": "layers"}
        write_json(run.manifest, manifest)
        said = invoke(run.path, "--budget", 0.5, code=2).stderr
        assert "manifest.json: experiment.space" in said
        assert said.count("\n") == 1

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_whatever_is_changed_of_a_line_is_read_or_refused(self, drawn, data):
        before = drawn.curves.read_text()
        lines = before.splitlines()
        number = data.draw(st.sampled_from([0, 1, 7]))
        lines[number] = data.draw(mutated(json.loads(lines[number])))
        drawn.curves.write_text("\n".join(lines) + "\n")
        try:
            if (found := read_curves(drawn)) is not None:
                assert all(len(found.at_levels(layer)) == 4 for layer in LAYOUT.layers)
                additivity(drawn, found)
                splits_of(drawn, found, [Budget("sparsity", 0.5)])
        except ConfigError:
            pass
        finally:
            drawn.curves.write_text(before)

    def test_without_the_objective_among_the_evaluations_it_says_so(self, run):
        run.curves.unlink()
        write_curves(run, LAYOUT, curves_for(LAYOUT), quantity="reconstruction")
        said = invoke(run.path).stdout
        assert "no evaluation in journal.jsonl has a value of reconstruction" in said

    def test_without_recipes_of_the_curves_own_parts_it_says_so(self, run):
        run.curves.unlink()
        write_curves(run, LAYOUT, curves_for(LAYOUT), metric={"name": "magnitude"})
        said = invoke(run.path).stdout
        assert "none of 16 recipes on 4,096 tokens has metric, pattern and solver" in said


class TestPacked:
    def test_it_says_the_same_of_a_packed_run_and_draws_beside_it(self, run):
        before = asked(run.path, "--budget", 0.5)
        pack([run.path])
        after = asked(run.path, "--budget", 0.5)
        figures = run.path.parent / "abc.figures"
        assert {path.name for path in figures.iterdir()} == {
            path.rsplit("/", 1)[1] for path in before.pop("files")
        }
        assert all(path.startswith(str(figures)) for path in after.pop("files"))
        assert after == before

    def test_a_packed_run_s_curves_are_a_memo_of_other_searches(self, run):
        names, measure = list(LAYOUT.sizes), {"model": "made up", "quantities": ["kl"]}
        known = memo_of([run.curves], measure, names)
        pack([run.path])
        packed = run.path.parent / "abc.tar.xz" / "curves.jsonl"
        assert len(known) == 16
        assert memo_of([packed], measure, names) == known

    def test_a_run_with_damaged_curves_is_not_packed(self, run):
        run.curves.write_bytes(b"{}\n")
        result = CliRunner().invoke(app, ["pack", str(run.path)])
        assert result.exit_code == 2
        assert str(run.curves) in result.stderr
        assert run.journal.exists()


def test_a_point_lies_under_its_nearest_level_only(tmp_path):
    """Layers with fewer counts than others, and one that was measured elsewhere."""
    run = curved_run(tmp_path / "curved" / "abc")
    run.curves.unlink()
    points = dict(curves_for(LAYOUT).points)
    first, second = list(LAYOUT.sizes)[:2]
    points[first] = points[first][1:3]
    points[second] = ((9, 0.25), (10, 0.5))  # both are nearest to the lowest level
    write_curves(run, LAYOUT, type(curves_for(LAYOUT))(points))
    found = read_curves(run)
    rows = [found.at_levels(LAYOUT.by_name[name]) for name in (first, second)]
    assert rows[0] == [None, points[first][0][1], points[first][1][1], None]
    assert rows[1] == [0.5, None, None, None]
