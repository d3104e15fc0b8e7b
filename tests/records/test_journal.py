import errno
import json
import multiprocessing
import os

import pytest
from layouts import small_layout
from waiting import until

from optishear.errors import ConfigError, StorageError
from optishear.recipe.recipe import Recipe
from optishear.records.journal import Journal, memo_of, read_journal, recipe_of


LAYERS = list(small_layout().sizes)
MEASURE = {"model": "abc", "threads": 2}


def recipe(drop):
    return Recipe.of({"name": "wanda"}, dict.fromkeys(LAYERS, drop), "row")


def outcome(value):
    return {"values": {"kl": value}, "reason": "", "seconds": 0.1}


def journal(path, measure=MEASURE):
    return Journal(path, measure, LAYERS)


def test_what_was_appended_is_there_when_opened_again(tmp_path):
    path = tmp_path / "journal.jsonl"
    with journal(path) as first:
        first.append(recipe(1), 512, outcome(1e-17))
        first.append(recipe(1), 2048, outcome(0.5))
    with journal(path) as second:
        assert second.entries[recipe(1).key, 512]["values"] == {"kl": 1e-17}
        assert second.entries[recipe(1).key, 2048]["values"] == {"kl": 0.5}
        [entry, _] = second.entries.values()
    assert recipe_of(entry, LAYERS) == recipe(1)


def test_a_line_torn_by_a_crash_is_dropped_and_the_rest_is_kept(tmp_path):
    path = tmp_path / "journal.jsonl"
    with journal(path) as first:
        first.append(recipe(1), 512, outcome(0.1))
    with path.open("ab") as file:
        file.write(b'{"key": "b", "val')
    with journal(path) as second:
        assert len(second.entries) == 1
        second.append(recipe(2), 512, outcome(0.2))
    with journal(path) as third:
        assert len(third.entries) == 2


@pytest.mark.parametrize("torn", [b"", b'{"format"'])
def test_a_crash_before_the_first_line_was_whole_starts_afresh(tmp_path, torn):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(torn)
    with journal(path) as again:
        again.append(recipe(1), 512, outcome(0.1))
    header, entries, _ = read_journal(path)
    assert header["measure"] == MEASURE
    assert len(entries) == 1


def test_damage_in_the_middle_is_said_not_skipped(tmp_path):
    path = tmp_path / "journal.jsonl"
    with journal(path) as first:
        first.append(recipe(1), 512, outcome(0.1))
        first.append(recipe(2), 512, outcome(0.1))
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], lines[1][:9], lines[2]]) + b"\n")
    with pytest.raises(ConfigError, match="damaged in the middle"), journal(path):
        pass


def test_a_journal_of_another_measure_is_refused_and_left_as_it_was(tmp_path):
    path = tmp_path / "journal.jsonl"
    with journal(path) as first:
        first.append(recipe(1), 512, outcome(0.1))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"threads was 2 and is now 1.*another --out"):
        with journal(path, {**MEASURE, "threads": 1}):
            pass
    with pytest.raises(ConfigError, match="the layers differ"):
        with Journal(path, MEASURE, LAYERS[:-1]):
            pass
    assert path.read_bytes() == before


def _hold(path, ready, release):
    with journal(path):
        ready.set()
        release.wait()


def test_a_run_directory_in_use_is_refused_until_its_writer_is_gone(tmp_path):
    path = tmp_path / "journal.jsonl"
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(path, ready, release))
    holder.start()
    try:
        until(ready.is_set, still=holder.is_alive)
        with pytest.raises(ConfigError, match="another process is writing"), journal(path):
            pass
    finally:
        holder.kill()  # a dead writer holds nothing
        holder.join()
    with journal(path) as mine:
        mine.append(recipe(1), 512, outcome(0.1))


def test_a_full_disk_is_a_sentence_and_costs_one_line(tmp_path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    with journal(path) as first:
        first.append(recipe(1), 512, outcome(0.1))

        def full(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(StorageError, match=r"No space left.*1 evaluations before are safe"):
                first.append(recipe(2), 512, outcome(0.2))
    with journal(path) as second:
        assert (recipe(1).key, 512) in second.entries


def test_other_journals_of_the_same_measure_are_a_memo_and_stay_untouched(tmp_path, caplog):
    same, other, broken = (tmp_path / f"{name}.jsonl" for name in ("same", "other", "broken"))
    with journal(same) as first:
        first.append(recipe(1), 512, outcome(0.1))
    with journal(other, {**MEASURE, "model": "xyz"}) as second:
        second.append(recipe(2), 512, outcome(0.2))
    broken.write_text("no journal\n")
    before = same.read_bytes()
    memo = memo_of([same, other, broken], MEASURE, LAYERS)
    assert list(memo) == [(recipe(1).key, 512)]
    assert same.read_bytes() == before
    assert "not used as a memo" in caplog.text


def test_a_line_stores_counts_without_names(tmp_path):
    path = tmp_path / "journal.jsonl"
    with journal(path) as first:
        first.append(recipe(7), 512, outcome(0.1))
    line = json.loads(path.read_text().splitlines()[1])
    assert line["drop"] == [7] * len(LAYERS)
    assert LAYERS[0] not in path.read_text().splitlines()[1]
