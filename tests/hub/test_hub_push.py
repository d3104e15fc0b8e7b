"""`optishear export RUN|DIR --to-hub ORG/NAME`: what is pushed, what its card says, and what is not
written over."""

import json
import re
import shutil
from pathlib import Path

import pytest
from hub_imitation import GOOD
from test_hub_commands import MODEL, origin_of, prune
from test_hub_datasets import THREE
from typer.testing import CliRunner

from optishear.cli import app
from optishear.models.catalog import folder_of
from optishear.models.hub import commit_in
from optishear.reading.yaml_data import yaml_of


RUN = Path(__file__).parents[2] / "results" / "demo" / "quickstart"
CARD = b"---\nlicense: apache-2.0\nlanguage: [en]\npipeline_tag: other\n---\n# Dense\n"


def export(place, *options: str):
    return CliRunner().invoke(app, ["export", str(place), "--to-hub", "me/pruned", *options])


def front_of(card: str) -> dict:
    return yaml_of(card.split("---")[1], "card")


@pytest.fixture
def pruned(hub, tmp_path, monkeypatch):
    """A pruned folder of a model of the Hub, pruned with text of the Hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    hub.model("org/tiny", {**MODEL, "README.md": CARD, "LICENSE": b"words"})
    hub.dataset("org/text", THREE)
    assert prune(tmp_path / "pruned").exit_code == 0
    monkeypatch.setenv("HF_TOKEN", GOOD)
    hub.asked.clear()
    return tmp_path / "pruned"


def test_a_checkpoint_goes_there_whole_with_a_card_and_comes_back(hub, pruned):
    dry = export(pruned, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert not hub.asked
    assert "bytes would go to me/pruned, a new, private repository" in dry.stdout

    done = export(pruned)
    assert done.exit_code == 0, done.output
    stored = hub.stored["models", "me/pruned"]
    assert stored.private
    assert done.stdout.strip().endswith(f"/me/pruned/commit/{stored.names['main']}")
    files = stored.commits[stored.names["main"]]
    here = {path.name: path.read_bytes() for path in pruned.iterdir()}
    assert files.keys() == {*here, "README.dense.md", ".gitattributes"}
    changed = {name for name in here if files[name] != here[name]}
    assert changed == {"README.md", "optishear.sha256"}
    assert files["README.dense.md"] == CARD
    assert files["README.md"].decode() in dry.stdout + "\n"
    for line in files["optishear.sha256"].decode().splitlines():
        assert line.split()[1] in files
    back = folder_of("me/pruned")
    assert commit_in(back) == stored.names["main"]
    assert (back / "model.safetensors").read_bytes() == here["model.safetensors"]

    again = export(pruned)
    assert again.exit_code == 2
    assert "me/pruned: holds LICENSE already, and nothing is written over" in again.stderr


def test_its_card_says_what_it_is_and_how_it_is_made_again(hub, pruned):
    told = json.loads(export(pruned, "--dry-run", "--json").stdout)
    card, made = told["card"], origin_of(pruned)
    assert told["url"] is None
    assert told["files"]["model.safetensors"] == (pruned / "model.safetensors").stat().st_size
    assert front_of(card) == {
        "base_model": "org/tiny",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["pruned", "sparse", "optishear"],
        "license": "apache-2.0",
        "language": ["en"],
    }
    for word in (made["model_commit"], made["model_hash"], made["calibration_hash"], "wanda, mask"):
        assert word in card
    assert "50.00 % of its prunable weights set to zero" in card
    assert "the files are as large as the dense model's" in card
    assert "Its quality was not measured when this was written" in card
    command = re.search(r"```\n(.*?)\n```", card, re.DOTALL)
    assert command is not None
    text = f"dataset:org/text@{made['calibration_commit']}@train"
    assert command[1].replace(" \\\n ", "").split() == [
        *("optishear", "prune", "--model", f"org/tiny@{made['model_commit']}"),
        *("--recipe", "optishear_recipe.json", "--text", text),
        *("--sequences", "4", "--seq-len", "32", "--to", "pruned/"),
    ]


def test_a_folder_that_was_changed_or_is_of_others_is_not_pushed(hub, pruned, tmp_path):
    other = shutil.copytree(pruned, tmp_path / "other")
    (other / "optishear_recipe.json").unlink()
    assert "so nobody knows how it was pruned" in export(other).stderr
    (pruned / "model.safetensors").write_bytes(b"0")
    assert "model.safetensors has changed since it was written" in export(pruned).stderr
    assert not hub.asked


def test_without_the_right_to_write_it_is_one_sentence(hub, pruned, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_expiredLongAgo")
    done = export(pruned)
    assert done.exit_code == 2
    assert "error: --to-hub me/pruned: could not be pushed (HfHubHTTPError: " in done.stderr
    assert "expired" not in done.output


def test_a_run_goes_as_a_recipe_with_what_was_measured(hub):
    dry = json.loads(export(RUN, "--dry-run", "--json").stdout)
    assert dry["files"].keys() == {"README.md", "recipe.json", "profile.csv", "profile.json"}
    card = dry["card"]
    assert "base_model" not in front_of(card)  # `embedded` is no model of the Hub
    assert "A recipe of optishear that sets 61.09 % of `embedded`'s prunable weights to 0." in card
    assert "| dense | 25.34 ± 0.85 |" in card
    assert "| found | 32.29 ± 1.12 |" in card
    assert "wanda" not in card.partition("Held-out perplexity")[2]
    assert "prune --model embedded --recipe recipe.json" in card


@pytest.mark.parametrize("name", ["me", "me/pruned@main", "https://huggingface.co/me/pruned"])
def test_what_is_no_name_of_a_repository_is_refused(name):
    done = CliRunner().invoke(app, ["export", str(RUN), "--to-hub", name])
    assert f"--to-hub {name}: is no name of a repository. Write ORG/NAME." in done.stderr
