"""Stopped or out of room while it writes, prune leaves nothing; what it wrote, it knows again."""

import errno
import os
import shutil
import signal
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from tiny_folders import tensors_of, tiny_folder
from typer.testing import CliRunner

from optishear.cli import app
from optishear.export import checkpoint


FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return tiny_folder("llama", tmp_path_factory.mktemp("dense") / "llama", shards="1GB")


@pytest.fixture
def prune(dense):
    def run(to, *more, code=0):
        words = ["prune", "--model", dense, "--method", "magnitude", "--sparsity", "0.5"]
        words += ["--text", "embedded", "--sequences", "2", "--seq-len", "16", "--to", to, *more]
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return run


def names_below(folder):
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("mode", [[], ["--stream"]], ids=["whole", "stream"])
@pytest.mark.parametrize("umask", [0o027, 0o002], ids=oct)
def test_files_and_folders_have_the_permissions_of_the_umask(mode, umask, prune, tmp_path):
    before = os.umask(umask)
    try:
        prune(tmp_path / "pruned", *mode)
    finally:
        os.umask(before)
    assert (tmp_path / "pruned").stat().st_mode & 0o777 == 0o777 & ~umask
    files = list((tmp_path / "pruned").iterdir())
    assert {f.name: f.stat().st_mode & 0o777 for f in files} == {
        f.name: 0o666 & ~umask for f in files
    }


def full(*_, **__):
    raise SafetensorError(FULL)


@pytest.mark.parametrize("mode", [[], ["--stream"]], ids=["whole", "stream"])
def test_a_disk_that_is_full_is_told_in_a_sentence_and_no_half_copy_stays(
    mode, prune, tmp_path, monkeypatch
):
    for module in [m for name, m in sys.modules.items() if name.startswith("optishear.export")]:
        if hasattr(module, "save_file"):
            monkeypatch.setattr(module, "save_file", full)
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    result = prune(tmp_path / "pruned", *mode, code=1)
    [error] = [line for line in result.stderr.splitlines() if "error" in line]
    assert "the disk is full" in error
    assert "name another --to" in error
    assert not list(tmp_path.rglob("*.safetensors"))
    assert mode or not names_below(tmp_path)


def test_an_empty_folder_that_was_there_stays_and_so_does_a_link_to_it(prune, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    prune(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty" / "optishear_recipe.json").is_file()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_while_it_writes_leaves_no_copy_and_its_own_exit_code(
    name, prune, tmp_path, monkeypatch
):
    number = signal.Signals[name]
    before = signal.signal(number, signal.SIG_DFL)  # the suite itself may run under nohup
    written = []

    def stopped(folder):
        written.extend(names_below(tmp_path))
        os.kill(os.getpid(), number)

    monkeypatch.setattr(checkpoint, "seal", stopped)
    result = prune(tmp_path / "pruned", code=128 + number)
    assert any(file.endswith(".safetensors") for file in written)
    assert f"stopped by {name}" in result.stderr
    assert not names_below(tmp_path)
    assert signal.signal(number, before) == signal.SIG_DFL


STOPPED = """
import os, signal, sys
from optishear.cli import stopping
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
with stopping.orderly():
    os.kill(os.getpid(), signal.SIGHUP)
    print("goes on", flush=True)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        print("cleaned", flush=True)
"""


def test_what_nohup_ignores_stays_ignored_and_a_second_signal_disturbs_no_cleaning():
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True)
    assert done.stdout == "goes on\ncleaned\n"
    assert "Stopped: SIGTERM" in done.stderr


def restore_dense(dense, pruned):
    for path in dense.glob("*.safetensors"):
        shutil.copy(path, pruned / path.name)


def cut_off(dense, pruned):
    [path, *_] = pruned.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-4])


def other_configuration(dense, pruned):
    path = pruned / "config.json"
    path.write_text(path.read_text().replace('"rms_norm_eps": ', '"rms_norm_eps": 1'))


def weights_beside(dense, pruned):
    tensors = tensors_of(pruned)
    safetensors.torch.save_file(
        {n: torch.ones_like(t) for n, t in tensors.items()}, pruned / "other.safetensors"
    )


def no_hashes(dense, pruned):
    (pruned / "optishear.sha256").unlink()


def gone(dense, pruned):
    (pruned / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (restore_dense, "model.safetensors has changed since"),
        (cut_off, "has changed since"),
        (other_configuration, "config.json has changed since"),
        (weights_beside, "other.safetensors came there after"),
        (no_hashes, "nobody can tell whether the weights are still those"),
        (gone, "tokenizer.json has gone since"),
    ],
)
@pytest.mark.parametrize("mode", [[], ["--stream"]], ids=["whole", "stream"])
def test_already_there_is_only_what_holds_the_bytes_that_were_checked(
    mode, change, sentence, once, prune, tmp_path, dense
):
    shutil.copytree(once, tmp_path / "pruned")
    change(dense, tmp_path / "pruned")
    before = names_below(tmp_path)
    said = prune(tmp_path / "pruned", *mode, code=2).stderr
    assert sentence in said
    assert "already there" not in said
    assert names_below(tmp_path) == before


@pytest.fixture(scope="module")
def once(dense, tmp_path_factory):
    to = tmp_path_factory.mktemp("once") / "pruned"
    words = ["prune", "--model", dense, "--method", "magnitude", "--sparsity", "0.5"]
    words += ["--text", "embedded", "--sequences", "2", "--seq-len", "16", "--to", to]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, (result.output, result.exception)
    return to


def test_what_a_user_puts_beside_the_weights_does_not_matter(once, prune):
    (once / "NOTES.md").write_text("good")
    assert "already there" in prune(once).stderr
    done = subprocess.run(["sha256sum", "--check", "--quiet", "optishear.sha256"], cwd=once)
    assert done.returncode == 0


def test_a_disk_that_is_full_at_a_small_file_is_told_once(prune, tmp_path, monkeypatch):
    def no_room(self, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr("pathlib.Path.write_bytes", no_room)
    said = prune(tmp_path / "pruned", code=1).stderr
    assert said.count("the disk is full") == 1
    assert not names_below(tmp_path)
