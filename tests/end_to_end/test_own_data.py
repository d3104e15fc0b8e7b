"""An objective that brings data of its own: zero-shot questions, asked of every candidate."""

import pytest
import yaml
from small_experiment import EMBEDDED
from task_folder import task_file

from optishear.config import load_experiment
from optishear.errors import ConfigError
from optishear.objectives.zero_shot import ZeroShotError
from optishear.records.journal import read_journal
from optishear.runs.inputs import inputs_of
from optishear.runs.search import search
from optishear.runs.setup import set_up
from optishear.runs.watcher import Silent
from optishear.text.questions import QuestionSet
from optishear.tools.plan.plan import plan


NAME = "zero_shot_error@mine"
ROWS = [
    ("The Congress of the United", ["States", "Kingdom of the", "fish"], 0),
    ("I have the honor to", ["submit", "be with you in the war and peace", "banana"], 1),
    ("The expenditures of the", ["Government", "tree", "moon and of the stars"], 0),
    ("Our foreign", ["relations", "policy of the last year", "soup"], 1),
    ("The treaty with", ["Great Britain", "Spain", "us"], 2),
    ("In the year", ["past", "of our Lord one thousand", "mouse"], 0),
    ("Peace and", ["prosperity", "war", "a"], 1),
]


def questions(folder, rows=ROWS):
    rows = [{"q": q, "c": c, "gold": gold} for q, c, gold in rows]
    fields = {"doc_to_text": "q", "doc_to_choice": "c", "doc_to_target": "gold"}
    return str(task_file(folder, rows, **fields))


def written(folder, file, limit=6, **changes):
    told = {
        **EMBEDDED,
        "space": "blocks",
        "objectives": ["sparsity", NAME],
        "record": ["kl"],
        "questions": {"mine": {"file": file, "limit": limit}},
        "search": {"population": 4, "evaluations": 8, "rungs": [64]},
        "baselines": ["magnitude"],
        "batch_tokens": 64,
        **changes,
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(told))
    return str(path)


def experiment(folder, file, **changes):
    return load_experiment(written(folder, file, **changes))


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    return set_up(experiment(folder, questions(folder / "asked")), Silent())


def recipes(setup, count=3):
    return [setup.space.decode(genome) for genome in setup.seeds[:count]]


def test_the_error_is_one_less_the_accuracy_that_evaluate_finds_on_the_same_weights(setup):
    pytest.importorskip("lm_eval", reason="zero-shot tasks need lm-eval, extra `eval`")
    from optishear.evaluation.zero_shot import Tasks, score

    loaded = setup.calibrated.loaded
    found = QuestionSet.read(setup.experiment.question_specs["mine"])
    assert found.metric == "acc_norm"
    tasks = Tasks(local=(found.task,), limit=6)
    seen = set()
    with setup.job(None).measuring(lambda text: None) as measure:
        for recipe in recipes(setup):
            values = measure(recipe, 128)
            _, norm = score(loaded.model, loaded.tokenizer, tasks)  # the weights are still there
            assert norm.metric == "acc_norm"
            assert values[NAME] == pytest.approx(1 - norm.value)
            seen.add(values[NAME])
    assert seen - {0.0, 1.0}


def test_it_is_measured_whole_on_the_first_rung_and_not_again_when_climbing(setup, monkeypatch):
    asked, update = [], ZeroShotError.update

    def counted(self, data, index, hidden, head):
        asked.append(index)
        update(self, data, index, hidden, head)

    monkeypatch.setattr(ZeroShotError, "update", counted)
    batches = len(setup.own[NAME].batches)
    assert batches > 1
    [recipe] = recipes(setup, 1)
    with setup.job(None).measuring(lambda text: None) as measure:
        low, high = measure(recipe, 64), measure(recipe, 128)
        assert asked == list(range(batches))
        assert low[NAME] == high[NAME]
        assert low["kl"] != high["kl"]
        assert measure(recipe, 128) == high  # at once on the top rung it is the same
        assert len(asked) == 2 * batches


def test_kept_prefixes_change_no_value_beside_it(setup):
    kept, without = [], []
    for values, memory in ((kept, {}), (without, {"prefixes": 0})):
        limits = setup.experiment.memory.model_copy(update=memory)
        own = setup.experiment.model_copy(update={"memory": limits})
        job = type(setup)(**{**vars(setup), "experiment": own}).job(None)
        with job.measuring(lambda text: None) as measure:
            values += [measure(recipe, rung) for rung in (64, 128) for recipe in recipes(setup)]
    assert kept == without


def test_what_is_asked_is_a_part_of_the_measure_and_what_is_not_asked_is_none(setup, tmp_path):
    def identity_with(rows, where):
        told = experiment(tmp_path, questions(tmp_path / where, rows))
        return set_up(told, Silent()).identity

    before = setup.identity
    assert before["own_data"].keys() == {NAME}
    past_the_limit = [*ROWS[:-1], ("Peace and", ["no", "more", "war"], 0)]
    assert identity_with(past_the_limit, "tail") == before
    one_answer = [(ROWS[0][0], ROWS[0][1], 1), *ROWS[1:]]
    assert identity_with(one_answer, "answer") != before


def test_a_search_minimises_it_resumes_and_knows_when_the_questions_have_changed(tmp_path):
    file = questions(tmp_path / "asked")
    told = experiment(tmp_path, file)
    whole = search(told, tmp_path / "whole", Silent())
    assert whole.front.objectives == {"sparsity": True, NAME: False}
    assert all(0 <= entry.values[NAME] <= 1 for entry in whole.front.entries)
    lines = whole.directory.journal.read_bytes().splitlines(keepends=True)
    begun = tmp_path / "begun" / whole.directory.path.parent.name / whole.directory.path.name
    begun.mkdir(parents=True)
    (begun / "journal.jsonl").write_bytes(b"".join(lines[:4]))
    again = search(told, tmp_path / "begun", Silent())
    assert read_values(again) == read_values(whole)
    assert again.directory.front.read_bytes() == whole.directory.front.read_bytes()
    assert inputs_of(told)["questions mine"]
    questions(tmp_path / "asked", ROWS[::-1])
    with pytest.raises(ConfigError, match="questions mine had the hash"):
        search(told, tmp_path / "whole", Silent())


def read_values(run):
    _, entries, _ = read_journal(run.directory.journal)
    return [(entry["key"], entry["rung"], entry["values"]) for entry in entries]


def planned(folder, file):
    return plan(written(folder, file), (), folder / "results", Silent())


def test_a_plan_charges_for_it_once_a_candidate(tmp_path):
    found = planned(tmp_path, questions(tmp_path / "asked"))
    [first, second] = [s.what for s in found.times.steps if "candidates on" in s.what]
    assert "of their objectives' own" in first
    assert "own" not in second
    assert found.times.price.line.own > 0


def test_a_plan_says_that_the_questions_are_not_there(tmp_path):
    found = planned(tmp_path, str(tmp_path / "gone.yaml"))
    [sentence] = found.findings.mistakes
    assert "there is no such task file" in sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"record": ["zero_shot_error@min"]}, "questions has no 'min'. Did you mean 'mine'"),
        ({"objectives": ["sparsity", "kl"]}, "questions.mine: nothing asks them"),
        ({"questions": {}}, "questions has no 'mine'. Write questions: {mine: {file: TASK.yaml"),
    ],
)
def test_names_that_do_not_meet_are_a_sentence(changes, sentence, tmp_path):
    with pytest.raises(ConfigError) as raised:
        experiment(tmp_path, "task.yaml", **changes)
    assert sentence in str(raised.value)
