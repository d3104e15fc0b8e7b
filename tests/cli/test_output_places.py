"""Where a command writes to is looked at first: before the model, the run or the file that it reads
is opened, in one sentence. None of those that are named here is there."""

import errno
import os
import tempfile

import pytest
from typer.testing import CliRunner

from optishear.cli import app


PRUNE = ["prune", "--model", "no/model", "--method", "wanda", "--sparsity", "0.5", "--to"]
MASKS = ["--format", "masks", "--to"]
FOLDERS = {
    "prune": PRUNE,
    "prune --stream": [*PRUNE[:-1], "--stream", "--to"],
    "search": ["search", "quickstart", "--set", "model=no/model", "--out"],
    "plan": ["plan", "quickstart", "--set", "model=no/model", "--out"],
    "export": ["export", "no-run", "--to"],
}
FILES = {
    ".json": {
        "export": ["export", "no-run", "--to"],
        "evaluate": ["evaluate", "no/model", "--text", "embedded", "--to"],
        "transfer": ["transfer", "no-run", "--model", "no/model", "--to"],
        "import": ["import", "no-file", "--model", "no/model", "--to"],
        "curves": ["curves", "no-run", "--budget", "0.5", "--to"],
    },
    ".safetensors": {"export of masks": ["export", "no-model", *MASKS]},
    ".html": {"report": ["report", "no-run", "--to"]},
    ".md": {
        "table": ["table", "no-run", "--to"],
        "table into a page": ["table", "--into"],
    },
    ".log": {
        "dashboard": ["dashboard", "no-run", "--no-serve", "--study"],
        "search together": [*FOLDERS["search"], "results", "--study"],
    },
}
WORDS = {name: (words, "") for name, words in FOLDERS.items()} | {
    f"{name} {ending}": (words, ending)
    for ending, commands in FILES.items()
    for name, words in commands.items()
}


@pytest.fixture(params=WORDS)
def refuse(request, tmp_path, monkeypatch):
    """Runs a command with a place below this one; what it says in refusing."""
    monkeypatch.chdir(tmp_path)
    words, ending = WORDS[request.param]

    def run(place):
        result = CliRunner().invoke(app, [*words, str(place.with_name(place.name + ending))])
        assert result.exit_code == 2, (result.output, result.exception)
        said = result.stderr + (result.stdout if words[0] == "plan" else "")
        if words[0] != "plan":  # it says all that is wrong
            assert said.count("\n") == 1
            assert "no-" not in said
            assert "no/" not in said
            assert "loading" not in said
        return " ".join(said.split())

    return run


def test_a_folder_above_that_is_a_file_is_named(refuse, tmp_path):
    (tmp_path / "thesis").write_text("precious")
    assert f"{tmp_path / 'thesis'} is a file" in refuse(tmp_path / "thesis" / "a" / "b")
    assert (tmp_path / "thesis").read_text() == "precious"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_place_that_cannot_be_written_to_says_why_and_nothing_is_left(
    refuse, number, tmp_path, monkeypatch
):
    def refused(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    assert f"cannot be written to ({os.strerror(number)})" in refuse(tmp_path / "new" / "place")
    assert not list(tmp_path.iterdir())


def test_a_link_to_nothing_is_named(refuse, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert f"{tmp_path / 'link'} is a link to nothing" in refuse(tmp_path / "link" / "place")


@pytest.mark.parametrize("words", [PRUNE, FOLDERS["prune --stream"]], ids=["whole", "stream"])
@pytest.mark.parametrize("kind", ["file", "link", "filled", "link to filled"])
def test_prune_takes_only_a_folder_that_is_empty_or_not_there(words, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "filled").symlink_to("mine")
    place, sentence = {
        "file": ("mine/thesis.txt", "is a file"),
        "link": ("link", "is a link to nothing"),
        "filled": ("mine", "is not empty (it holds thesis.txt)"),
        "link to filled": ("filled", "is not empty (it holds thesis.txt)"),
    }[kind]
    result = CliRunner().invoke(app, [*words, place])
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def test_what_is_named_but_not_there_leaves_no_folders_behind(tmp_path):
    for words, ending in WORDS.values():
        if "quickstart" not in words and "--into" not in words:
            CliRunner().invoke(app, [*words, str(tmp_path / "a" / f"b{ending}")])
            assert not list(tmp_path.iterdir()), words
