"""A search whose best recipes are measured again block by block before one is picked."""

import json
import shutil

import pytest
import yaml
from small_experiment import EMBEDDED
from tiny_folders import tiny_folder
from typer.testing import CliRunner

from optishear.cli import app
from optishear.config import load_experiment
from optishear.records.journal import Journal, read_journal
from optishear.records.run_directory import read_json
from optishear.report.finalists import finalists_text
from optishear.runs.results import open_run, recipe_at
from optishear.runs.search import search
from optishear.runs.setup import set_up, threads
from optishear.runs.watcher import Silent


SPACE = {
    "metric": [{"name": "power", "alpha": {"real": [0.5, 2.0]}, "delta": {"real": [0.0, 1.5]}}],
    "sparsity": {"by": "block", "budget": 0.6},
}
NUMBER = 4


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finalists")
    return {
        **EMBEDDED,
        "name": "final",
        "model": str(tiny_folder("llama", folder / "tiny", shards="5GB")),
        "space": SPACE,
        "objectives": ["kl"],
        "record": ["perplexity"],
        "search": {"driver": "random", "population": 5, "evaluations": 10, "rungs": [64]},
        "baselines": ["wanda"],
        "finalists": NUMBER,
    }


def experiment(base, folder, **changes):
    folder.mkdir(exist_ok=True)
    (folder / "final.yaml").write_text(yaml.safe_dump({**base, **changes}, sort_keys=False))
    return load_experiment(str(folder / "final.yaml"))


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    search_all = {**base["search"], "keep": 0.6}  # six of ten are measured on all tokens
    return search(experiment(base, folder, search=search_all), folder / "runs", Silent())


def said(run):
    return read_json(run.directory.front)["finalists"]


def test_they_are_the_best_one_shot_and_the_pick_is_the_best_of_them_block_by_block(run):
    _, entries, _ = read_journal(run.directory.journal)
    top = [e for e in entries if e["rung"] == max(x["rung"] for x in entries)]
    baseline = next(row for row in run.evaluation if row["name"] == "wanda")["recipe"]
    best = sorted((e for e in top if e["key"] != baseline), key=lambda e: e["values"]["kl"])
    assert [one["key"] for one in said(run)["entries"]] == [e["key"] for e in best[:NUMBER]]
    assert [one["one_shot"]["kl"] for one in said(run)["entries"]] == [
        e["values"]["kl"] for e in best[:NUMBER]
    ]
    lowest = min(said(run)["entries"], key=lambda one: one["block_by_block"]["kl"])
    assert lowest["key"] == said(run)["picked"] == run.front.pick().recipe.key
    rows = {row["name"]: row for row in run.evaluation}
    assert rows["found"]["recipe"] == rows["found, block by block"]["recipe"] == lowest["key"]
    assert rows["found"]["search"]["kl"] == lowest["one_shot"]["kl"]
    assert [entry.recipe.key for entry in run.front.entries] == [best[0]["key"]]


def test_their_values_are_those_of_a_search_that_prunes_block_by_block(run, base, tmp_path):
    """To the bit, and under the same measure, so that its journal answers for them."""
    plain = {k: v for k, v in base.items() if k != "finalists"}
    whole = {"driver": "random", "population": 5, "evaluations": 10}
    asked = experiment(plain, tmp_path, mode="sequential", search=whole)
    header, entries, _ = read_journal(run.directory.finalists)
    recipes = {one.recipe.key: one.recipe for one in run.front.finalists.entries}
    with threads(asked.threads):
        setup = set_up(asked, Silent())
        assert header["measure"] == setup.identity
        with setup.job(None).measuring(lambda _: None) as measure:
            for entry in entries:
                assert measure(recipes[entry["key"]], entry["rung"]) == entry["values"]
    assert len(entries) == NUMBER


def test_commands_take_the_pick_of_the_finalists_and_say_what_became_of_them(run, tmp_path):
    place, key = str(run.directory.path), said(run)["picked"]
    text = finalists_text(run.front.finalists)
    assert recipe_at(run.directory.path)[0].key == key
    exported = CliRunner().invoke(app, ["export", place, "--to", str(tmp_path / "out"), "--json"])
    assert json.loads(exported.stdout)["picked"] == key
    asked = ["export", place, "--pick", "lowest:kl", "--to", str(tmp_path / "own"), "--json"]
    of_the_front = json.loads(CliRunner().invoke(app, asked).stdout)["picked"]
    assert of_the_front == run.front.entries[0].recipe.key
    shown = CliRunner().invoke(app, ["front", place])
    assert text in shown.stdout
    data = json.loads(CliRunner().invoke(app, ["front", place, "--json"]).stdout)
    assert (data["picked"], data["finalists"]) == (key, said(run))
    for words in (["report", place], ["plot", place], ["table", place, "--dirty"]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    assert text in (run.directory.path / "report.html").read_text()


def test_a_prune_of_the_run_is_of_the_picked_recipe(run, base, tmp_path):
    words = ["prune", "--model", base["model"], "--recipe", str(run.directory.path)]
    result = CliRunner().invoke(app, [*words, "--to", str(tmp_path / "pruned")])
    assert result.exit_code == 0, result.output
    assert recipe_at(tmp_path / "pruned" / "optishear_recipe.json")[0].key == said(run)["picked"]


def resumed(run, folder, monkeypatch):
    """The same search, which broke off before the third finalist was written down, and went on."""
    monkeypatch.setenv("OPTISHEAR_CACHE", str(folder / "cache"))
    plan = load_experiment(str(run.directory.path.parents[2] / "final.yaml"))
    append = Journal.append

    def broken(self, *evaluation):
        if self.path.name == "finalists.jsonl" and len(self.entries) == 2:
            raise KeyboardInterrupt
        return append(self, *evaluation)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", broken)
        with pytest.raises(KeyboardInterrupt):
            search(plan, folder / "runs", Silent())
    return search(plan, folder / "runs", Silent())


def without_seconds(path):
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_a_run_that_broke_off_goes_on_and_ends_with_the_same_files(run, tmp_path, monkeypatch):
    again = resumed(run, tmp_path, monkeypatch)
    assert again.manifest["measured_now"] == NUMBER - 2 + 1  # the rest, and the baseline
    for name in ("front", "evaluation"):
        one, other = getattr(run.directory, name), getattr(again.directory, name)
        assert one.read_bytes() == other.read_bytes()
    for name in ("journal", "finalists"):
        one, other = getattr(run.directory, name), getattr(again.directory, name)
        assert without_seconds(one) == without_seconds(other)


def test_nothing_is_measured_twice_in_this_run_or_beside_it(run, base, tmp_path):
    runs = shutil.copytree(run.directory.path.parents[1], tmp_path / "runs")
    [place] = runs.glob("*/*/")
    before = (place / "front.json").read_bytes()
    (place / "front.json").unlink()
    plan = load_experiment(str(run.directory.path.parents[2] / "final.yaml"))
    again = search(plan, runs, Silent())
    assert again.manifest["measured_now"] == 0
    assert again.directory.front.read_bytes() == before
    fewer = {**base["search"], "keep": 0.6}
    beside = search(experiment(base, tmp_path, finalists=3, search=fewer), runs, Silent())
    assert beside.manifest["measured_now"] == 0
    assert [e["key"] for e in said(beside)["entries"]] == [e["key"] for e in said(run)["entries"]][
        :3
    ]


def test_a_packed_run_keeps_them_and_answers_for_others(run, base, tmp_path):
    runs = shutil.copytree(run.directory.path.parents[1], tmp_path / "runs")
    for figures in runs.glob("*/*/figures"):
        shutil.rmtree(figures)
    result = CliRunner().invoke(app, ["pack", str(runs)])
    assert result.exit_code == 0, result.output
    packed = open_run(runs / "final")
    assert packed.front == run.front
    fewer = {**base["search"], "keep": 0.6}
    beside = search(experiment(base, tmp_path, finalists=2, search=fewer), runs, Silent())
    assert beside.manifest["measured_now"] == 0


def test_without_finalists_nothing_is_said_of_any(base, tmp_path):
    plain = {key: value for key, value in base.items() if key != "finalists"}
    none = experiment({**plain, "finalists": 0}, tmp_path)
    assert none.hash == experiment(plain, tmp_path).hash != experiment(base, tmp_path).hash
    run = search(none, tmp_path / "runs", Silent())
    assert not run.directory.finalists.exists()
    assert "finalists" not in read_json(run.directory.front)
    assert "finalists" not in read_json(run.directory.manifest)["experiment"]


def test_of_several_objectives_the_knee_of_the_finalists_is_picked(base, tmp_path):
    space = {**SPACE, "sparsity": {"by": "block"}}
    plan = experiment(
        base,
        tmp_path,
        space=space,
        objectives=["sparsity", "kl"],
        search={"population": 6, "evaluations": 12},
        finalists=3,
    )
    run = search(plan, tmp_path / "runs", Silent())
    told = run.front.finalists
    assert told.quantity == "kl"
    assert told.entries[0].recipe.key == run.front.pick("knee").recipe.key
    assert told.picked in [one.recipe.key for one in told.entries]
    for one in told.entries:
        assert one.by_block["sparsity"] == one.one_shot["sparsity"]
