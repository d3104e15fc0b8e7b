"""README and tutorial against the code: tables, map, links, and every command in them."""

import re
import shlex
from pathlib import Path
from random import Random

import pytest
from tiny_folders import tiny_folder
from typer.testing import CliRunner

from optishear.cli import app
from optishear.solvers.methods import METHODS


ROOT = Path(__file__).resolve().parents[1]
README, TUTORIAL = ((ROOT / page).read_text() for page in ("README.md", "docs/tutorial.md"))
PAGES = {"README.md": README, "docs/tutorial.md": TUTORIAL}
# The pages' commands ask for what takes minutes; the test asks the same of few recipes and windows.
QUICK = ["search.evaluations=12", "search.population=6", "baselines=[wanda]"]
QUICK += [
    f"text.{purpose}.{size}"
    for purpose in ("calibration", "search", "evaluation")
    for size in ("sequences=4", "seq_len=48")
]


def test_the_table_of_methods_is_that_of_the_code():
    cells = r"^\| `([\w-]+)` \| (\w+) \| ([\w:]+) \| ([\w ,.]+) \| (\w+) \|"
    rows = re.findall(cells, README, flags=re.MULTILINE)
    code = [
        (name, m.metric["name"], m.pattern, m.costs, m.solver["name"])
        for name, m in METHODS.items()
    ]
    assert sorted(rows) == sorted(code)


def test_every_folder_of_the_package_is_on_the_map():
    for folder in sorted((ROOT / "optishear").iterdir()):
        if folder.is_dir() and (folder / "__init__.py").exists():
            assert f"{folder.name}/" in README, folder.name


def test_a_visitor_reads_one_page():
    assert len(README.splitlines()) <= 100


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_is_mentioned_exists(page):
    known = {command.callback.__name__ for command in app.registered_commands if command.callback}
    known = {name.rstrip("_") for name in known}
    named = set(re.findall(r"(?:^|`)optishear (\w+)", PAGES[page], flags=re.MULTILINE))
    assert len(named) > 2
    assert named <= known


def commands(page):
    return [line for line in PAGES[page].splitlines() if line.startswith("optishear ")]


def run_all(page):
    for line in commands(page):
        words = shlex.split(line)[1:]
        if words[0] in ("search", "plan"):
            words += [word for setting in QUICK for word in ("--set", setting)]
        # How much text `prune` and `evaluate` read stands in their options.
        words = ["4" if word == "32" else "48" if word == "512" else word for word in words]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, (line, result.output, result.exception)


def test_every_command_of_readme_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(commands("README.md")) == 2
    run_all("README.md")
    assert (tmp_path / "pruned" / "model.safetensors").exists()


def test_every_command_of_the_tutorial_runs_in_order_on_a_model_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_folder("llama", tmp_path / "my-model")
    draw = Random(0)
    paragraphs = [" ".join(str(draw.randrange(10**6)) for _ in range(20)) for _ in range(200)]
    (tmp_path / "my.txt").write_text("\n\n".join(paragraphs))
    [experiment] = re.findall(r"```yaml\n(.*?)```", TUTORIAL, re.DOTALL)
    (tmp_path / "mine.yaml").write_text(experiment)
    assert len(commands("docs/tutorial.md")) > 12
    run_all("docs/tutorial.md")
    for place in ("chosen/recipe.json", "masks.safetensors", "llmcompressor.yaml"):
        assert (tmp_path / place).exists(), place
    assert len(list(tmp_path.glob("results/mine/*/report.html"))) == 1
