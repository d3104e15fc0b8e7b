"""The table of evaluations: one row a journal line, also while the run goes on."""

import math

import pytest
from layouts import small_layout

from optishear.recipe.recipe import Recipe
from optishear.records.journal import Journal
from optishear.records.run_directory import RunDirectory, write_json
from optishear.report.evaluations import evaluations_table, layout_of_run


LAYOUT = small_layout()


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path)
    write_json(directory.layout, LAYOUT.to_json())
    return directory


def fill(run, outcomes):
    with Journal(run.journal, {"of": "test"}, list(LAYOUT.sizes)) as journal:
        for index, (rung, values) in enumerate(outcomes):
            drop = {x.name: index for x in LAYOUT.layers}
            recipe = Recipe.of({"name": "power", "alpha": float(index)}, drop)
            reason = "" if values else "not finite"
            journal.append(recipe, rung, {"values": values, "reason": reason, "seconds": 0.5})


def test_a_row_has_the_values_the_rung_and_the_recipe(run):
    fill(run, [(64, {"kl": 2.0, "sparsity": 0.5}), (64, None), (128, {"kl": 1.0, "sparsity": 0.5})])
    table = evaluations_table(run)
    assert table.rung.tolist() == [64, 64, 128]
    assert table["value.kl"].tolist()[::2] == [2.0, 1.0]
    assert math.isnan(table["value.kl"][1])
    assert table.reason.tolist() == ["", "not finite", ""]
    assert table["metric.alpha"].tolist() == [0.0, 1.0, 2.0]
    assert table["sparsity.role.attn.q"].tolist() == [0.0, 1 / 48, 2 / 48]


def test_a_run_that_has_just_begun_is_an_empty_table(run):
    fill(run, [])
    assert evaluations_table(run).columns.tolist() == ["key", "rung", "seconds", "reason"]


def test_the_layout_of_older_runs_is_in_the_front(run):
    run.layout.unlink()
    write_json(run.front, {"layout": LAYOUT.to_json()})
    assert layout_of_run(run) == LAYOUT
