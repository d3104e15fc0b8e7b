"""README's tables against the code that they describe."""

import re
from pathlib import Path

from optishear.solvers.methods import METHODS


ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


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


def test_every_command_of_the_code_blocks_exists():
    from optishear.cli import app

    known = {command.callback.__name__ for command in app.registered_commands if command.callback}
    named = set(re.findall(r"^\s*optishear (\w+)", README, flags=re.MULTILINE))
    assert named
    assert named <= known
