"""Every command through the public door, on a model made on the spot; errors are one sentence."""

import json
import shutil

import pytest
import yaml
from small_experiment import EMBEDDED
from typer.testing import CliRunner

from optishear.cli import app
from optishear.recipe.recipe import Recipe
from optishear.records.run_directory import write_json
from optishear.report.figures import draw_figures


pytestmark = pytest.mark.usefixtures("searches_draw_nothing")

run = CliRunner().invoke
RUNS = [
    "plan",
    "search",
    "watch",
    "dashboard",
    "front",
    "plot",
    "curves",
    "export",
    "pack",
    "report",
    "table",
]
MODELS = ["prune", "evaluate", "verify", "transfer", "import"]
LISTINGS = ["models", "methods", "metrics", "objectives", "drivers"]
COMMANDS = [*RUNS, *MODELS, *LISTINGS]


def invoke(*words, code=0):
    result = run(app, [str(word) for word in words])
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    return result


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_with_an_example(command):
    assert f"Example: optishear {command}" in invoke(command, "--help").stdout


def test_the_help_names_every_command():
    text = invoke("--help").stdout
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize("command", LISTINGS)
def test_listings_have_one_line_each_and_a_paper(command):
    rows = json.loads(invoke(command, "--json").stdout)
    assert len(rows) >= 2
    assert all(
        row["name"] and (row.get("paper") or row.get("licence") or row.get("what")) for row in rows
    )
    text = invoke(command).stdout
    assert all(row["name"] in text for row in rows)


def test_what_is_from_the_literature_is_listed_with_its_paper_and_settings():
    listed = {name: json.loads(invoke(name, "--json").stdout) for name in LISTINGS}
    for name in ("methods", "metrics", "drivers"):
        assert all(row["paper"] for row in listed[name]), name
    for name in ("metrics", "drivers"):
        assert all("settings" in row for row in listed[name]), name


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["search", "quickstrat"], "Did you mean 'quickstart'?"),
        (["search", "quickstart", "--set", "search.populaton=8"], "Did you mean 'population'?"),
        (["search", "quickstart", "--set", "text.search.split=train"], "train"),
        (["front", "nowhere"], "there is no such run"),
        (["plot", "nowhere"], "there is no such run"),
        (["export", "nowhere", "--to", "x"], "there is no such run"),
        (["evaluate", "smollm3-135m"], "Did you mean 'smollm2-135m'?"),
        (["evaluate", "embedded", "--text", "sotuu"], "Did you mean 'sotu'?"),
        (
            ["prune", "--model", "embedded", "--to", "x"],
            "Give one of --recipe FILE, --method NAME, --mask-from CHECKPOINT; found 0",
        ),
        (["prune", "--model", "embedded", "--to", "x", "--method", "wanda"], "needs --sparsity"),
        (
            ["prune", "--model", "embedded", "--to", "x", "--method", "wnada", "--sparsity", "0.5"],
            "Did you mean 'wanda'?",
        ),
        (
            ["prune", "--model", "embedded", "--to", "x", "--method", "wanda", "--sparsity", "50"],
            "Did you mean 0.5?",
        ),
        (
            [
                "prune",
                "--model",
                "embedded",
                "--to",
                "x",
                "--method",
                "wanda",
                "--sparsity",
                "0.6",
                "--pattern",
                "2:4",
            ],
            "has a sparsity of 0.5, but --sparsity says 0.6",
        ),
        (
            ["prune", "--model", "embedded", "--to", "x", "--method", "wanda", "--pattern", "2:5"],
            "cannot be divided into groups of 5",
        ),
        (
            ["prune", "--model", "embedded", "--to", "x", "--recipe", "no.json"],
            "no such recipe file",
        ),
        (
            [
                "prune",
                "--model",
                "embedded",
                "--to",
                "x",
                "--recipe",
                "no.json",
                "--sparsity",
                "0.5",
            ],
            "Leave them out",
        ),
    ],
)
def test_a_mistake_is_one_sentence_on_stderr_and_exit_code_2(
    words, sentence, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    result = invoke(*words, code=2)
    assert sentence in result.stderr
    assert result.stderr.count("\n") <= 3  # the stage that was reached, the sentence
    assert not result.stdout
    assert not (tmp_path / "x").exists()


SPARSEGPT = {"metric": {"name": "own"}, "solver": {"name": "sparsegpt", "block": 64}}


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"metric": {"name": "wanda", "alpha": 1}}, "metric 'wanda' has no setting 'alpha'"),
        (
            {"metric": {"name": "power", "mix": 2}},
            "mix of metric 'power' is 2, expected",
        ),
        ({"metric": {"name": "wnada"}}, "Did you mean 'wanda'?"),
        ({"solver": {"name": "masq"}}, "Did you mean 'mask'?"),
        ({"solver": {"name": "alps", "iterations": 0}}, "is 0, expected a whole number"),
        ({**SPARSEGPT, "pattern": "block:8"}, "says nothing under the pattern 'block:8'"),
        ({"quadratic": {"name": "reconstruction", "damping": 5}}, "damping is 5"),
    ],
)
def test_a_recipe_s_parts_are_refused_before_its_model_is_looked_for(parts, sentence, tmp_path):
    recipe = {"format": "optishear-recipe/1", "metric": {"name": "wanda"}, "pattern": "row"}
    recipe |= {"solver": {"name": "mask"}, "drop": {"a": 1}} | parts
    file = tmp_path / "r.json"
    file.write_text(json.dumps(recipe))
    words = ("prune", "--model", "no/such", "--recipe", file, "--to", tmp_path / "x")
    stderr = invoke(*words, code=2).stderr
    assert f"{file}: " in stderr
    assert sentence in stderr


def test_a_damping_out_of_range_is_refused_before_a_model_is_looked_for(tmp_path):
    words = ("--method", "optima", "--sparsity", "0.5", "--damping", "5", "--to", tmp_path / "x")
    stderr = invoke("prune", "--model", "no/such", *words, code=2).stderr
    assert "--damping: damping is 5.0, expected 'auto' or a fraction" in stderr


def test_an_unknown_option_is_a_mistake_too():
    assert "No such option" in invoke("front", "x", "--pik", "knee", code=2).stderr


def test_a_run_that_never_finished_says_how_to_go_on(tmp_path):
    write_json(tmp_path / "quick" / "abc" / "manifest.json", {"status": "running"})
    assert "run the search again" in invoke("front", tmp_path / "quick", code=2).stderr


QUICK = {**EMBEDDED, "record": ["kl", "perplexity"], "search": {"population": 8, "evaluations": 12}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One small finished run, with what the command printed."""
    folder = tmp_path_factory.mktemp("cli")
    path = folder / "quick.yaml"
    path.write_text("# Hypothesis: it runs.\n" + yaml.safe_dump(QUICK))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optishear.runs.search.draw_figures", draw_figures)
        result = run(app, ["search", str(path), "--out", str(folder / "results"), "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    return folder, json.loads(result.stdout)


def test_search_prints_where_the_run_is_and_what_it_found(finished):
    folder, printed = finished
    assert printed["status"] == "finished"
    assert (printed["evaluations"], printed["failed"]) == (12, 0)
    once = ["magnitude", "wanda", "found"]
    rows = ["dense", *once, *(f"{name}, block by block" for name in once)]
    assert [row["name"] for row in printed["held_out"]] == rows
    for name in ("manifest.json", "journal.jsonl", "front.json", "evaluation.json", "figures"):
        assert (folder / "results" / "quick" / printed["hash"] / name).exists()


def test_the_same_command_finds_the_finished_run(finished):
    folder, printed = finished
    before = sorted(p.stat().st_mtime_ns for p in (folder / "results").rglob("*"))
    result = invoke("search", folder / "quick.yaml", "--out", folder / "results")
    assert f"run: {printed['run']}" in result.stdout
    assert "perplexity" in result.stdout
    assert sorted(p.stat().st_mtime_ns for p in (folder / "results").rglob("*")) == before


def test_a_packed_run_is_what_the_same_command_finds_and_it_stays_packed(finished, tmp_path):
    folder, printed = finished
    shutil.copytree(folder / "results", tmp_path / "results")
    [packed] = json.loads(invoke("pack", tmp_path / "results", "--json").stdout)["packed"]
    words = ["search", folder / "quick.yaml", "--out", tmp_path / "results", "--json"]
    again = json.loads(invoke(*words).stdout)
    assert again["run"] == packed["file"] == f"{tmp_path}/results/quick/{printed['hash']}.tar.xz"
    assert {**again, "run": ""} == {**printed, "run": ""}
    assert [path.name for path in (tmp_path / "results" / "quick").iterdir()] == [
        f"{printed['hash']}.tar.xz"
    ]


def test_front_shows_all_or_the_picked(finished):
    _folder, printed = finished
    everything = json.loads(invoke("front", printed["run"], "--json").stdout)
    assert everything["picked"] == printed["picked"]
    assert printed["picked"] in invoke("front", printed["run"]).stdout
    pick = "sparsity>=0.5,perplexity<=100000"
    [entry] = json.loads(invoke("front", printed["run"], "--pick", pick, "--json").stdout)[
        "entries"
    ]
    assert entry["values"]["sparsity"] >= 0.5
    allowed = [e for e in everything["entries"] if e["values"]["sparsity"] >= 0.5]
    assert entry["values"]["kl"] == min(e["values"]["kl"] for e in allowed)


def test_a_pick_that_nothing_meets_says_what_is_nearest(finished):
    _, printed = finished
    result = invoke("front", printed["run"], "--pick", "sparsity>=0.99", code=2)
    assert "The nearest entry has sparsity" in result.stderr


def test_what_export_writes_is_what_prune_takes(finished, tmp_path):
    _, printed = finished
    invoke("export", printed["run"], "--to", tmp_path / "knee")
    invoke("export", printed["run"], "--to", tmp_path / "one.csv")
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "knee" / "profile.csv").read_text()
    recipe = tmp_path / "knee" / "recipe.json"
    words = [
        "prune",
        "--model",
        "embedded",
        "--recipe",
        recipe,
        "--to",
        tmp_path / "pruned",
        "--json",
    ]
    first = json.loads(invoke(*words).stdout)
    assert first["written"]
    assert not json.loads(invoke(*words).stdout)["written"]
    entry = json.loads(invoke("front", printed["run"], "--pick", "knee", "--json").stdout)
    assert first["sparsity"] == pytest.approx(entry["entries"][0]["values"]["sparsity"])
    other = ["prune", "--model", "embedded", "--method", "wanda", "--sparsity", "0.5"]
    assert "is not empty" in invoke(*other, "--to", tmp_path / "pruned", code=2).stderr


def test_evaluate_gives_the_perplexity_that_the_search_reported(finished, tmp_path):
    """The exported recipe, pruned, saved, reloaded and evaluated: the same number as in the run."""
    _, printed = finished
    invoke("export", printed["run"], "--to", tmp_path / "recipe.json")
    words = ["--recipe", tmp_path / "recipe.json", "--to", tmp_path / "pruned"]
    invoke("prune", "--model", "embedded", *words)
    [text] = printed["held_out"][-1]["texts"].values()
    words = ["--text", "embedded", "--sequences", "3", "--seq-len", "64", "--json"]
    [row] = json.loads(invoke("evaluate", tmp_path / "pruned", *words).stdout)["models"]
    [answer] = row["texts"]
    assert answer["perplexity"] == pytest.approx(text["perplexity"], rel=1e-6)
    assert answer["standard_error"] == pytest.approx(text["error"], rel=1e-5)


def test_plot_draws_png_and_svg(finished):
    _, printed = finished
    paths = json.loads(invoke("plot", printed["run"], "--json").stdout)["figures"]
    assert {path.rsplit(".", 1)[1] for path in paths} == {"png", "svg"}


def test_a_front_tells_bytes_in_three_forms_and_can_be_asked_for_them(finished, tmp_path):
    folder, _ = finished
    [run] = (folder / "results" / "quick").iterdir()
    data = json.loads((run / "front.json").read_text())
    for entry in data["entries"]:  # every layer keeps two of four, or in the first entry three
        keep = 3 if entry is data["entries"][0] else 2
        sizes = {x["name"]: x["out_features"] * x["in_features"] for x in data["layout"]}
        drop = {name: size // 4 * (4 - keep) for name, size in sizes.items()}
        entry["recipe"] = {**entry["recipe"], "pattern": "n:4", "drop": drop}
    write_json(tmp_path / "front.json", data)
    write_json(tmp_path / "manifest.json", {})
    shown = invoke("front", tmp_path)
    assert "bytes_2:4" in shown.stdout
    assert "share_2:4" in shown.stdout
    picked = json.loads(invoke("front", tmp_path, "--pick", "share_2:4<1", "--json").stdout)
    [entry] = picked["entries"]
    assert entry["key"] == Recipe.from_json(data["entries"][0]["recipe"]).key
    assert entry["values"]["bytes_2:4"] == entry["values"]["bytes_dense"]
    smallest = json.loads(invoke("front", tmp_path, "--pick", "lowest:bytes_2:4", "--json").stdout)
    values = smallest["entries"][0]["values"]
    assert values["bytes_2:4"] <= values["bytes"] < values["bytes_dense"]


def test_several_runs_are_made_cheap_ones_first_and_one_that_fails_stops_no_other(finished):
    """The runs of a file's `vary` and of a second file; the finished ones are only read."""
    folder, _ = finished
    vary = [{"search.evaluations": [12, 8]}, {"search.population": [9], "model": ["no/model"]}]
    path = folder / "several" / "quick.yaml"
    path.parent.mkdir()
    path.write_text("# It runs.\n" + yaml.safe_dump({**QUICK, "vary": vary}))
    words = ["search", path, folder / "quick.yaml", "--out", folder / "results"]
    result = run(app, [str(word) for word in [*words, "--json"]])
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert [r["evaluations"] for r in told["runs"]] == [8, 12, 12]
    assert told["runs"][1] == told["runs"][2]  # the same run, asked for twice
    [failed] = told["failed"]
    assert "no/model" in failed
    assert "1 of 4: quick" in result.stderr
    assert f"error: {failed}" in result.stderr
    logged = run(app, [str(word) for word in [*words, "--log-json"]])
    events = [json.loads(line) for line in logged.stderr.splitlines()]
    assert [e["event"] for e in events if e["event"] in ("finished", "error")].count("error") == 1
    shown = invoke("table", folder / "results", "--dirty").stdout
    assert shown.count("embedded/evaluation") == 2
