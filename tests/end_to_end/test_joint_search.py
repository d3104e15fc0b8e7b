"""Metric, sparsities, solver and λ searched together on a small model, three objectives."""

import json
import shutil

import pytest
import yaml
from small_experiment import EMBEDDED
from tiny_folders import tiny_folder

from optishear.calibration.gradient_store import load_or_collect_gradients
from optishear.config import load_experiment
from optishear.export.profiles import write_profile
from optishear.models.load import load
from optishear.models.weights import read
from optishear.records.journal import read_journal, recipe_of
from optishear.runs.prepare import prepare
from optishear.runs.search import search
from optishear.runs.watcher import Silent
from optishear.tools.prune import pruned


JOINT = {
    **EMBEDDED,
    "space": "joint",
    "gradient_sequences": 2,
    "search": {"driver": "nsga3", "population": 8, "evaluations": 8},
    "baselines": ["wanda", "moonshot-sparsegpt"],
}


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "llama"
    return str(tiny_folder("llama", place, num_hidden_layers=4))


@pytest.fixture(scope="module")
def experiment(dense, tmp_path_factory):
    path = tmp_path_factory.mktemp("joint") / "mine.yaml"
    path.write_text(yaml.safe_dump({**JOINT, "model": dense}))
    return load_experiment(str(path))


@pytest.fixture(scope="module")
def run(experiment, tmp_path_factory):
    return search(experiment, tmp_path_factory.mktemp("runs"), Silent())


def test_every_candidate_has_three_objectives_and_the_exact_budget(run, experiment):
    _, entries, _ = read_journal(run.directory.journal)
    assert len(entries) >= 8
    assert not [entry["reason"] for entry in entries if entry["values"] is None]
    layers = list(run.front.layout.sizes)
    recipes = [recipe_of(entry, layers) for entry in entries]
    assert all(recipe.key == entry["key"] for recipe, entry in zip(recipes, entries))
    assert len({recipe.default.solver.name for recipe in recipes}) == 3
    assert any(recipe.mixed for recipe in recipes)
    budget = round(0.6 * run.front.layout.total)
    assert all(sum(recipe.drop.values()) == budget for recipe in recipes)
    assert set(run.front.objectives) == {"reconstruction", "kl", "taylor"}


def test_a_resumed_search_ends_with_the_same_bytes(run, experiment, tmp_path):
    folder = tmp_path / experiment.name / experiment.hash
    shutil.copytree(run.directory.path, folder)
    lines = run.directory.journal.read_bytes().splitlines(keepends=True)
    for name in ("front.json", "evaluation.json", "manifest.json"):
        (folder / name).unlink()
    (folder / "journal.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]))
    resumed = search(experiment, tmp_path, Silent())
    assert resumed.directory.path == folder
    assert resumed.manifest["measured_now"] == len(lines) - len(lines) // 2
    assert resumed.directory.front.read_bytes() == run.directory.front.read_bytes()


def test_the_taylor_objective_is_what_the_gradients_say(run, dense, experiment, tmp_path):
    """From the pruned weights and gradients collected apart, layer by layer."""
    best = run.front.entries[0]
    texts = experiment.text_specs
    prepared = prepare(dense, "float32", "cpu", texts["calibration"])
    model = load(dense).model
    store = load_or_collect_gradients(
        tmp_path / "apart", model, prepared.layout, prepared.calibration.tokens[:2]
    )
    total = 0.0
    with pruned(
        dense,
        best.recipe,
        texts["calibration"],
        sequential=False,
        gradient_sequences=experiment.gradient_sequences,
    ) as small:
        for layer in prepared.layout.layers:
            change = read(small.model, layer) - read(model, layer)
            total += store.layers[layer.name].taylor(change)
    assert total == pytest.approx(best.values["taylor"], rel=1e-4)


def test_the_comparison_has_the_found_recipe_in_both_modes(run):
    rows = {row["name"]: row for row in run.evaluation}
    once = ["wanda", "moonshot-sparsegpt", "found"]
    assert [*rows] == ["dense", *once, *(f"{name}, block by block" for name in once)]
    found, sequential = rows["found"], rows["found, block by block"]
    assert found["recipe"] == sequential["recipe"]
    [text] = found["texts"]
    assert found["texts"][text]["perplexity"] != sequential["texts"][text]["perplexity"]


def test_the_exported_profile_has_each_layer_s_lambda(run, tmp_path):
    _, entries, _ = read_journal(run.directory.journal)
    recipes = [recipe_of(entry, list(run.front.layout.sizes)) for entry in entries]
    mixed = next(recipe for recipe in recipes if recipe.mixed)
    write_profile(tmp_path / "profile.json", mixed, run.front.layout)
    rows = json.loads((tmp_path / "profile.json").read_text())
    lambdas = mixed.lambdas
    assert all(row["lambda"] == lambdas.get(row["layer"], 1.0) for row in rows)
