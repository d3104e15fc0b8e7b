"""What the pages in results/ show can be made again from the files beside them."""

import os
import re
import subprocess
import sys
from pathlib import Path

from optishear.calibration.origin import Origin
from optishear.records.run_directory import read_json, runs_under


ROOT = Path(__file__).parents[1]


def test_every_figure_of_the_page_is_drawn_from_the_files(tmp_path):
    done = subprocess.run(
        [sys.executable, "experiments/benchmarks/question_figures.py", "--out", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = "".join(page.read_text() for page in (ROOT / "results").glob("*.md"))
    shown = set(re.findall(r"\]\(figures/([\w.]+)\)", pages))
    assert len(shown) >= 8
    assert {path.name for path in tmp_path.iterdir()} == shown
    assert {path.name for path in (ROOT / "results/figures").iterdir()} == shown


def test_every_page_is_reached_from_the_answers_and_no_link_leads_nowhere():
    pages = sorted((ROOT / "results").rglob("*.md"))
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in pages
        for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text())
    }
    assert [str(place) for place in linked if not place.exists()] == []
    assert {page for page in pages if page not in linked} == set()


def test_results_stay_small():
    """What grows a clone for ever is asked for on purpose: raise these where it is worth it."""
    sizes = [path.stat().st_size for path in (ROOT / "results").rglob("*") if path.is_file()]
    assert sum(sizes) < 5_000_000
    assert len(sizes) < 300


def test_every_front_says_the_text_that_its_run_was_calibrated_on():
    """With the seed that drew its windows: its own, else the search's."""
    runs = runs_under(ROOT / "results")
    assert len(runs) > 100
    for run in runs:
        path, manifest = run.front, read_json(run.manifest)
        origin = Origin.from_json(read_json(path)["made_with"], str(path))
        asked, measure = manifest["experiment"], manifest["measure"]
        own = asked["text"]["calibration"].get("seed")
        assert origin.calibration is not None
        assert origin.calibration.seed == (asked["search"]["seed"] if own is None else own), path
        assert origin.calibration_hash == measure["calibration"], path
        assert (origin.model_hash, origin.dtype) == (measure["model"], measure["dtype"]), path
