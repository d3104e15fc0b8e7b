"""A journal read while another writes it: every whole line once, and nothing is changed."""

import pytest
from layouts import small_layout

from optishear.errors import ConfigError
from optishear.recipe.recipe import Recipe
from optishear.records.journal import Journal, has_writer
from optishear.records.reader import JournalReader


LAYERS = list(small_layout().sizes)


def append(journal, index):
    recipe = Recipe.of({"name": "wanda"}, dict.fromkeys(LAYERS, index), "row")
    return journal.append(recipe, 64, {"values": {"kl": 0.1}, "reason": "", "seconds": 0.1})


def test_every_line_is_read_once_as_it_comes(tmp_path):
    path = tmp_path / "journal.jsonl"
    reader = JournalReader(path)
    assert reader.new() == []
    with Journal(path, {"model": "abc"}, LAYERS) as journal:
        assert (reader.new(), reader.layers) == ([], LAYERS)
        first, second = append(journal, 1), append(journal, 2)
        assert reader.new() == [first, second]
        assert reader.new() == []
        third = append(journal, 3)
        assert reader.new() == [third]


def test_a_torn_last_line_is_read_when_it_is_whole(tmp_path):
    path, copy = tmp_path / "journal.jsonl", tmp_path / "copy.jsonl"
    with Journal(path, {"model": "abc"}, LAYERS) as journal:
        entries = [append(journal, index) for index in range(3)]
    content, reader, read = path.read_bytes(), JournalReader(copy), []
    for end in range(0, len(content) + 1, 7):
        copy.write_bytes(content[:end])
        read += reader.new()
        assert len(read) == max(content[:end].count(b"\n") - 1, 0)
    copy.write_bytes(content)
    assert read + reader.new() == entries


def test_a_damaged_line_and_a_foreign_file_are_said(tmp_path):
    (tmp_path / "a").write_text("no journal\n")
    with pytest.raises(ConfigError, match="damaged"):
        JournalReader(tmp_path / "a").new()
    (tmp_path / "b").write_text('{"format": "other/9"}\n')
    with pytest.raises(ConfigError, match="not a journal of this version"):
        JournalReader(tmp_path / "b").new()


def test_one_can_ask_whether_a_journal_is_being_written_without_touching_it(tmp_path):
    path = tmp_path / "journal.jsonl"
    assert has_writer(path) is False
    assert not list(tmp_path.iterdir())
    with Journal(path, {"model": "abc"}, LAYERS) as journal:
        assert has_writer(path) is True
        append(journal, 1)
    assert has_writer(path) is False
    with Journal(path, {"model": "abc"}, LAYERS) as journal:  # asking left nothing locked
        append(journal, 2)


def test_where_locks_cannot_be_opened_it_is_not_known(tmp_path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    path.with_suffix(".lock").touch()

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refused)
    assert has_writer(path) is None
