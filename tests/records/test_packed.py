"""A packed run is the run: read as its folder is, never written to, and refused if damaged."""

import lzma
import tarfile
from io import BytesIO

import pytest

from optishear.errors import ConfigError
from optishear.records.packed import (
    LEAST_LIMIT,
    MOST_TIMES,
    archive_of,
    content_of,
    is_there,
    written_at,
)
from optishear.records.reader import JournalReader
from optishear.records.run_directory import RunDirectory, find_run, run_at, runs_under


FILES = {"manifest.json": b"{}", "journal.jsonl": b"one\ntwo\n", "front.json": b"[1]"}


def packed(folder, name="abc", files=FILES):
    path = folder / f"{name}.tar.xz"
    path.write_bytes(archive_of(name, files))
    return path


def tarred(*members):
    content = BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, kind in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            archive.addfile(member, BytesIO())
    return content.getvalue()


def test_a_file_of_an_archive_is_read_as_one_of_a_folder(tmp_path):
    archive = packed(tmp_path)
    assert content_of(archive / "journal.jsonl") == b"one\ntwo\n"
    assert content_of(archive / "journal.jsonl", 4) == b"two\n"
    assert is_there(archive / "front.json")
    assert not is_there(archive / "evaluation.json")
    assert written_at(archive / "front.json") == archive.stat().st_mtime
    with pytest.raises(FileNotFoundError):
        content_of(archive / "evaluation.json")
    assert [path.name for path in tmp_path.iterdir()] == ["abc.tar.xz"]


def test_tar_makes_the_folder_again(tmp_path):
    with tarfile.open(packed(tmp_path)) as archive:
        archive.extractall(tmp_path, filter="data")
    assert {path.name: path.read_bytes() for path in (tmp_path / "abc").iterdir()} == FILES


def test_the_same_files_give_the_same_bytes_in_whatever_order_and_whenever(tmp_path, monkeypatch):
    first = archive_of("abc", FILES)
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert archive_of("abc", dict(reversed(FILES.items()))) == first


def test_an_archive_that_was_replaced_is_read_anew(tmp_path):
    archive = packed(tmp_path)
    assert content_of(archive / "front.json") == b"[1]"
    packed(tmp_path, files={**FILES, "front.json": b"[1, 2]" * 99})
    assert content_of(archive / "front.json") == b"[1, 2]" * 99


@pytest.mark.parametrize(
    ("damaged", "sentence"),
    [
        (lambda whole: whole[:-20], "is cut off after"),
        (lambda whole: whole[:40], "is cut off after 40 bytes"),
        (lambda whole: b"", "is cut off after 0 bytes"),
        (lambda whole: b"PK" + whole[2:], "is damaged, or not xz"),
        (lambda whole: whole[:80] + bytes([whole[80] ^ 255]) + whole[81:], "is damaged, or not xz"),
        (lambda whole: lzma.compress(b"no archive" * 100), "holds no folder of a run"),
        (lambda whole: lzma.compress(lzma.decompress(whole)[:600]), "holds no folder of a run"),
        (lambda whole: archive_of("abc", {"manifest.json": b"{}"}), "holds no journal.jsonl"),
        (lambda whole: archive_of("abc", {**FILES, "x.sh": b""}), "holds 'abc/x.sh', which is"),
        (lambda whole: archive_of("..", {"../../passwd": b""}), "holds '../../../passwd', which"),
        (lambda whole: lzma.compress(tarred(("abc/front.json", tarfile.SYMTYPE))), "which is none"),
        (lambda whole: lzma.compress(tarred(*[("abc/front.json", tarfile.REGTYPE)] * 2)), "which"),
    ],
)
def test_a_damaged_or_strange_archive_is_one_sentence_that_names_it(damaged, sentence, tmp_path):
    archive = packed(tmp_path)
    archive.write_bytes(damaged(archive.read_bytes()))
    with pytest.raises(ConfigError, match=sentence) as error:
        content_of(archive / "front.json")
    assert str(error.value).startswith(f"{archive}: ")
    assert "\n" not in str(error.value)


def test_an_archive_that_unpacks_to_far_more_than_a_run_is_not_unpacked(tmp_path):
    bomb = packed(tmp_path, files={**FILES, "front.json": bytes(LEAST_LIMIT)})
    assert bomb.stat().st_size * MOST_TIMES < LEAST_LIMIT
    with pytest.raises(ConfigError, match="unpacks to more than 67 MB"):
        is_there(bomb / "front.json")


def test_a_run_is_found_packed_by_the_name_of_its_folder_and_by_its_own(tmp_path):
    (tmp_path / "x").mkdir()
    archive = packed(tmp_path / "x")
    for place in (archive, tmp_path / "x" / "abc", tmp_path / "x"):
        assert find_run(place).path == archive
        assert [run.path for run in runs_under(place)] == [archive]
    assert run_at(tmp_path / "x" / "abc").packed
    assert not run_at(tmp_path / "x" / "other").packed
    assert [run.path for run in runs_under(tmp_path)] == [archive]


def test_packed_runs_and_folders_stand_in_the_order_of_their_names(tmp_path):
    for name in ("b", "d"):
        packed(tmp_path, name)
    for name in ("a", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    assert [run.path.name[0] for run in runs_under(tmp_path)] == ["a", "b", "c", "d"]
    with pytest.raises(ConfigError, match="holds 4 runs, name one"):
        find_run(tmp_path)


@pytest.mark.parametrize("name", ["manifest.json", "journal.jsonl"])
def test_a_run_that_is_there_twice_is_refused(name, tmp_path):
    archive, folder = packed(tmp_path), tmp_path / "abc"
    folder.mkdir()
    (folder / name).write_text("{}")
    for place in (folder, archive):
        with pytest.raises(ConfigError, match=r"abc: is there as a folder and packed, as abc\.tar"):
            find_run(place)
    with pytest.raises(ConfigError, match="is there as a folder and packed"):
        runs_under(tmp_path)


def test_what_is_made_of_a_packed_run_lies_beside_it(tmp_path):
    run = RunDirectory(packed(tmp_path))
    names = {path.name for path in (run.figures, run.report, run.study)}
    assert names == {"abc.figures", "abc.report.html", "abc.optuna.log"}
    assert {run.figures.parent, run.report.parent, run.study.parent} == {tmp_path}


def test_the_journals_of_packed_runs_are_siblings_too(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    packed(tmp_path / "one", "a")
    archive = packed(tmp_path / "two", "b")
    assert RunDirectory(tmp_path / "one" / "a.tar.xz").siblings() == [archive / "journal.jsonl"]


def test_a_reader_has_read_a_packed_journal_after_one_look(tmp_path):
    header = b'{"format": "optishear-journal/1", "layers": ["a"], "measure": {}}\n'
    archive = packed(tmp_path, files={**FILES, "journal.jsonl": header})
    reader = JournalReader(archive / "journal.jsonl")
    assert reader.new() == reader.new() == []
    assert reader.layers == ["a"]
