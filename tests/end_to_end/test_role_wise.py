"""A role-wise space through the whole line: searched, exported, pruned, verified and shown."""

import json
import re
from pathlib import Path

import pytest
import yaml
from small_experiment import EMBEDDED
from tiny_folders import tiny_folder
from typer.testing import CliRunner

from optishear.cli import app
from optishear.cli.wording import how_text
from optishear.config import load_experiment
from optishear.export.place import RECIPE_FILE
from optishear.models.load import load
from optishear.models.weights import read
from optishear.recipe.recipe import Recipe
from optishear.records.journal import read_journal, recipe_of
from optishear.report.evaluations import evaluations_table
from optishear.report.varying import varying
from optishear.runs.search import search
from optishear.runs.watcher import Silent


DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder("llama", tmp_path_factory.mktemp("models") / "tiny", shards="5GB")


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    [space] = re.findall(r"```yaml\n(.*?)```", (DOCS / "extending.md").read_text(), re.DOTALL)
    experiment = {
        **EMBEDDED,
        "model": str(model),
        "space": yaml.safe_load(space),
        "search": {"driver": "random", "population": 4, "evaluations": 8},
        "objectives": ["kl"],
        "baselines": ["wanda"],
    }
    folder = tmp_path_factory.mktemp("runs")
    file = folder / "by_role.yaml"
    file.write_text(yaml.safe_dump(experiment, sort_keys=False))
    return search(load_experiment(str(file)), folder / "runs", Silent())


def ask(*words):
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


def test_every_recipe_is_exact_and_resumes_under_its_key(run):
    header, entries, _ = read_journal(run.directory.journal)
    layout = run.front.layout
    recipes = [recipe_of(entry, header["layers"]) for entry in entries]
    assert [recipe.key for recipe in recipes] == [entry["key"] for entry in entries]
    for recipe in recipes[:8]:
        assert sum(recipe.drop.values()) == round(0.5 * layout.total)
        for layer in layout.layers:
            assert recipe.at(layer).pattern.text == ("n:4" if "mlp" in layer.role else "row")
    solvers = {r.at(x).solver.name for r in recipes for x in layout.layers if "mlp" not in x.role}
    assert solvers == {"mask", "refit"}


def test_it_is_exported_pruned_and_verified(run, model, tmp_path):
    place, to, pruned = str(run.directory.path), tmp_path / "out", str(tmp_path / "pruned")
    ask("export", place, "--to", str(to))
    file = to / "recipe.json"
    assert json.loads(file.read_text())["format"] == "optishear-recipe/2"
    ask("prune", "--model", str(model), "--recipe", str(file), "--to", pruned)
    told = ask("verify", pruned, "--against", str(model))
    assert "FAILED" not in told
    recipe, weights = Recipe.read(file), load(pruned).model
    for layer in run.front.layout.layers:
        zeros, drop = read(weights, layer) == 0, recipe.drop[layer.name]
        assert int(zeros.sum()) >= drop
        if "mlp" in layer.role:
            groups = zeros.view(layer.out_features, -1, 4).sum(2)
            assert groups.min() == drop * 4 // layer.size
        else:
            assert zeros.sum(1).max() - zeros.sum(1).min() <= 1


def test_reports_have_a_column_for_what_varies_in_some_roles(run):
    columns = varying(evaluations_table(run.directory)).columns
    assert any(name.startswith("metric: delta, ") for name in columns)
    assert any(name.startswith("solver, ") for name in columns)
    assert "pattern" not in columns


def test_the_page_and_the_front_say_what_roles_have(run, tmp_path):
    place, page = str(run.directory.path), tmp_path / "page.html"
    ask("report", place, "--to", str(page))
    text = page.read_text()
    assert "By role" in text
    assert "mlp.*: metric power, pattern n:4" in text
    for varied in ("N of 4 by layer of mlp.*", "metric of mlp.*", "solver of self_attn.*"):
        assert varied in text
    assert re.search(r"; (mlp|self_attn)\..*: ", how_text(run.front.pick().recipe))


def test_a_named_method_takes_parts_by_role(model, tmp_path):
    roles = '{"mlp.*": {"pattern": "2:4"}, "self_attn.o_proj": {"solver": {"name": "sparsegpt"}}}'
    words = ("prune", "--model", str(model), "--method", "wanda", "--sparsity", "0.4")
    pruned = str(tmp_path / "pruned")
    text = ("--sequences", "3", "--seq-len", "32")
    ask(*words, "--text", "embedded", *text, "--roles", roles, "--to", pruned)
    recipe = Recipe.read(Path(pruned) / RECIPE_FILE)
    said = {match: (parts.pattern.text, parts.solver.name) for match, parts in recipe.roles}
    assert said == {"mlp.*": ("n:4", "mask"), "self_attn.o_proj": ("row", "sparsegpt")}
    assert "FAILED" not in ask("verify", pruned, "--against", str(model))
