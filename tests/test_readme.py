"""README against the code that it describes: its tables, its map, and every command in it."""

import os
import re
import shlex
import shutil
from pathlib import Path

from typer.testing import CliRunner

from optishear.cli import app
from optishear.solvers.methods import METHODS


ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [line for line in README.splitlines() if line.startswith("optishear ")]
# As README has them these take a minute; the test asks the same of fewer recipes and windows.
QUICK = ["--set", "search.evaluations=24", "--set", "text.evaluation.sequences=4"]
FETCHES = ("smollm2_60",)  # experiments whose model comes from a package registry


def test_the_table_of_methods_is_that_of_the_code():
    cells = r"^\| `([\w-]+)` \| (\w+) \| ([\w:]+) \| (\w+) \| (\w+) \|"
    rows = re.findall(cells, README, flags=re.MULTILINE)
    code = [
        (name, m.metric["name"], m.pattern, m.quadratic, m.solver["name"])
        for name, m in METHODS.items()
    ]
    assert sorted(rows) == sorted(code)


def test_every_folder_of_the_package_is_on_the_map():
    for folder in sorted((ROOT / "optishear").iterdir()):
        if folder.is_dir() and (folder / "__init__.py").exists():
            assert f"{folder.name}/" in README, folder.name


def test_every_command_that_is_mentioned_exists():
    known = {command.callback.__name__ for command in app.registered_commands if command.callback}
    known = {name.rstrip("_") for name in known}
    named = set(re.findall(r"(?:^|`)optishear (\w+)", README, flags=re.MULTILINE))
    assert len(named) > 10
    assert named <= known


def test_every_page_and_picture_that_is_linked_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 10
    assert not [
        link for link in links if not link.startswith("http") and not (ROOT / link).exists()
    ]


def test_every_command_runs_in_the_order_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPTISHEAR_CACHE", str(tmp_path / "cache"))
    shutil.copytree(ROOT / "results" / "smollm2_60", tmp_path / "results" / "smollm2_60")
    assert len(COMMANDS) > 15
    for line in COMMANDS:
        words = shlex.split(line)[1:]
        if words[0] in ("search", "plan"):
            if words[1] in FETCHES and os.environ.get("OPTISHEAR_TEST_NETWORK") != "1":
                continue
            words += QUICK
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, (line, result.output, result.exception)
    for place in ("knee/recipe.json", "pruned/model.safetensors", "masks.safetensors"):
        assert (tmp_path / place).exists(), place
