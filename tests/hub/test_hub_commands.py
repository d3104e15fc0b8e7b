"""Commands over the Hub: what they write of it, what they print, and that later ones need none."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_imitation import STRANGER, Trouble
from test_hub_datasets import THREE
from typer.testing import CliRunner

from optishear.assets.embedded import EMBEDDED_FOLDER
from optishear.cli import app
from optishear.cli.console import is_unsaid


MODEL = {
    name: (EMBEDDED_FOLDER / name).read_bytes()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
}
LITTLE = ["--sequences", "4", "--seq-len", "32"]


def prune(to: Path, *options: str, model: str = "org/tiny", text: str = "dataset:org/text@train"):
    asked = ["prune", "--model", model, "--to", str(to), "--text", text, *LITTLE, *options]
    return CliRunner().invoke(app, [*asked, "--method", "wanda", "--sparsity", "0.5"])


def origin_of(folder: Path) -> dict:
    return json.loads((folder / "optishear_recipe.json").read_text())["made_with"]


class TestPruning:
    def test_writes_both_commits_asks_for_each_once_and_needs_no_hub_again(
        self, hub, another_process, tmp_path
    ):
        model, text = hub.model("org/tiny", MODEL), hub.dataset("org/text", THREE)
        assert prune(tmp_path / "a").exit_code == 0
        made = origin_of(tmp_path / "a")
        assert (made["model"], made["model_commit"]) == ("org/tiny", model)
        assert made["calibration_commit"] == text
        assert sum(each.path == "/api/models/org/tiny" for each in hub.asked) == 1
        assert sum(each.path == "/api/datasets/org/text" for each in hub.asked) == 1
        another_process()
        hub.close()
        assert prune(tmp_path / "b").exit_code == 0
        weights = [(tmp_path / x / "model.safetensors").read_bytes() for x in "ab"]
        assert weights[0] == weights[1]
        assert origin_of(tmp_path / "b") == made

    def test_by_the_commits_that_were_written_is_the_same_whatever_is_pushed(
        self, hub, another_process, tmp_path
    ):
        model, text = hub.model("org/tiny", MODEL), hub.dataset("org/text", THREE)
        prune(tmp_path / "a")
        moved = json.loads(MODEL["config.json"]) | {"rms_norm_eps": 1e-4}
        hub.model("org/tiny", {**MODEL, "config.json": json.dumps(moved).encode()})
        hub.dataset("org/text", {name: THREE[next(iter(THREE))] for name in THREE})
        another_process()
        pinned = {"model": f"org/tiny@{model}", "text": f"dataset:org/text@{text}@train"}
        assert prune(tmp_path / "b", **pinned).exit_code == 0
        ours, theirs = origin_of(tmp_path / "a"), origin_of(tmp_path / "b")
        for name in ("model_hash", "calibration_hash", "model_commit", "calibration_commit"):
            assert ours[name] == theirs[name]

    def test_is_verified_against_the_commit_that_was_pruned(self, hub, another_process, tmp_path):
        hub.model("org/tiny", MODEL)
        hub.dataset("org/text", THREE)
        prune(tmp_path / "a")
        moved = json.loads(MODEL["config.json"]) | {"rms_norm_eps": 1e-4}
        hub.model("org/tiny", {**MODEL, "config.json": json.dumps(moved).encode()})
        another_process()
        result = CliRunner().invoke(app, ["verify", str(tmp_path / "a")])
        assert result.exit_code == 0, result.output

    def test_a_model_with_code_of_its_own_is_refused_and_its_code_not_fetched(self, hub, tmp_path):
        config = {"model_type": "novel", "auto_map": {"AutoConfig": "code.Config"}}
        own = {"config.json": json.dumps(config).encode(), "code.py": b"raise SystemExit('ran')"}
        hub.model("org/novel", {**MODEL, **own})
        hub.dataset("org/text", THREE)
        result = prune(tmp_path / "a", model="org/novel")
        assert result.exit_code == 2
        assert "models that bring code of their own are not run" in result.stderr
        assert "code.py" not in hub.files_asked("GET") + hub.files_asked("HEAD")


def test_a_process_of_its_own_says_each_warning_once_and_prints_no_token(hub, tmp_path):
    """With what both libraries read of the environment, and nothing patched."""
    hub.model("org/tiny", MODEL)
    hub.dataset("org/text", THREE)
    hub.model("org/gated", MODEL, gated=True)
    hub.trouble["model.safetensors"] = Trouble("cut", times=1)
    told = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": STRANGER}
    left = {
        k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    }
    printed = ""
    for number, model in enumerate(["org/tiny", "org/gated"]):
        command = [
            sys.executable,
            "-m",
            "optishear",
            "prune",
            "--model",
            model,
            "--method",
            "wanda",
        ]
        command += ["--sparsity", "0.5", "--to", str(tmp_path / str(number)), *LITTLE]
        command += ["--text", "dataset:org/text@train"]
        done = subprocess.run(command, env=left | told, capture_output=True, text=True, check=False)
        assert done.returncode == (0 if model == "org/tiny" else 2), done.stderr
        printed += done.stdout + done.stderr
    assert printed.count("Trying to resume download") == 1
    assert "error: org/gated: its terms are not accepted" in printed
    assert "Traceback" not in printed
    assert STRANGER not in printed


@pytest.mark.parametrize("library", ["huggingface_hub", "datasets"])
def test_a_warning_that_its_library_printed_is_not_said_again(library):
    __import__(library)
    record = logging.LogRecord(f"{library}.some.part", logging.WARNING, "", 0, "x", None, None)
    assert not is_unsaid(record)
    record.name = "optishear.models.hub"
    assert is_unsaid(record)
