"""Files of a finished run that were damaged or edited: which one, and that `search` mends it."""

import json
import shutil

import pytest
from drawable_run import finish, make_run
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import mutated

from optishear.errors import ConfigError
from optishear.records.run_directory import RunDirectory
from optishear.report.page.contents import read_contents
from optishear.report.page.question import configuration
from optishear.report.run_table import brief_table, finished_runs, run_table
from optishear.report.watching import RunWatch
from optishear.runs.results import Run, finished


FILES = ("manifest", "front", "evaluation", "layout")
ENDING = {"evaluations": 8, "failed": 0, "measured_now": 8, "seconds": 1.0, "rungs": [4096]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("run") / "made-up" / "abc", candidates=8, blocks=2)
    finish(run, **ENDING)
    front = json.loads(run.front.read_text())
    run.layout.write_text(json.dumps(front["layout"]))
    text = {"source": "sotu", "split": "train", "sequences": 4, "seq_len": 64}
    made_with = {"model": "embedded", "calibration": text, "calibration_hash": "c"}
    storage = {"other_weights": 10, "bytes_per_weight": 4}
    run.front.write_text(json.dumps({**front, "made_with": made_with, "storage": storage}))
    return run


def read_everything(run):
    """All that commands do with a finished run's files, short of drawing."""
    return (
        lambda: [Run(run).front.row(entry) for entry in Run(run).front.entries],
        lambda: Run(run).front.pick(),
        lambda: configuration(read_contents(run)),
        lambda: RunWatch(run).snapshot().to_json(),
        lambda: [
            table(runs)
            for runs in finished_runs([run.path], dirty=True).values()
            for table in (run_table, brief_table)
        ],
    )


def test_a_whole_run_is_read(run):
    for read in read_everything(run):
        read()
    manifest, damage = finished(run)
    assert (manifest["status"], damage) == ("finished", "")


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_with_what_mends_it(run, tmp_path, name):
    copy = RunDirectory(shutil.copytree(run.path, tmp_path / "copy"))
    path = getattr(copy, name)
    for content in (b"", b"\xff\xfe", b"[]", b"null", b'{"a": 1, "a": 2}', b'{"a": '):
        path.write_bytes(content)
        manifest, damage = finished(copy)
        assert manifest is None
        assert damage.startswith(str(path))
    told = 0
    for read in read_everything(copy):
        try:
            read()
        except ConfigError as error:
            told += 1
            assert str(path) in str(error)  # noqa: PT017
            assert "`optishear search`" in str(error)  # noqa: PT017
    assert told


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_whatever_is_changed_is_read_or_refused(run, name, data):
    path = getattr(run, name)
    before = path.read_text()
    path.write_text(data.draw(mutated(json.loads(before))))
    try:
        finished(run)
        for read in read_everything(run):
            try:
                read()
            except ConfigError:
                continue
    finally:
        path.write_text(before)
