"""A name on the command line that is also a path: which of the two is meant."""

import pytest

from optishear.assets.embedded import EMBEDDED_FOLDER
from optishear.errors import ConfigError
from optishear.models.catalog import folder_of
from optishear.tools.texts import text_named


def test_a_models_folder_wins_over_the_shipped_model_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "embedded").mkdir()
    assert folder_of("embedded") == EMBEDDED_FOLDER  # a folder of results, say
    assert folder_of("./embedded") == tmp_path / "embedded"
    (tmp_path / "embedded" / "config.json").write_text("{}")
    assert folder_of("embedded") == tmp_path / "embedded"


@pytest.mark.parametrize("name", ["no/such/folder/embedded", "./embedded", "../embedded"])
def test_a_path_to_no_model_is_no_shipped_one(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="there is no such folder"):
        folder_of(name)


def test_a_folder_is_a_folder_whatever_its_ending(tmp_path):
    (tmp_path / "small.gguf").mkdir()
    assert folder_of(str(tmp_path / "small.gguf")) == tmp_path / "small.gguf"


@pytest.mark.parametrize(
    ("text", "source", "split"),
    [
        ("sotu", "sotu", "evaluation"),
        ("sotu@train", "sotu", "train"),
        ("my.txt", "my.txt", "all"),
        ("my.txt@search", "my.txt", "search"),
        ("at@home/my.txt", "at@home/my.txt", "all"),
        ("at@home/my.txt@search", "at@home/my.txt", "search"),
        ("me@home.txt", "me@home.txt", "all"),
    ],
)
def test_an_at_in_a_path_names_no_split(text, source, split):
    found = text_named(text, 1, 8)
    assert (found.source, found.split) == (source, split)
