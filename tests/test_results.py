"""What results/README.md shows can be made again from the files beside it."""

import os
import re
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[1]


def test_every_figure_of_the_page_is_drawn_from_the_files(tmp_path):
    done = subprocess.run(
        [sys.executable, "experiments/question_figures.py", "--out", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = re.findall(r"\]\(figures/([\w.]+)\)", (ROOT / "results/README.md").read_text())
    drawn = {path.name for path in tmp_path.iterdir()}
    assert shown
    assert {f"{Path(name).stem}{kind}" for name in shown for kind in (".png", ".svg")} == drawn
    assert drawn == {path.name for path in (ROOT / "results/figures").iterdir()}
