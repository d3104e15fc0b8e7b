"""Searches around a recipe, in rounds: what they measure and keep, and what is made of them."""

import json

import pytest
import yaml
from small_experiment import EMBEDDED
from tiny_folders import tiny_folder
from typed import invoke

from optishear.calibration.origin import Around
from optishear.config import load_experiment
from optishear.export.verify.check import OK
from optishear.pipeline import Measure
from optishear.records.journal import read_journal
from optishear.records.run_directory import read_json
from optishear.report.run_table import run_table
from optishear.runs.results import open_run
from optishear.runs.rounds import next_round
from optishear.runs.search import search
from optishear.runs.setup import set_up, threads
from optishear.runs.watcher import Silent
from optishear.tools.verify import AGAIN


SPACE = {
    "pattern": "layer",
    "metric": {"name": "wanda"},
    "solver": {"name": "refit", "of": "mask"},
    "sparsity": {"by": "layer", "steps": 8, "low": 0.25, "high": 0.75, "budget": 0.5},
}
SEQUENTIAL = ["mode=sequential", "search.seeds=[methods]"]
SHIFTED = {**SPACE, "target_shift": 0.5, "order": "site"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny Llama and an experiment on it."""
    folder = tmp_path_factory.mktemp("around")
    tiny_folder("llama", folder / "model", shards="1GB")
    settings = {
        **EMBEDDED,
        "model": str(folder / "model"),
        "space": SPACE,
        "objectives": ["kl"],
        "record": ["perplexity"],
        "baselines": ["optima", "optima-shifted"],
        "threads": 1,
        "search": {"population": 4, "evaluations": 8, "seed": 1, "seeds": ["methods", "gradient"]},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture(scope="module")
def rounds(place):
    """The folders of two rounds, as the command makes them."""
    out = invoke("search", place / "mine.yaml", "--rounds", 2, "--out", place / "runs", "--json")
    return [open_run(run["run"]) for run in json.loads(out.stdout)["runs"]]


def journal(run):
    return read_journal(run.directory.journal)[:2]


def test_the_second_round_is_of_the_first_ones_pick_and_begins_with_it(rounds):
    first, second = rounds
    picked = first.front.pick().recipe
    assert second.front.origin.around == Around(picked)
    assert first.front.origin.around is None
    header, found = journal(second)
    assert header["measure"]["around"].startswith(picked.key)
    assert "around" not in journal(first)[0]["measure"]
    sizes = second.front.layout.sizes
    for name, count in zip(header["layers"], found[0]["drop"], strict=True):
        assert (
            abs(count - picked.drop[name]) <= sizes[name] / 16
        )  # a step: what it left of the budget


def test_the_recipe_itself_is_measured_as_it_is_block_by_block(rounds, place):
    """So a second round's values are those of the mode in which recipes are applied, near it."""
    picked = rounds[0].front.pick().recipe
    one_shot = load_experiment(str(place / "mine.yaml"))
    by_block = load_experiment(str(place / "mine.yaml"), SEQUENTIAL)
    values = [measured(plan, picked) for plan in (one_shot, next_round(one_shot, picked), by_block)]
    assert values[0] != values[1] == values[2]


def measured(plan, recipe):
    with threads(1):
        setup = set_up(plan, Silent())
        with setup.measuring(None, lambda text: None) as measure:
            [(_, outcome)] = measure([recipe], setup.samples["search"].units)
    return outcome["values"]


def test_baselines_with_a_shift_stand_beside_it_in_both_modes(rounds):
    first, second = ({(r["name"], r["mode"]) for r in run.evaluation} for run in rounds)
    shifted = {name for name, _ in second if name.startswith("optima-shifted")}
    assert ("optima-shifted", "one-shot") in second - first
    assert len(shifted) == 2


def test_the_same_command_measures_nothing_again(rounds, place, monkeypatch):
    monkeypatch.setattr(Measure, "__call__", None)
    invoke("search", place / "mine.yaml", "--rounds", 2, "--out", place / "runs")


def test_a_run_that_was_killed_goes_on_to_the_same_bits(rounds, place, tmp_path):
    plan = next_round(load_experiment(str(place / "mine.yaml")), rounds[0].front.pick().recipe)
    run = rounds[1]
    again = tmp_path / "runs" / plan.name / plan.hash
    again.mkdir(parents=True)
    lines = run.directory.journal.read_text().splitlines(keepends=True)
    (again / "journal.jsonl").write_text("".join(lines[:4]))
    found = search(plan, tmp_path / "runs", Silent())
    values = [[(e["key"], e["values"]) for e in journal(each)[1]] for each in (run, found)]
    assert values[0] == values[1]
    assert found.front.pick().recipe == run.front.pick().recipe


def test_workers_find_the_same_bits(rounds, place, tmp_path):
    plan = next_round(load_experiment(str(place / "mine.yaml")), rounds[0].front.pick().recipe)
    found = search(plan.model_copy(update={"workers": 2}), tmp_path / "runs", Silent())
    values = [{e["key"]: e["values"] for e in journal(each)[1]} for each in (rounds[1], found)]
    assert values[0] == values[1]


def test_what_was_found_around_a_recipe_is_pruned_and_verified_as_it_was_found(rounds, place):
    one_shot, by_block = place / "one-shot", place / "by-block"
    words = ("prune", "--model", place / "model", "--recipe", rounds[1].directory.path, "--to")
    invoke(*words, one_shot, "--one-shot")
    invoke(*words, by_block)
    assert "already there" in invoke(*words, one_shot, "--one-shot").output
    picked = rounds[0].front.pick().recipe
    said = [read_json(f / "optishear_recipe.json")["made_with"] for f in (one_shot, by_block)]
    assert said[0]["around"] == {"recipe": picked.to_json()}
    assert "around" not in said[1]
    for folder in (one_shot, by_block):
        result = invoke("verify", folder, "--against", place / "model", "--again", "--json")
        checks = {check["name"]: check["status"] for check in json.loads(result.stdout)["checks"]}
        assert checks[AGAIN] == OK
    plain = place / "recipe.json"
    data = read_json(one_shot / "optishear_recipe.json")
    del data["made_with"]["around"]
    del data["made_with"]["found_with"]
    plain.write_text(json.dumps(data))
    words = ("prune", "--model", place / "model", "--recipe", plain, "--to", one_shot, "--one-shot")
    assert "is not empty" in invoke(*words, code=2).output.replace("\n", " ")
    streamed = place / "streamed"
    words = ("prune", "--model", place / "model", "--recipe", rounds[1].directory.path)
    error = invoke(*words, "--to", streamed, "--one-shot", "--stream", code=2)
    assert "as another recipe prunes it" in " ".join(error.output.split())


def test_a_shift_is_searched_one_shot_around_a_recipe(rounds, place, tmp_path):
    path = tmp_path / "shifted.yaml"
    settings = yaml.safe_load((place / "mine.yaml").read_text())
    path.write_text(yaml.safe_dump({**settings, "space": SHIFTED}))
    words = ("search", path, "--around", rounds[0].directory.path, "--out", tmp_path / "r")
    invoke(*words)
    [run] = (tmp_path / "r" / "shifted").iterdir()
    assert open_run(run).front.pick().recipe.default.quadratic.target_shift == 0.5
    assert "refused" not in invoke("plan", path, "--around", rounds[0].directory.path).output


def test_a_round_that_cannot_be_says_so_and_the_one_before_it_is_shown(place, tmp_path):
    """Of layers whose sizes a step of half the size does not divide."""
    masks = {key: value for key, value in SPACE.items() if key != "solver"}
    space = {**masks, "sparsity": {**SPACE["sparsity"], "steps": 192}}
    path = tmp_path / "odd.yaml"
    settings = yaml.safe_load((place / "mine.yaml").read_text())
    few = {"driver": "random", "evaluations": 2, "population": 2}
    path.write_text(yaml.safe_dump({**settings, "space": space, "search": few, "baselines": []}))
    result = invoke("search", path, "--rounds", 2, "--out", tmp_path / "r", "--json", code=1)
    told = json.loads(result.stdout)
    assert len(told["runs"]) == 1
    assert "round 2, around what the one before it picked and on levels of" in told["failed"][0]


def test_gradients_of_the_recipe_around_which_it_was_found_are_remembered(place, tmp_path):
    """They are not the candidates' own, and so of no other number in the file."""
    mixed = tmp_path / "mixed"
    words = ("prune", "--model", place / "model", "--text", "embedded@train", "--seq-len", 32)
    given = ("--sequences", 6, "--method", "wanda", "--refit", "--moonshot-lambda", 0.5)
    invoke(*words, *given, "--sparsity", 0.5, "--gradient-sequences", 2, "--to", mixed)
    changes = ("gradient_sequences=3", "search.evaluations=4", "text.evaluation.seed=0")
    few = [word for change in changes for word in ("--set", change)]
    invoke("search", place / "mine.yaml", "--around", mixed, *few, "--out", tmp_path / "r")
    [folder] = (tmp_path / "r" / "mine").iterdir()
    run = open_run(folder)
    assert run.front.origin.around.gradient_sequences == 3
    assert run.front.origin.gradient_sequences is None
    to = tmp_path / "to"
    invoke("prune", "--model", place / "model", "--recipe", folder, "--one-shot", "--to", to)
    text = ("--text", "embedded@evaluation", "--sequences", 3, "--seq-len", 64)
    shown = json.loads(invoke("evaluate", to, *text, "--json").stdout)
    [row] = [r for r in run.evaluation if (r["name"], r["mode"]) == ("found", "one-shot")]
    [numbers] = row["texts"].values()
    assert shown["models"][0]["texts"][0]["perplexity"] == pytest.approx(numbers["perplexity"])


def test_tables_and_pages_name_the_recipe_by_its_key(rounds, place):
    key = rounds[0].front.pick().recipe.key
    table = run_table([run.directory for run in rounds])
    assert list(table["around"].dropna()) == [key]
    assert not [column for column in table if str(column).startswith("around.")]
    invoke("report", rounds[1].directory.path)
    assert (
        f"as the recipe {key} prunes it" in (rounds[1].directory.path / "report.html").read_text()
    )
