"""A search whose candidates are pruned block by block, as `optishear prune` does it."""

import json

import pytest
import yaml
from small_experiment import EMBEDDED
from tiny_folders import tiny_folder
from typer.testing import CliRunner

from optishear.calibration.origin import SEQUENTIAL
from optishear.cli import app
from optishear.config import load_experiment
from optishear.errors import ConfigError
from optishear.models.load import load
from optishear.recipe.reconstruction import ReconstructionSettings
from optishear.records.journal import read_journal, recipe_of
from optishear.records.run_directory import read_json
from optishear.runs.search import search
from optishear.runs.setup import set_up
from optishear.runs.watcher import Silent
from optishear.search.evaluator import one_by_one


SPACE = {
    "solver": {"name": "refit"},
    "sparsity": {"by": "uniform", "budget": 0.6},
    "target_shift": {"choice": [0, 0.5, 1]},
    "order": "site",
    "reconstruct": "block:epochs=1",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequential")
    model = tiny_folder("llama", folder / "tiny", shards="5GB")
    experiment = {
        **EMBEDDED,
        "model": str(model),
        "space": SPACE,
        "mode": SEQUENTIAL,
        "search": {"driver": "random", "population": 3, "evaluations": 3},
        "objectives": ["kl"],
        "baselines": ["wanda"],
    }
    (folder / "shifts.yaml").write_text(yaml.safe_dump(experiment, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def run(place):
    return search(load_experiment(str(place / "shifts.yaml")), place / "runs", Silent())


def test_shifts_are_told_apart_and_measured_as_a_prune_would_make_them(run, place, tmp_path):
    header, entries, _ = read_journal(run.directory.journal)
    recipes = {entry["key"]: recipe_of(entry, header["layers"]) for entry in entries}
    found = {recipes[e["key"]].default.quadratic.target_shift: e for e in entries}
    searched = [recipe for recipe in recipes.values() if recipe.order == "site"]
    assert searched
    assert all(recipe.reconstruct == ReconstructionSettings(epochs=1) for recipe in searched)
    assert len({entry["values"]["kl"] for entry in found.values()}) == len(found) > 1
    assert read_json(run.directory.manifest)["measure"]["mode"] == SEQUENTIAL
    # Measured again from the pruned checkpoint's weights.
    experiment = load_experiment(str(place / "shifts.yaml"))
    picked, pruned = run.front.pick().recipe, tmp_path / "pruned"
    base = ["prune", "--model", str(place / "tiny"), "--recipe", str(run.directory.path)]
    result = CliRunner().invoke(app, [*base, "--to", str(pruned)])
    assert result.exit_code == 0, result.output
    written = load(str(pruned)).model.state_dict()
    setup = set_up(experiment, Silent())
    with setup.job(None).measuring(lambda _: None) as measure:
        again = measure(picked, setup.ladder.rungs[-1])
        now = setup.calibrated.loaded.model.state_dict()
        assert all((written[name] == now[name]).all() for name in written)
    assert again["kl"] == run.front.pick().values["kl"]


def test_the_comparison_and_all_who_read_it_are_of_that_mode(run):
    rows = read_json(run.directory.evaluation)["rows"]
    assert [row["name"] for row in rows] == [
        "dense",
        "wanda, block by block",
        "found, block by block",
    ]
    assert all(row["search"] for row in rows[1:])
    assert read_json(run.directory.front)["made_with"]["mode"] == SEQUENTIAL
    place = str(run.directory.path)
    for words in (["report", place], ["table", place, "--dirty"], ["front", place]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    page = (run.directory.path / "report.html").read_text()
    assert "the best baseline" in page
    data = json.loads(CliRunner().invoke(app, ["front", place, "--json"]).output)
    assert data


def test_a_second_search_measures_nothing_and_the_one_shot_one_is_another(run, place):
    experiment = load_experiment(str(place / "shifts.yaml"))
    again = search(experiment, place / "runs", Silent())
    assert again.directory.path == run.directory.path
    plain = {"space": {**SPACE, "target_shift": 0, "damping": {"real": [0, 1]}}}
    del plain["space"]["order"], plain["space"]["reconstruct"]
    one, other = (
        type(experiment).model_validate({**experiment.model_dump(), **plain, "mode": mode})
        for mode in ("one-shot", SEQUENTIAL)
    )
    assert one.hash != other.hash
    assert set_up(one, Silent()).identity != set_up(other, Silent()).identity


def test_a_method_that_needs_it_is_pruned_block_by_block_beside_one_shot_candidates(place):
    changes = {
        "name": "beside",
        "space": {"sparsity": {"by": "block", "budget": 0.6}},
        "mode": "one-shot",
        "search": {"driver": "random", "population": 2, "evaluations": 2},
        "baselines": ["wanda", "optima-shifted"],
    }
    said = yaml.safe_load((place / "shifts.yaml").read_text())
    (place / "beside.yaml").write_text(yaml.safe_dump(said | changes))
    run = search(load_experiment(str(place / "beside.yaml")), place / "runs", Silent())
    rows = {row["name"]: row for row in read_json(run.directory.evaluation)["rows"]}
    assert "optima-shifted" not in rows
    assert rows["optima-shifted, block by block"]["search"] is None
    assert rows["wanda"]["search"]
    assert set(rows["optima-shifted, block by block"]["texts"]) == set(rows["wanda"]["texts"])
    shifted = rows["optima-shifted, block by block"]["texts"]
    plain = rows["wanda, block by block"]["texts"]
    assert all(shifted[text]["perplexity"] != plain[text]["perplexity"] for text in plain)


def test_a_failed_candidate_leaves_nothing_to_the_next(place):
    setup = set_up(load_experiment(str(place / "shifts.yaml")), Silent())
    import numpy as np

    first, second = (setup.space.decode(np.array([code])) for code in (1.0, 2.0))
    top = setup.ladder.rungs[-1]
    with setup.job(None).measuring(lambda _: None) as measure:
        want = measure(second, top)
    with setup.job(None).measuring(lambda _: None) as measure:
        outcomes = dict(one_by_one(measure)([first, second, first], top))
        assert outcomes[second.key]["values"] == want


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mode": "one-shot"}, "target_shift, order: site, reconstruct: of no .*mode: sequential"),
        ({"compile": True}, "compile is true, but mode is sequential"),
        ({"mode": "blocks"}, "mode"),
    ],
)
def test_contradictions_are_a_sentence(place, change, said):
    settings = [f"{key}={json.dumps(value)}" for key, value in change.items()]
    with pytest.raises(ConfigError, match=said):
        load_experiment(str(place / "shifts.yaml"), settings)
