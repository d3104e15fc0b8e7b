"""`optishear evaluate`: models side by side, through the public door, on the embedded model."""

import json

import numpy as np
import pytest
from task_folder import task_file
from tokenizers.processors import TemplateProcessing
from typed import invoke

import optishear
from optishear.text.sources import TextSpec


TEXT = ["--text", "embedded", "--sequences", "5", "--seq-len", "64"]


def evaluated(*words):
    return json.loads(invoke("evaluate", *words, "--json").stdout)


def with_bos(place, adds=False):
    """The embedded model, whose tokenizer has no BOS, as a folder where it has one, and `adds` it
    to whatever it is given."""
    loaded = optishear.load("embedded")
    loaded.model.save_pretrained(place)
    token = loaded.tokenizer.bos_token = loaded.tokenizer.eos_token
    if adds:
        loaded.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{token} $A", special_tokens=[(token, loaded.tokenizer.bos_token_id)]
        )
    loaded.tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pruned by Wanda at 60 %, block by block and in one shot, on 3 windows of 64 tokens."""
    place = tmp_path_factory.mktemp("pruned")
    for name, mode in (("sequential", []), ("oneshot", ["--one-shot"])):
        words = ["--method", "wanda", "--sparsity", "0.6", "--text", "embedded@train"]
        words += ["--sequences", "3", "--seq-len", "64", *mode]
        invoke("prune", "--model", "embedded", *words, "--to", place / name)
    return place


@pytest.mark.parametrize("mode", ["sequential", "oneshot"])
def test_beside_makes_again_what_the_folder_was_made_with(folders, mode):
    """The row `wanda` is the folder itself only with its text, its mode, sparsity and pattern."""
    found = evaluated(folders / mode, "--beside", "dense,wanda,magnitude", *TEXT)
    first, dense, wanda, magnitude = found["models"]
    names = [str(folders / mode), "dense", "wanda", "magnitude"]
    assert [row["name"] for row in found["models"]] == names
    assert found["first"] == names[0]
    assert wanda["texts"][0]["perplexity"] == first["texts"][0]["perplexity"]
    assert wanda["texts"][0]["minus_first"] == {"mean": 0.0, "standard_error": 0.0}
    assert wanda["recipe"] == first["recipe"]
    assert dense["recipe"] is None
    assert first["model_hash"] != dense["model_hash"] == wanda["model_hash"]
    assert first["sparsity"] == magnitude["sparsity"] == pytest.approx(0.6, abs=0.01)
    assert dense["sparsity"] < 0.001
    assert magnitude["texts"][0]["perplexity"] != first["texts"][0]["perplexity"]
    [alone] = evaluated("embedded", *TEXT)["models"]
    assert alone["texts"][0]["perplexity"] == dense["texts"][0]["perplexity"]
    assert alone["texts"][0]["minus_first"] is None


def test_beside_stands_the_published_method_whatever_the_folder_s_pattern(folders, tmp_path):
    words = ["--method", "wanda", "--pattern", "layer", "--sparsity", "0.6", "--one-shot"]
    words += ["--text", "embedded@train", "--sequences", "3", "--seq-len", "64"]
    invoke("prune", "--model", "embedded", *words, "--to", tmp_path / "p")
    found = evaluated(tmp_path / "p", "--beside", "wanda,wanda:layer,dense", *TEXT)["models"]
    first, wanda, same, _ = found
    assert same["recipe"] == first["recipe"] != wanda["recipe"]
    assert same["texts"][0]["minus_first"] == {"mean": 0.0, "standard_error": 0.0}
    assert wanda["texts"][0]["minus_first"]["mean"] != 0
    assert [row["mode"] for row in found] == ["one-shot"] * 3 + [None]


def test_beside_a_profile_that_is_not_uniform_stand_uniform_ones(folders, tmp_path):
    """At the same total: one layer denser, another one sparser by as many weights."""
    recipe = json.loads((folders / "oneshot" / "optishear_recipe.json").read_text())
    one, *_, other = [name for name in recipe["drop"] if name.endswith("q_proj")]
    recipe["drop"][one] -= 9000
    recipe["drop"][other] += 9000
    del recipe["made_with"]
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    words = ["--recipe", tmp_path / "recipe.json", "--text", "embedded@train", "--sequences", "3"]
    invoke("prune", "--model", "embedded", *words, "--seq-len", "64", "--to", tmp_path / "p")
    first, wanda = evaluated(tmp_path / "p", "--beside", "wanda", *TEXT)["models"]
    assert first["recipe"] != wanda["recipe"]
    assert first["sparsity"] == pytest.approx(wanda["sparsity"], abs=1e-6)
    assert wanda["texts"][0]["minus_first"]["mean"] != 0


def test_differences_are_paired_window_by_window(folders):
    found = evaluated(folders / "sequential", "embedded", *TEXT)
    text = TextSpec("embedded", "evaluation", 5, 64)
    (first, _), (dense, hashes) = (
        optishear.evaluate(name, text) for name in (str(folders / "sequential"), "embedded")
    )
    gap = np.array(dense.nats) - np.array(first.nats)
    [row] = found["models"][1]["texts"]
    assert row["minus_first"]["mean"] == pytest.approx(gap.mean())
    assert row["minus_first"]["mean"] < 0
    assert row["minus_first"]["standard_error"] == pytest.approx(gap.std(ddof=1) / 5**0.5)
    nats = np.array(dense.nats)
    assert row["nats_per_token"] == pytest.approx(nats.mean())
    assert row["standard_error"] == pytest.approx(np.exp(nats.mean()) * nats.std(ddof=1) / 5**0.5)
    assert (row["hash"], row["windows"], row["seq_len"]) == (hashes["text_hash"], 5, 64)


def test_what_is_kept_is_what_is_printed_and_nothing_is_overwritten(folders, tmp_path):
    kept = tmp_path / "new" / "table.json"
    words = ["evaluate", folders / "oneshot", *TEXT, "--to", kept]
    assert json.loads(invoke(*words, "--json").stdout) == json.loads(kept.read_text())
    found = json.loads(kept.read_text())
    assert {"optishear", "torch", "transformers"} <= found["versions"].keys()
    before = kept.read_bytes()
    assert "is there already" in invoke(*words, code=2).stderr
    assert kept.read_bytes() == before


def test_several_texts_are_several_tables_that_state_their_protocol(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("The state of the Union is a text of words. " * 40)
    words = ["--text", "embedded", "--text", path, "--sequences", "2", "--seq-len", "32"]
    printed = invoke("evaluate", "embedded", *words).stdout
    assert "embedded/evaluation, 2 of" in printed
    assert "mine.txt/all, 2 of" in printed
    assert printed.count("windows of 32 tokens, seed 0; no BOS; float32") == 2
    assert "minus" not in printed  # one model, nothing to compare
    model = with_bos(tmp_path / "model")
    one, two = (evaluated(model, *words, "--bos", bos) for bos in ("none", "text"))
    assert [text["bos"] for text in one["models"][0]["texts"]] == 2 * ["no BOS"]
    assert [text["bos"] for text in two["models"][0]["texts"]] == 2 * ["one BOS before the text"]
    assert one["models"][0]["texts"][1]["hash"] != two["models"][0]["texts"][1]["hash"]
    assert one["models"][0]["texts"][1]["text"].startswith("mine.txt/all")


def test_a_model_that_begins_its_texts_with_a_bos_is_calibrated_and_measured_with_one(
    tmp_path, caplog
):
    model = with_bos(tmp_path / "model", adds=True)
    words = ["--text", "embedded@train", "--sequences", "2", "--seq-len", "32"]
    method = ["--method", "wanda", "--sparsity", "0.5"]
    usual, explicit, without = (
        invoke("prune", "--model", model, *method, *words, *bos, "--to", tmp_path / name)
        and json.loads((tmp_path / name / "optishear_recipe.json").read_text())["made_with"]
        for name, bos in (("a", []), ("b", ["--bos", "window"]), ("c", ["--bos", "none"]))
    )
    assert usual["calibration"]["bos"] == explicit["calibration"]["bos"] == "window"
    assert usual["calibration_hash"] == explicit["calibration_hash"]
    assert without["calibration"]["bos"] == "none"
    assert without["calibration_hash"] != usual["calibration_hash"]
    assert "has no BOS, which the model's tokenizer puts before" in caplog.text
    again = ["--recipe", tmp_path / "c" / "optishear_recipe.json", "--to", tmp_path / "d"]
    invoke("prune", "--model", model, *again)
    origin = json.loads((tmp_path / "d" / "optishear_recipe.json").read_text())["made_with"]
    assert origin["calibration_hash"] == without["calibration_hash"]
    measure = ["--text", "embedded", "--sequences", "2", "--seq-len", "32"]
    [row] = evaluated(model, *measure)["models"]
    assert row["texts"][0]["bos"] == "a BOS at the start of every window"
    [plain] = evaluated("embedded", *measure)["models"]
    assert plain["texts"][0]["bos"] == "no BOS"


def test_the_usual_text_of_a_pruned_folder_is_that_of_its_model(folders):
    [row] = evaluated(folders / "oneshot", "--sequences", "2", "--seq-len", "32")["models"]
    assert row["texts"][0]["text"].startswith("embedded/evaluation, 2 of")


def test_wikitext2_is_another_name_of_wikitext(monkeypatch):
    from optishear.text import hub

    asked = []

    def load(source, split):
        asked.append((source.path, source.config, split))
        return iter([{"text": "The state of the Union . \n"}] * 20)

    monkeypatch.setattr(hub.HubSource, "settled", lambda source: source)
    monkeypatch.setattr(hub.HubSource, "load", load)
    words = ["--text", "wikitext2", "--sequences", "2", "--seq-len", "16"]
    [row] = evaluated("embedded", *words)["models"]
    assert asked == [("Salesforce/wikitext", "wikitext-2-raw-v1", "test")]
    assert row["texts"][0]["text"].startswith("wikitext/evaluation")


@pytest.fixture
def tasks(tmp_path):
    rows = [
        {"q": "The Congress of the United", "c": ["States", "fish"], "gold": 0},
        {"q": "I have the honor to", "c": ["banana", "submit"], "gold": 0},
        {"q": "The expenditures of the", "c": ["Government", "zzz"], "gold": 0},
    ]
    task = {
        "doc_to_text": "q",
        "doc_to_choice": "c",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}],
    }
    return task_file(tmp_path / "tasks", rows, name="three", **task).parent


def test_tasks_of_ones_own_are_scored_side_by_side(folders, tasks):
    pytest.importorskip("lm_eval", reason="zero-shot tasks need lm-eval, extra `eval`")
    words = [folders / "sequential", "--beside", "dense,random", "--task-files", tasks]
    found = evaluated(*words)
    first, dense, other = (row["tasks"][0] for row in found["models"])
    assert (dense["task"], dense["metric"], dense["n"], dense["of"]) == ("three", "acc", 3, 3)
    assert dense["value"] == pytest.approx(2 / 3)  # the second answer is wrong on purpose
    assert dense["standard_error"] == pytest.approx(1 / 3)
    assert first["minus_first"] is None
    gap = dense["value"] - first["value"]
    assert dense["minus_first"]["mean"] == pytest.approx(gap)
    assert other["minus_first"]["mean"] == pytest.approx(other["value"] - first["value"])
    assert all(row["texts"] == [] for row in found["models"])  # no text was asked for
    assert found["tasks"]["local"].keys() == {"three"}
    assert "lm_eval" in found["versions"]
    printed = invoke("evaluate", "embedded", "--task-files", tasks, "--limit", "2").stdout
    assert "three, 2 of 3 questions; lm-eval" in printed
    assert "0.5000 ± 0.5000" in printed


def test_texts_and_tasks_go_together(tasks):
    pytest.importorskip("lm_eval", reason="zero-shot tasks need lm-eval, extra `eval`")
    [row] = evaluated("embedded", *TEXT, "--task-files", tasks)["models"]
    assert (len(row["texts"]), len(row["tasks"])) == (1, 1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["embedded", "--beside", "wanda"], "is no folder of `optishear prune`"),
        (["embedded", "--beside", "wnada"], "Did you mean 'wanda'?"),
        (["embedded", "embedded"], "embedded is named twice"),
        (["embedded", "--text", "embedded", "--seq-len", "2000"], "1024 tokens at most"),
        (["embedded", "--bos", "always"], "No place of a BOS is called 'always'"),
        (["embedded", "--bos", "text"], "tokenizer has no BOS token"),
        (["embedded", "--text", "sotuu"], "Did you mean 'sotu'?"),
        (["embedded", "--limit", "5"], "--limit goes with --tasks"),
        (["embedded", "--task-data", "x"], "--task-data goes with --task-files"),
        (["embedded", "--task-files", "no.yaml"], "no such task file"),
        (["embedded", "--text", "c4"], "has no end; say how many sequences"),
    ],
)
def test_a_mistake_is_one_sentence(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("evaluate", *words, code=2)
    assert sentence in result.stderr
    assert not result.stdout


def test_what_is_pruned_block_by_block_only_is_not_put_beside_a_one_shot_folder(folders):
    result = invoke("evaluate", folders / "oneshot", "--beside", "optima-shifted", *TEXT, code=2)
    assert "--beside optima-shifted: is pruned block by block only" in result.stderr
    assert "evaluating" not in result.stderr


def test_a_task_file_that_would_run_code_is_refused_before_a_model_is_loaded(tasks):
    (tasks / "three.yaml").write_text("task: three\ndoc_to_text: !function trap.f\n")
    result = invoke("evaluate", "embedded", "--task-files", tasks, code=2)
    assert "the tag !function is no plain data, and code is never run" in result.stderr
    assert "evaluating" not in result.stderr


def changed(folders, tmp_path, **made_with):
    """A copy of a pruned folder whose recipe file says something else of how it was made."""
    place = tmp_path / "changed"
    place.mkdir()
    for file in (folders / "oneshot").iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    recipe = json.loads((place / "optishear_recipe.json").read_text())
    recipe["made_with"] |= made_with
    recipe["made_with"] = {k: v for k, v in recipe["made_with"].items() if v is not None}
    (place / "optishear_recipe.json").write_text(json.dumps(recipe))
    return place


@pytest.mark.parametrize(
    ("made_with", "sentence"),
    [
        ({"model_hash": "0" * 16}, "but {} was made from 0000000000000000"),
        ({"calibration_hash": "0" * 16}, "is not what it was when {} was pruned"),
        ({"mode": None}, "does not say made_with.mode"),
    ],
)
def test_what_is_beside_has_to_be_what_the_folder_was_made_from(
    folders, tmp_path, made_with, sentence
):
    place = changed(folders, tmp_path, **made_with)
    result = invoke("evaluate", place, "--beside", "magnitude", *TEXT, code=2)
    assert sentence.format(place) in result.stderr
