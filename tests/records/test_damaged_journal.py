"""A journal that was edited, put together or damaged: a sentence with the line, and no more."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import small_layout
from mutations import mutated, text_of

from optishear.errors import ConfigError
from optishear.recipe.recipe import Recipe
from optishear.records.journal import Journal, read_journal
from optishear.records.reader import JournalReader
from optishear.records.run_directory import RunDirectory, write_json
from optishear.report.evaluations import evaluations_table


LAYOUT = small_layout()
LAYERS = list(LAYOUT.sizes)
MEASURE = {"model": "abc", "threads": 2, "quantities": ["kl", "sparsity"]}


def lines_of(path):
    """A header, two successes (one under MOONSHOT) and a failure, as they are written."""
    moonshot = {"name": "moonshot", "lambda": {LAYERS[0]: 0.5}, "damping": 0.01}
    power = {"name": "power", "alpha": 1.0}
    with Journal(path, MEASURE, LAYERS) as journal:
        for drop, quadratic in ((1, None), (2, moonshot)):
            counts = dict.fromkeys(LAYERS, drop)
            more = {} if quadratic is None else {"quadratic": quadratic}
            recipe = Recipe.of(power, counts, "row", {"name": "mask"}, **more)
            values = {"kl": 0.5, "sparsity": 0.25}
            journal.append(recipe, 64, {"values": values, "reason": "", "seconds": 0.1})
        recipe = Recipe.of({"name": "wanda"}, dict.fromkeys(LAYERS, 3), "row")
        journal.append(recipe, 64, {"values": None, "reason": "singular", "seconds": 0.1})
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run with such a journal, and its lines."""
    run = RunDirectory(tmp_path_factory.mktemp("run") / "made-up" / "abc")
    run.path.mkdir(parents=True)
    write_json(run.layout, LAYOUT.to_json())
    return run, lines_of(run.journal)


def written(run, texts):
    run.journal.write_text("".join(f"{text}\n" for text in texts))
    return run.journal


def test_it_is_read_as_it_was_written(run):
    folder, lines = run
    path = written(folder, map(text_of, lines))
    assert read_journal(path)[:2] == (lines[0], lines[1:])
    assert JournalReader(path).new() == lines[1:]


def changed(line, **changes):
    return {key: value for key, value in (line | changes).items() if value != "gone"}


@pytest.mark.parametrize(
    ("number", "line", "sentence"),
    [
        (1, lambda old: changed(old[0], layers="a"), r"line 1: layers: .*found 'a'"),
        (1, lambda old: changed(old[0], layers=["a", "a"]), r"line 1: layers: one is named twice"),
        (1, lambda old: changed(old[0], measure="gone"), r"line 1: measure is missing"),
        (3, lambda old: old[0], r"line 3: is the first line of a journal, so two were put"),
        (3, lambda _: [1, 2], r"line 3: is list, not an object"),
        (3, lambda _: None, r"line 3: is NoneType"),
        (2, lambda old: changed(old[1], rung="gone"), r"line 2: rung is missing"),
        (2, lambda old: changed(old[1], rung="64"), r"line 2: rung: .*found '64'"),
        (2, lambda old: changed(old[1], drop=old[1]["drop"][1:]), r"line 2: drop: has \d+ counts"),
        (2, lambda old: changed(old[1], drop=[9] * len(LAYERS)), r"line 2: key: .*was changed"),
        (2, lambda old: changed(old[1], values={"kl": "@NaN"}), r"line 2: damaged .*NaN"),
        (2, lambda old: changed(old[1], values={"kl": 1.0}), r"line 2: values: 'sparsity' is miss"),
        (2, lambda old: changed(old[1], values=None), r"line 2: values and reason"),
        (2, lambda old: changed(old[1], pattern="2:"), r"line 2: .*pattern"),
        (2, lambda old: changed(old[1], solver={}), r"line 2: solver: name is missing"),
        (3, lambda old: changed(old[2], quadratic={"name": "x"}), r"line 3: .*quadratic"),
    ],
)
def test_what_is_no_entry_is_told_with_its_line_and_what_to_do(run, number, line, sentence):
    folder, lines = run
    texts = [text_of(old) for old in lines]
    texts[number - 1] = text_of(line(lines))
    path = written(folder, texts)
    for read in (lambda: read_journal(path), JournalReader(path).new):
        with pytest.raises(ConfigError, match=rf"journal\.jsonl, {sentence}") as raised:
            read()
        assert "Restore the file" in str(raised.value)


def test_the_line_is_counted_from_the_first_though_it_comes_later(run):
    folder, lines = run
    path = written(folder, map(text_of, lines[:3]))
    reader = JournalReader(path)
    assert len(reader.new()) == 2
    written(folder, [*map(text_of, lines[:3]), "[]"])
    with pytest.raises(ConfigError, match=r"line 4: is list"):
        reader.new()


def test_taking_the_line_out_mends_it(run):
    folder, lines = run
    path = written(folder, map(text_of, [*lines[:2], *lines[3:]]))
    with Journal(path, MEASURE, LAYERS) as journal:
        assert len(journal.entries) == 2


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_changed_is_read_or_refused(run, data):
    """Nothing but the sentence leaves a reader, and what it lets through can be worked with."""
    folder, lines = run
    texts = [text_of(line) for line in lines]
    number = data.draw(st.integers(0, len(lines) - 1))
    texts[number] = data.draw(mutated(lines[number]))
    path = written(folder, texts)
    try:
        entries = read_journal(path)[1]
    except ConfigError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
        with pytest.raises(ConfigError):
            JournalReader(path).new()
        return
    assert JournalReader(path).new() == entries
    assert len(evaluations_table(folder)) == len(entries)
