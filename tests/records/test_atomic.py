"""What is written is there whole or not at all, and readable for whom the umask lets read it."""

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from waiting import until

import optishear
from optishear.errors import StorageError
from optishear.records.atomic import replace_file, whole_file, whole_folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def closed(path: Path) -> None:
    """Written as safetensors does: through a file of its own that nobody else may read."""
    path.write_bytes(b"half a model")
    path.chmod(0o600)


def breaks_off(writing: AbstractContextManager[Path], error: Exception) -> None:
    with writing as half:
        closed(half / "c" if half.is_dir() else half)
        raise error


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_file_has_the_permissions_that_the_umask_gives(tmp_path, umask):
    with whole_file(tmp_path / "deeper" / "a.safetensors") as half:
        closed(half)
    assert mode(tmp_path / "deeper" / "a.safetensors") == 0o666 & ~umask
    assert mode(tmp_path / "deeper") == 0o777 & ~umask
    replace_file(tmp_path / "b.json", b"{}")
    assert mode(tmp_path / "b.json") == 0o666 & ~umask


def test_a_folder_and_all_in_it_have_the_permissions_that_the_umask_gives(tmp_path, umask):
    with whole_folder(tmp_path / "model") as half:
        closed(half / "a.safetensors")
        (half / "inner").mkdir(mode=0o700)
        closed(half / "inner" / "b.safetensors")
    folder = tmp_path / "model"
    assert {mode(p) for p in (folder, folder / "inner")} == {0o777 & ~umask}
    assert {mode(p) for p in folder.rglob("*.safetensors")} == {0o666 & ~umask}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyError("x")])
def test_what_breaks_off_changes_nothing_and_leaves_nothing(tmp_path, error):
    replace_file(tmp_path / "a", b"before")
    for writing in (whole_file(tmp_path / "a"), whole_folder(tmp_path / "b")):
        with pytest.raises((StorageError, KeyError)):
            breaks_off(writing, error)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"before"


def test_a_full_disk_that_a_library_in_rust_reports_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match=r"a: the disk is full.*or ask for less"):
        with whole_file(tmp_path / "a", "ask for less"):
            raise RuntimeError("Io(Os: write failed (os error 28))")


@pytest.mark.parametrize("in_the_way", ["a file for a folder", "a folder with something in it"])
def test_what_is_in_the_way_is_told_in_a_sentence_and_stays(tmp_path, in_the_way):
    if in_the_way == "a file for a folder":
        path = tmp_path / "file" / "a"
        path.parent.write_text("precious")
    else:
        path = tmp_path / "a"
        replace_file(path / "b", b"precious")
    with pytest.raises(StorageError, match=r"a: cannot be written .* Name another place"):
        with whole_folder(path) as half:
            closed(half / "c")
    assert [p.read_text() for p in tmp_path.rglob("*") if p.is_file()] == ["precious"]


def test_two_that_write_to_one_place_at_once_do_not_meet(tmp_path):
    path = tmp_path / "a"
    inside, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        with whole_file(path) as half:
            half.write_text("slow")
            inside.set()
            may_end.wait()

    other = threading.Thread(target=slow, daemon=True)
    other.start()
    until(inside.is_set, still=other.is_alive)
    replace_file(path, b"quick")
    assert path.read_text() == "quick"
    may_end.set()
    other.join()
    assert path.read_text() == "slow"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


KILLED = """
import os, signal, sys
from pathlib import Path
from optishear.records.atomic import whole_folder
with whole_folder(Path(sys.argv[1])) as half:
    (half / "weights").write_bytes(bytes(10))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_when_the_place_is_next_written(tmp_path):
    path = tmp_path / "model"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.rglob("weights")] == ["weights"]
    assert not path.exists()
    with whole_folder(path) as half:
        assert not list(half.iterdir())
    assert list(tmp_path.rglob("*")) == [path]


def test_no_other_module_moves_files_to_where_they_are_read():
    """One writer: permissions, leftovers and full disks would have to be seen to in each other."""
    root = Path(optishear.__file__).parent
    moves = re.compile(r"\bos\.(replace|rename)\(|\bmkstemp\(|\bshutil\.move\(|\.rename\(\w+\)")
    found = {
        p.relative_to(root).as_posix() for p in root.rglob("*.py") if moves.search(p.read_text())
    }
    assert found == {"records/atomic.py"}
