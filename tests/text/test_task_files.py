"""Local task files are data: what they hold is read, and nothing that they could run is run."""

import json

import pytest
import yaml

from optishear.config.files import EXPERIMENTS
from optishear.errors import ConfigError
from optishear.text.task_files import read_tasks


TEMPLATES = EXPERIMENTS.path / "zero_shot"

ROWS = [
    {"query": "one and", "options": ["two", "ten"], "gold": 0},
    {"query": "red or", "options": ["seven", "blue"], "gold": 1},
]

TASK = {
    "task": "small",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "Say: {{query}}\n",
    "doc_to_choice": "options",
    "doc_to_target": "gold",
}


def written(folder, rows=ROWS, text=None, **changes):
    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    task = {key: value for key, value in {**TASK, **changes}.items() if value is not ...}
    path = folder / f"{task.get('task', 'unnamed')}.yaml"
    path.write_text(text or yaml.safe_dump(task, sort_keys=False))
    return path


def test_fields_and_templates_become_finished_questions(tmp_path):
    [task] = read_tasks([written(tmp_path)])
    assert task.questions == (
        {"question": "Say: one and\n", "choices": ["two", "ten"], "target": 0},
        {"question": "Say: red or\n", "choices": ["seven", "blue"], "target": 1},
    )
    assert (task.name, task.metrics, task.delimiter) == ("small", ("acc", "acc_norm"), " ")


def test_lists_templates_of_lists_and_templates_of_numbers_are_read(tmp_path):
    changes = {
        "doc_to_choice": "{{[options[1], options[0]]}}",
        "doc_to_target": "{{1 - gold}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    [task] = read_tasks([written(tmp_path, **changes)])
    assert [q["choices"] for q in task.questions] == [["ten", "two"], ["blue", "seven"]]
    assert [q["target"] for q in task.questions] == [1, 0]
    assert task.metrics == ("acc",)
    [task] = read_tasks([written(tmp_path, doc_to_choice=["no", "yes"])])
    assert all(q["choices"] == ["no", "yes"] for q in task.questions)


def test_an_index_as_text_makes_the_choices_contexts(tmp_path):
    rows = [{"contexts": ["the cat", "the dog"], "rest": "barked", "gold": 1}]
    task = {"doc_to_text": "gold", "doc_to_choice": "contexts", "doc_to_target": "rest"}
    [task] = read_tasks([written(tmp_path, rows, **task)])
    assert task.questions == (
        {"question": 1, "choices": ["the cat", "the dog"], "target": "barked"},
    )


def test_a_folder_is_read_in_order_and_data_may_lie_elsewhere(tmp_path):
    for name in ("b", "a"):
        written(tmp_path / "tasks", task=name)
    (tmp_path / "data").mkdir()
    (tmp_path / "tasks" / "rows.jsonl").rename(tmp_path / "data" / "rows.jsonl")
    tasks = read_tasks([tmp_path / "tasks"], tmp_path / "data")
    assert [task.name for task in tasks] == ["a", "b"]
    with pytest.raises(ConfigError, match="--task-data"):
        read_tasks([tmp_path / "tasks"])


def test_the_hash_is_that_of_task_and_data(tmp_path):
    hashes = {
        read_tasks([written(tmp_path, **change)])[0].hash
        for change in ({}, {"rows": ROWS[:1]}, {"target_delimiter": ""})
    }
    assert len(hashes) == 3
    assert read_tasks([written(tmp_path)])[0].hash in hashes


HOSTILE = {
    "function": "task: small\ndoc_to_text: !function trap.spring\n",
    "python": 'task: small\ndoc_to_text: !!python/object/apply:os.system ["touch sprung"]\n',
    "module": "task: small\ndoc_to_text: !!python/name:trap.spring\n",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_tags_that_would_run_code_are_refused_with_their_line(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap.py").write_text("open('sprung', 'w')\ndef spring(doc): open('sprung', 'w')\n")
    with pytest.raises(ConfigError, match=r"small\.yaml, line 2: .*plain data"):
        read_tasks([written(tmp_path, text=HOSTILE[kind])])
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"include": "other.yaml"},
        {"class": "trap.Spring"},
        {"process_docs": "trap.spring"},
        {"process_results": "trap.spring"},
        {"custom_dataset": "trap.spring"},
        {"use_prompt": "promptsource:x"},
        {"unsafe_code": True},
        {"fewshot_config": {"samples": "trap.spring"}},
        {"filter_list": [{"name": "custom"}]},
        {"description": "{{''.__class__}}"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_keys_that_could_run_code_or_do_nothing_are_refused(tmp_path, change):
    [key] = change
    with pytest.raises(ConfigError, match=f"{key}: is not read from local task files"):
        read_tasks([written(tmp_path, **change)])


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ query.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('touch sprung').read() }}",
        "{{ options.append('x') }}",
        "{{ '{0.__class__}'.format(query) }}",
    ],
)
def test_templates_cannot_leave_their_sandbox(tmp_path, monkeypatch, template):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"line 1: doc_to_text failed"):
        read_tasks([written(tmp_path, doc_to_text=template)])
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["../rows.jsonl", "/etc/hostname", "x/../../rows.jsonl"])
def test_data_outside_of_their_folder_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="not below the data folder"):
        read_tasks([written(tmp_path, dataset_kwargs={"data_files": {"test": name}})])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dataset_path": "some/script"}, "dataset_path: Input should be 'json'"),
        ({"output_type": "generate_until"}, "output_type: Input should be 'multiple_choice'"),
        ({"metric_list": [{"metric": "my_metric"}]}, "metric_list.0.metric: Input should be"),
        ({"metric_list": []}, "metric_list: "),
        ({"num_fewshot": 5}, "num_fewshot: Input should be 0"),
        ({"doc_to_txt": "query"}, "Did you mean 'doc_to_text'"),
        ({"task": "../small"}, "task: String should match"),
        ({"doc_to_choice": ...}, "doc_to_choice: Field required"),
        ({"test_split": "dev"}, "test_split (or validation_split) is 'dev'"),
        ({"doc_to_text": "qurey"}, "no field and no template. Did you mean 'query'?"),
        ({"doc_to_text": "{{ query"}, "doc_to_text: is no template"),
        ({"doc_to_choice": "{{ query }}"}, "line 1: doc_to_choice gives 'one and', which is no"),
        ({"doc_to_choice": ["only"]}, "not two texts or more"),
        ({"doc_to_choice": ["", "x"]}, "not two texts or more"),
        ({"doc_to_target": 2}, "doc_to_target gives 2, which is not the index of one of the 2"),
        ({"doc_to_target": "query"}, "doc_to_target gives 'one and', which is not the index"),
        ({"doc_to_target": "{{gold}}!"}, "doc_to_target gives '0!', which is not the index"),
        ({"doc_to_text": "gold"}, "doc_to_target gives 0, not a text"),
        ({"rows": []}, "holds no questions"),
        ({"rows": [[1]]}, "rows.jsonl, line 1: is list"),
        ({"rows": [ROWS[0], {**ROWS[1], "gold": -1}]}, "line 2: doc_to_target gives -1"),
        ({"rows": [{**ROWS[0], "gold": True}]}, "doc_to_target gives True"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence(tmp_path, change, sentence):
    with pytest.raises(ConfigError) as raised:
        read_tasks([written(tmp_path, **change)])
    assert sentence in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_missing_files_empty_folders_and_doubled_names_are_said(tmp_path):
    with pytest.raises(ConfigError, match="no such task file"):
        read_tasks([tmp_path / "no.yaml"])
    with pytest.raises(ConfigError, match="has no task files"):
        read_tasks([tmp_path])
    path = written(tmp_path)
    with pytest.raises(ConfigError, match="is called 'small' too"):
        read_tasks([path, path])
    (tmp_path / "rows.jsonl").write_text('{"query": \n')
    with pytest.raises(ConfigError, match="line 1: is not JSON"):
        read_tasks([path])


QUESTIONS = {
    "arc_easy": (
        {"query": "Question: Why?", "choices": ["a", "b", "c"], "gold": 2},
        {"question": "Question: Why?\nAnswer:", "choices": ["a", "b", "c"], "target": 2},
    ),
    "openbook_qa": (
        {"query": "Fog is near", "choices": ["a marsh", "a desert"], "gold": 0},
        {"question": "Fog is near", "choices": ["a marsh", "a desert"], "target": 0},
    ),
    "piqa": (
        {"query": "Question: dry hair\n", "choices": ["towel", "tin"], "gold": 0},
        {"question": "Question: dry hair\nAnswer:", "choices": ["towel", "tin"], "target": 0},
    ),
    "boolq": (
        {"query": "Passage: It is.\nQuestion: is it?", "choices": ["no", "yes"], "gold": 1},
        {"question": "It is.\nQuestion: is it?\nAnswer:", "choices": ["no", "yes"], "target": 1},
    ),
    "copa": (
        {"query": "He fell, because", "choices": ["he slept.", "he slipped."], "gold": 1},
        {"question": "He fell because", "choices": ["he slept.", "he slipped."], "target": 1},
    ),
    "winogrande": (
        {"context_options": ["Ann saw", "Bea saw"], "continuation": "her.", "gold": 0},
        {"question": 0, "choices": ["Ann saw", "Bea saw"], "target": "her."},
    ),
}
QUESTIONS["arc_challenge"] = QUESTIONS["arc_easy"]


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_templates_ask_as_lm_eval_does(tmp_path, name):
    row, question = QUESTIONS[name]
    (tmp_path / f"{name}.jsonl").write_text(json.dumps(row))
    [task] = read_tasks([TEMPLATES / f"{name}.yaml"], tmp_path)
    assert task.questions == (question,)
    assert task.name == f"{name}_file"  # apart from lm-eval's own
    assert "acc" in task.metrics


def test_every_template_is_tested():
    assert {path.stem for path in TEMPLATES.glob("*.yaml")} == set(QUESTIONS)


def test_copa_of_an_effect_loses_its_comma_too(tmp_path):
    row = {"query": "It rained, hard, therefore", "choices": ["a", "b"], "gold": 0}
    (tmp_path / "copa.jsonl").write_text(json.dumps(row))
    [task] = read_tasks([TEMPLATES / "copa.yaml"], tmp_path)
    assert task.questions[0]["question"] == "It rained, hard therefore"
