"""lm-eval on a model in memory, on questions whose answers can be computed by hand."""

import copy
import math
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from task_folder import task_file

from optishear.errors import ConfigError
from optishear.evaluation import zero_shot
from optishear.evaluation.zero_shot import Tasks, check_tasks, score
from optishear.models.discover import layout_of
from optishear.models.load import load
from optishear.models.weights import read, working_weights
from optishear.text.task_files import read_tasks


SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "zero_shot"

QUESTIONS = [
    ("The Congress of the United", ["States", "Kingdom of the", "fish"]),
    ("I have the honor to", ["submit", "be with you in the war and peace", "banana"]),
    ("The expenditures of the", ["Government", "tree", "moon and of the stars"]),
    ("Our foreign", ["relations", "policy of the last year", "soup"]),
    ("The treaty with", ["Great Britain", "Spain", "us"]),
    ("In the year", ["past", "of our Lord one thousand", "mouse"]),
    ("Peace and", ["prosperity", "war", "a"]),
]


@pytest.fixture(scope="module")
def embedded():
    pytest.importorskip("lm_eval", reason="zero-shot tasks need lm-eval, extra `eval`")
    return load("embedded")


def likelihood(loaded, context, continuation):
    """log p(continuation | context) by one forward pass in fp64, no padding, no batch."""
    whole = loaded.tokenizer(context + continuation)["input_ids"]
    start = len(loaded.tokenizer(context)["input_ids"])
    model = copy.deepcopy(loaded.model).double()
    with torch.no_grad():
        said = model(torch.tensor([whole]), use_cache=False).logits[0].log_softmax(-1)
    return sum(said[at - 1, whole[at]].item() for at in range(start, len(whole)))


def written(folder, rows, **task):
    task_file(folder, rows, **task)
    return read_tasks([folder])


PLAIN = {"doc_to_text": "{{q}}", "doc_to_choice": "c", "doc_to_target": "gold"}


@pytest.fixture(scope="module")
def answers(embedded):
    """For each question the choice that is likeliest, and the likeliest by letter."""
    found = []
    for context, choices in QUESTIONS:
        sums = [likelihood(embedded, context, " " + choice) for choice in choices]
        lengths = [len(choice) for choice in choices]
        found.append((int(np.argmax(sums)), int(np.argmax(np.divide(sums, lengths)))))
    return found


def test_accuracy_is_what_the_log_likelihoods_say(embedded, answers, tmp_path):
    """Right answers are set so that exactly the first four are met; all else follows by hand."""
    gold = [best if i < 4 else (best + 1) % 3 for i, (best, _) in enumerate(answers)]
    rows = [{"q": q, "c": c, "gold": g} for (q, c), g in zip(QUESTIONS, gold, strict=True)]
    local = written(tmp_path, rows, **PLAIN)
    acc, norm = score(embedded.model, embedded.tokenizer, Tasks(local=local, batch_size=3))
    assert acc.each == (1.0,) * 4 + (0.0,) * 3
    assert (acc.task, acc.metric, acc.n, acc.of) == ("known", "acc", 7, 7)
    assert acc.value == pytest.approx(4 / 7)
    assert acc.error == pytest.approx(math.sqrt(4 / 7 * 3 / 7 / 6))
    wanted = tuple(float(long == g) for (_, long), g in zip(answers, gold, strict=True))
    assert norm.metric == "acc_norm"
    assert norm.each == wanted
    assert {best for best, _ in answers} != {0}  # a constant answer would not pass
    assert any(best != long for best, long in answers)


def test_a_limit_takes_the_first_questions(embedded, answers, tmp_path):
    rows = [
        {"q": q, "c": c, "gold": best} for (q, c), (best, _) in zip(QUESTIONS, answers, strict=True)
    ]
    rows[2]["gold"] = (rows[2]["gold"] + 1) % 3
    local = written(tmp_path, rows, **PLAIN)
    acc, _ = score(embedded.model, embedded.tokenizer, Tasks(local=local, limit=3))
    assert (acc.each, acc.n, acc.of) == ((1.0, 1.0, 0.0), 3, 7)


def test_choices_as_contexts_compare_what_follows_them(embedded, tmp_path):
    rows = []
    for context, _ in QUESTIONS[:4]:
        contexts = [context, "Fish and " + context[4:]]
        sums = [likelihood(embedded, c, " of the people") for c in contexts]
        rows.append({"c": contexts, "rest": "of the people", "gold": int(np.argmax(sums))})
    rows[0]["gold"] = 1 - rows[0]["gold"]
    task = {"doc_to_text": "gold", "doc_to_choice": "c", "doc_to_target": "rest"}
    acc, _ = score(embedded.model, embedded.tokenizer, Tasks(local=written(tmp_path, rows, **task)))
    assert acc.each == (0.0, 1.0, 1.0, 1.0)


def test_the_weights_in_memory_are_asked_and_left_as_they_are(embedded, answers, tmp_path):
    """Also with working weights in use: a ruined model answers otherwise, and all comes back."""
    gold = [best for best, _ in answers]
    rows = [{"q": q, "c": c, "gold": g} for (q, c), g in zip(QUESTIONS, gold, strict=True)]
    tasks = Tasks(local=written(tmp_path, rows, **PLAIN))
    layout = layout_of(embedded.model)
    before = [read(embedded.model, layer).clone() for layer in layout.layers]
    with working_weights(embedded.model, layout):
        for layer in layout.layers:
            read(embedded.model, layer).zero_()
        ruined, _ = score(embedded.model, embedded.tokenizer, tasks)
        assert all(bool((read(embedded.model, layer) == 0).all()) for layer in layout.layers)
    whole, _ = score(embedded.model, embedded.tokenizer, tasks)
    assert whole.value == 1.0
    assert ruined.value < 1.0
    after = [read(embedded.model, layer) for layer in layout.layers]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert embedded.tokenizer.pad_token is None  # lm-eval gives one to what it is handed


def test_no_global_random_state_is_touched(embedded, tmp_path):
    rows = [{"q": q, "c": c, "gold": 0} for q, c in QUESTIONS[:2]]
    tasks = Tasks(local=written(tmp_path, rows, **PLAIN))
    states = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    score(embedded.model, embedded.tokenizer, tasks)
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    before = random.getstate()  # beartype draws from it while tests run
    with zero_shot._quiet():
        random.random()
    assert random.getstate() == before


def test_a_missing_package_is_one_sentence(monkeypatch):
    zero_shot._manager.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match=r'need lm-eval: pip install "optishear\[eval\]"'):
        check_tasks(Tasks(names=("piqa",)))


def test_names_are_those_of_lm_eval_and_never_paths(tmp_path, embedded):
    """A path would be read by lm-eval's own reader, which runs what `!function` names."""
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nf = str\n")
    path = tmp_path / "trap.yaml"
    path.write_text("task: trap\ndoc_to_text: !function trap.f\n")
    with pytest.raises(ConfigError, match="has no task"):
        check_tasks(Tasks(names=(str(path),)))
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(ConfigError, match="Did you mean 'piqa'"):
        check_tasks(Tasks(names=("piqaa",)))


def test_a_registered_task_without_a_network_says_what_to_do(embedded):
    with pytest.raises(ConfigError, match=r"could not load arc_easy .*use --task-files"):
        check_tasks(Tasks(names=("arc_easy",)))


def test_the_same_task_twice_is_refused(embedded, tmp_path):
    rows = [{"q": q, "c": c, "gold": 0} for q, c in QUESTIONS[:2]]
    local = written(tmp_path, rows, task="piqa", **PLAIN)
    with pytest.raises(ConfigError, match="Two tasks are called 'piqa'"):
        check_tasks(Tasks(names=("piqa",), local=local))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public sets are there only in development")
def test_every_line_of_the_public_sets_is_a_question():
    templates = Path(__file__).resolve().parents[2] / "experiments" / "zero_shot"
    counts = {task.name: len(task.questions) for task in read_tasks([templates], SHARED)}
    assert counts == {
        "arc_challenge_file": 1172,
        "arc_easy_file": 2376,
        "boolq_file": 3270,
        "copa_file": 100,
        "openbook_qa_file": 500,
        "piqa_file": 1838,
        "winogrande_file": 1267,
    }
