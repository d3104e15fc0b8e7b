"""A plan on the embedded model: no trace, the search's own sentences, and what is there already."""

import json
import shutil
from contextlib import nullcontext

import pytest
import yaml
from drift import Drift
from small_experiment import EMBEDDED
from tiny_folders import tiny_folder
from typer.testing import CliRunner

from optishear.cli import app
from optishear.config import load_experiment
from optishear.errors import ConfigError, ConfigErrors, NumericalError
from optishear.metrics import METRICS
from optishear.recipe.reconstruction import ReconstructionSettings
from optishear.records.journal import Journal
from optishear.records.run_directory import read_json, write_json
from optishear.runs.search import search
from optishear.runs.setup import set_up
from optishear.runs.watcher import Silent
from optishear.tools.plan import footprint
from optishear.tools.plan.by_block import places_of
from optishear.tools.plan.dry_run import dry_run, sample_of
from optishear.tools.plan.plan import plan
from optishear.workers.candidates import Job


BASE = {**EMBEDDED, "space": "blocks", "search": {"population": 4, "evaluations": 12}}


def written(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(BASE | changes))
    return str(path)


def planned(path, out, settings=()):
    return plan(path, settings, out, Silent())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A plan of a search with a ladder that nobody has begun, and where its run would be."""
    folder = tmp_path_factory.mktemp("whole")
    settings = {"population": 4, "evaluations": 40, "rungs": [64]}
    baselines = ["magnitude", "wanda", "optima-shifted"]
    path = written(folder, search=settings, baselines=baselines, finalists=3)
    return planned(path, folder / "out"), folder / "out"


def test_a_plan_leaves_no_trace_where_runs_are_kept(whole):
    made, out = whole
    assert not out.exists()
    assert not made.findings.refused
    assert made.run.status == "none"


def test_a_plan_is_json_with_everything_in_it(whole):
    made, _ = whole
    data = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert [key for key, value in data.items() if value is None] == ["levels"]
    assert sum(role["weights"] for role in data["model"]["roles"]) == data["model"]["weights"]
    coverage = {"weights": data["model"]["weights"], "prunable": data["model"]["weights"]}
    assert data["model"]["coverage"] == {**coverage, "left_out": {}}
    assert data["space"]["continuous"] == 6
    assert data["space"]["budget"] == 0.6
    assert len(data["space"]["seeds"]) == 3  # Wanda under each published rule
    assert {item["what"] for item in data["cached"]} == {
        "calibration statistics",
        "rules for layer sparsities",
    }
    assert all(room["fits"] for room in data["rooms"])
    assert {"mistakes", "failures", "warnings", "unchecked"} == set(data["findings"])


def test_the_time_is_the_sum_of_its_steps_and_counts_the_candidates_of_every_rung(whole):
    times = whole[0].times
    assert times.seconds == pytest.approx(sum(s.seconds for s in times.steps if not s.done))
    assert [(cost.rung, cost.candidates) for cost in times.rungs] == [(64, 40), (128, 10)]
    names = [step.what for step in times.steps]
    # Block by block there are magnitude, which reads nothing, no second time, and the shifted one.
    assert "2 baselines on 128 tokens" in names
    assert "3 finalists block by block" in names
    assert "held-out: 7 models, 3 sequences each" in names
    [anew] = [step for step in times.steps if step.what == "pruning block by block"]
    assert "no layer of optima-shifted, for which nothing is summed up ahead" in anew.rests_on
    kinds = {(one.kind, one.tokens) for one in (*times.run.lowest, *times.run.higher)}
    assert kinds == {("mask", 64), ("mask", 128)}


def test_candidates_pruned_block_by_block_are_charged_for_and_so_is_what_they_move(tmp_path):
    space = {
        "solver": {"name": "refit"},
        "sparsity": {"by": "block", "budget": 0.6},
        "target_shift": 0.5,
        "reconstruct": "half:epochs=1",
    }
    search = {"driver": "random", "population": 2, "evaluations": 4}
    path = written(
        tmp_path,
        model=str(tiny_folder("llama", tmp_path / "llama")),
        space=space,
        search=search,
        mode="sequential",
        baselines=["alps"],
    )
    made = planned(path, tmp_path / "out")
    assert not made.findings.refused
    held = {item.what: item.bytes for item in made.memory}
    model, text = made.model, load_experiment(path).text_specs["calibration"]
    hidden = int(model.roles[0].shapes[0].split(" x ")[1])
    states = text.sequences * text.seq_len * hidden * 4
    assert held["hidden states of the calibration text"] == 2 * states
    assert held["what dense windows make"] == 3 * states
    assert [
        places_of(ReconstructionSettings(window, inputs=inputs))
        for window in ("block", "half")
        for inputs in ("pruned", "dense")
    ] == [1, 2, 3, 3]
    weights = model.weights / model.blocks
    assert held["weights that are reconstructed"] == round(weights * (0.4 * (16 + 8) + 4 + 1))
    assert not {"ranks (memory.ranks)", "prefixes (memory.prefixes)"} & set(held)
    each = made.times.price.line.seconds(128)
    later = [step.seconds for step in made.times.steps if "as a candidate takes" in step.rests_on]
    assert later == pytest.approx([each, 2 * each])  # a baseline; and that and what is found


def test_what_is_solved_for_before_the_search_and_slopes_within_it_are_steps_of_their_own(tmp_path):
    search_settings = {
        "driver": "gradient",
        "population": 3,
        "evaluations": 20,
        "rungs": [64],
        "seeds": ["methods", "knapsack", "gradient"],
        "curves": {"tokens": 100, "levels": 3},
        "descent": {"tokens": 128, "steps": 5},
    }
    path = written(
        tmp_path,
        model=str(tiny_folder("llama", tmp_path / "llama")),
        search=search_settings,
        batch_tokens=64,
        baselines=["wanda"],
        workers=3,
    )
    made = planned(path, tmp_path / "out")
    assert not made.findings.refused
    assert made.space.solved == ("knapsack", "gradient")
    layers = made.model.layers
    steps = {step.what: step for step in made.times.steps}
    line = made.times.price.line
    curves = steps[f"curves of single layers: {3 * layers} recipes on 64 tokens"]  # whole samples
    each = line.fixed * 2 / layers + line.per_token * 64
    assert curves.seconds == pytest.approx(3 * layers * each / 3)
    descent = steps["descent by slopes: 6 recipes on 128 tokens"]  # two batches, for two workers
    assert descent.seconds == pytest.approx(6 * 4 * line.seconds(128) / 2)
    slopes = steps["slopes of 20 candidates on 64 tokens"]
    assert slopes.seconds == pytest.approx(20 * 4 * line.seconds(64))
    assert "4 forward passes, of which a backward pass is two" in slopes.rests_on
    held = {item.what: item.bytes for item in made.memory}
    hidden, blocks = int(made.model.roles[0].shapes[0].split(" x ")[1]), made.model.blocks
    assert held["where each layer could move, for slopes"] == 4 * made.model.weights
    assert held["hidden states between blocks, for slopes"] == 4 * blocks * 64 * hidden
    assert held["activations for a backward pass"] > 4 * 64 * hidden
    order = [*steps]
    assert order.index(curves.what) < order.index(descent.what) < order.index(slopes.what)
    result = CliRunner().invoke(app, ["plan", path, "--out", str(tmp_path / "out")])
    assert "what is solved for on few tokens, by knapsack and gradient" in result.output
    assert "slopes of 20 candidates" in result.output


def test_a_search_that_solves_for_nothing_has_no_such_steps(whole):
    made = whole[0]
    assert made.space.solved == ()
    names = " ".join(step.what for step in made.times.steps)
    assert not {"curves", "descent", "slopes"} & set(names.split())
    assert not any("slopes" in item.what for item in made.memory)


def test_a_dry_run_on_a_known_clock_gives_its_costs_back(tmp_path):
    """0.5 s a candidate and 1 ms a token, 4 s more for the very first."""
    path = written(tmp_path, search={"population": 4, "evaluations": 40, "rungs": [64]})
    setup = set_up(load_experiment(path), Silent())
    now, used = [0.0], []

    def measure(recipe, rung):
        now[0] += 0.5 + 0.001 * rung + (0 if used else 4)
        used.append(recipe.key)
        return dict.fromkeys(setup.experiment.quantities, 1.0)

    sample = sample_of(setup, lambda: now[0])
    tried = dry_run(setup, measure, sample, lambda: now[0])
    assert [one.seconds for one in tried.lowest] == pytest.approx([4.564] + [0.564] * 5)
    assert [one.seconds for one in tried.higher] == pytest.approx([0.628] * 2)
    assert tried.line_bytes > 100
    assert len(set(used)) == len(used) - 1  # one of them climbs


SHORT = {"source": "embedded", "split": "search", "sequences": 99_999, "seq_len": 64}
REFUSED = {
    "a text that is too short": {"text": {**BASE["text"], "search": SHORT}},
    "texts that overlap": {
        "text": {**BASE["text"], "search": {**BASE["text"]["search"], "split": "train"}}
    },
    "a driver that cannot enumerate": {"search": {**BASE["search"], "driver": "exhaustive"}},
    "nothing to exchange": {
        "search": {**BASE["search"], "driver": "evopress"},
        "space": {"sparsity": {"by": "curve", "budget": 0.5}},
        "objectives": ["kl"],
    },
    "a rung that does not divide": {"search": {**BASE["search"], "rungs": [100]}},
    "steps that do not divide": {"space": {"sparsity": {"by": "layer", "steps": 7}}},
    "a pick of what is not measured": {"pick": "perplexity<=30"},
    "a pattern that does not fit": {"space": {"pattern": "n:5", "sparsity": {"by": "layer"}}},
    "a role that is not there": {
        "space": {"moonshot": {"roles": ["mixer"]}},
        "gradient_sequences": 2,
    },
    "a model that is not there": {"model": "smollm3-135m"},
}


@pytest.mark.parametrize("changes", REFUSED.values(), ids=list(REFUSED))
def test_what_a_search_refuses_a_plan_says_in_the_same_words(tmp_path, changes):
    path = written(tmp_path, **changes)
    with pytest.raises(ConfigError) as raised:
        search(load_experiment(path), tmp_path / "searched", Silent())
    made = planned(path, tmp_path / "out")
    assert made.findings.mistakes == [str(raised.value)]
    assert made.findings.unchecked
    assert made.times is None
    assert not (tmp_path / "out").exists()


def test_all_mistakes_of_a_file_are_found_at_once_and_search_says_how_many(tmp_path):
    path = written(
        tmp_path,
        baselines=["wnada", "magnitud"],
        search={"population": 50, "evaluations": 20, "rungs": [100]},
        text={**BASE["text"], "search": {**BASE["text"]["search"], "split": "train"}},
    )
    made = planned(path, tmp_path / "out")
    for words in ("'wnada'", "'magnitud'", "less than one population", "100 is no", "same text"):
        assert sum(words in mistake for mistake in made.findings.mistakes) == 1
    with pytest.raises(ConfigErrors) as raised:
        load_experiment(path)
    assert str(raised.value) == f"{made.findings.mistakes[0]} (4 more mistakes.)"


def test_keys_of_space_and_experiment_are_looked_at_together_and_their_meaning_is_not(tmp_path):
    path = written(tmp_path, space={"sparsty": {}}, baselines=["wnada"])
    made = planned(path, tmp_path / "out", ["search.populaton=8", "search.seed"])
    words = ("write it as key=value", "'sparsity'", "'population'")
    assert [sum(w in m for m in made.findings.mistakes) for w in words] == [1, 1, 1]
    assert len(made.findings.mistakes) == 3
    assert any("names are known" in text for text in made.findings.unchecked)


def test_texts_and_driver_are_looked_at_together(tmp_path):
    text = {**BASE["text"], "evaluation": {**SHORT, "split": "evaluation"}}
    path = written(tmp_path, text=text, search={**BASE["search"], "driver": "exhaustive"})
    mistakes = planned(path, tmp_path / "out").findings.mistakes
    assert len(mistakes) == 2
    assert "99999 were asked for" in mistakes[0]
    assert "cannot enumerate" in mistakes[1]


def test_every_pair_of_texts_that_share_words_is_a_mistake(tmp_path):
    texts = {}
    for purpose in BASE["text"]:
        (tmp_path / f"{purpose}.txt").write_text(" ".join(f"word{i}" for i in range(2_000)))
        place = str(tmp_path / f"{purpose}.txt")
        texts[purpose] = {"source": place, "split": "all", "sequences": 0, "seq_len": 64}
    path = written(tmp_path, text=texts)
    with pytest.raises(ConfigError) as raised:
        search(load_experiment(path), tmp_path / "searched", Silent())
    mistakes = planned(path, tmp_path / "out").findings.mistakes
    assert mistakes[0] == str(raised.value)
    assert len(mistakes) == sum("share text" in mistake for mistake in mistakes) == 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optishear.runs.search.draw_figures", lambda directory: None)
        return search(load_experiment(written(folder)), folder / "out", Silent()), folder


def test_a_finished_run_is_recognised_without_its_model(finished, monkeypatch):
    run, folder = finished
    monkeypatch.setattr("optishear.tools.plan.plan.run_checks", lambda *_: pytest.fail("looked"))
    made = planned(written(folder), folder / "out")
    assert made.finished
    assert made.run.path == str(run.directory.path)
    assert not made.findings.refused


def unfinished(finished, out, lines):
    """A copy of the run that was stopped after so many evaluations."""
    run, folder = finished
    shutil.copytree(folder / "out", out)
    copy = out / "mine" / run.directory.path.name
    write_json(copy / "manifest.json", read_json(copy / "manifest.json") | {"status": "running"})
    kept = (copy / "journal.jsonl").read_bytes().splitlines(keepends=True)[: 1 + lines]
    (copy / "journal.jsonl").write_bytes(b"".join(kept))
    return copy


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_unfinished_run_is_counted_and_not_touched(finished, tmp_path):
    unfinished(finished, tmp_path / "out", 7)
    before = contents(tmp_path / "out")
    made = planned(written(tmp_path), tmp_path / "out")
    assert made.run.status == "unfinished"
    assert made.run.evaluations == made.run.answered == {128: 7}
    assert [(cost.candidates, cost.known) for cost in made.times.rungs] == [(12, 7)]
    assert contents(tmp_path / "out") == before


def test_what_other_runs_know_is_counted_too(finished):
    _, folder = finished
    bigger = {"population": 4, "evaluations": 20}
    made = planned(written(folder / "bigger", search=bigger), folder / "out")
    assert made.run.evaluations == {}
    assert made.run.answered[128] >= 12
    assert made.times.rungs[0].known == made.run.answered[128]


def test_a_journal_of_another_measure_is_a_mistake_in_the_searchs_words(finished, tmp_path):
    copy = unfinished(finished, tmp_path / "out", 5)
    header, *lines = (copy / "journal.jsonl").read_text().splitlines()
    other = json.loads(header)
    other["measure"]["threads"] = 99
    (copy / "journal.jsonl").write_text("\n".join([json.dumps(other), *lines]) + "\n")
    path = written(tmp_path)
    with pytest.raises(ConfigError) as raised:
        search(load_experiment(path), tmp_path / "out", Silent())
    assert planned(path, tmp_path / "out").findings.mistakes == [str(raised.value)]


def test_a_run_in_use_is_a_mistake_in_the_searchs_words(tmp_path):
    path = written(tmp_path, model="smollm3-135m")
    folder = tmp_path / "out" / "mine" / load_experiment(path).hash
    folder.mkdir(parents=True)
    with Journal(folder / "journal.jsonl", {}, []):
        with pytest.raises(ConfigError) as raised:
            search(load_experiment(path), tmp_path / "out", Silent())
        mistakes = planned(path, tmp_path / "out").findings.mistakes
    assert mistakes[0] == str(raised.value)
    assert len(mistakes) == 2  # and its model


def test_what_a_plan_has_made_is_there_for_the_next_and_so_are_its_levels(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTISHEAR_CACHE", str(tmp_path / "cache"))
    space = {
        "sparsity": {"by": "layer", "steps": 4, "low": 0.25, "high": 0.75, "budget": 0.5},
        "solver": {"name": "refit"},
    }
    path = written(tmp_path, space=space, baselines=[])
    first = planned(path, tmp_path / "out")
    stored = list((tmp_path / "cache" / "levels").glob("*/*.safetensors"))
    sizes = sum(path.stat().st_size for path in stored)
    second = planned(path, tmp_path / "out")
    assert (first.levels.wanted, first.levels.there) == (42 * 3, 0)
    assert second.levels.there == len(stored) == 4  # one of each shape
    gone = first.levels.bytes_lacking - second.levels.bytes_lacking
    assert gone < sizes < gone + 4 * 1000  # a header each
    assert [item.state for item in first.cached] == ["made by this plan"] * 2
    assert [item.state for item in second.cached] == ["was there"] * 2
    assert [s.done for s in first.times.steps if s.rests_on == "made by this plan"] == [True] * 2
    assert not any(step.done for step in second.times.steps)
    assert set(first.times.price.steady) == {"mask"}  # which costs what a copy does


def test_memory_and_disk_that_do_not_suffice_are_warnings(tmp_path, monkeypatch):
    class Full:
        available = 1_000

    monkeypatch.setattr(footprint.psutil, "virtual_memory", lambda: Full)
    monkeypatch.setattr(footprint, "_free", lambda place: 1_000)
    made = planned(written(tmp_path), tmp_path / "out")
    assert [room.fits for room in made.rooms] == [False, True, False]
    assert any(w.startswith("memory: about") for w in made.findings.warnings)
    assert any(w.endswith("choose another place with --out.") for w in made.findings.warnings)
    assert not made.findings.refused


def test_memory_is_what_the_statistics_tell_and_a_second_stream_is_counted(tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS, "drift", Drift)
    space = {"metric": {"name": "drift"}, "sparsity": {"by": "block", "budget": 0.3}}
    made = planned(written(tmp_path, space=space), tmp_path / "out")
    assert not made.findings.refused
    held = {item.what: item.bytes for item in made.memory}
    prepared = set_up(load_experiment(str(tmp_path / "mine.yaml")), Silent()).calibrated
    assert held["statistics"] == sum(
        kind.bytes(width)
        for kind in Drift.needs
        for width in {x.site: x.in_features for x in prepared.layout.layers}.values()
    )
    states = prepared.calibration.units * prepared.loaded.model.config.hidden_size
    assert held["dense hidden states of the calibration text"] == 4 * states


def test_baselines_with_published_profiles_are_looked_at_before_anything_is_calibrated(tmp_path):
    made = planned(written(tmp_path, baselines=["wanda@owl"]), tmp_path / "out")
    assert not made.findings.refused
    assert made.times is not None


def test_a_candidate_that_fails_is_a_warning(tmp_path, monkeypatch):
    def fails(recipe, rung):
        raise NumericalError("some.layer: not positive definite")

    monkeypatch.setattr(Job, "measuring", lambda *_: nullcontext(fails))
    made = planned(written(tmp_path), tmp_path / "out")
    warning = "A dry-run candidate failed: some.layer: not positive definite"
    assert made.findings.warnings == [warning]
    assert made.times is not None
