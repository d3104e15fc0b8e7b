"""What results/README.md shows can be made again from the files beside it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from optishear.calibration.origin import Origin


ROOT = Path(__file__).parents[1]


def test_every_figure_of_the_page_is_drawn_from_the_files(tmp_path):
    done = subprocess.run(
        [sys.executable, "experiments/benchmarks/question_figures.py", "--out", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = re.findall(r"\]\(figures/([\w.]+)\)", (ROOT / "results/README.md").read_text())
    drawn = {path.name for path in tmp_path.iterdir()}
    assert shown
    assert {f"{Path(name).stem}{kind}" for name in shown for kind in (".png", ".svg")} == drawn
    assert drawn == {path.name for path in (ROOT / "results/figures").iterdir()}


def test_every_front_says_the_text_that_its_run_was_calibrated_on():
    """With the seed that drew its windows: its own, else the search's."""
    fronts = sorted((ROOT / "results").glob("**/front.json"))
    assert len(fronts) > 100
    for path in fronts:
        manifest = json.loads(path.with_name("manifest.json").read_text())
        origin = Origin.from_json(json.loads(path.read_text())["made_with"], str(path))
        asked, measure = manifest["experiment"], manifest["measure"]
        own = asked["text"]["calibration"].get("seed")
        assert origin.calibration is not None
        assert origin.calibration.seed == (asked["search"]["seed"] if own is None else own), path
        assert origin.calibration_hash == measure["calibration"], path
        assert (origin.model_hash, origin.dtype) == (measure["model"], measure["dtype"]), path
