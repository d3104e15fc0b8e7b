"""The GPU bench as a script: small, interpreted, without what a bare machine does not have."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch


SCRIPT = Path(__file__).parents[2] / "experiments" / "benchmarks" / "bench_gpu.py"
WITHOUT = """
import runpy, sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pymoo", "optuna", "datasets"):
            raise ModuleNotFoundError(f"no {name} here")

sys.meta_path.insert(0, Nothing())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def bench(*options, script=SCRIPT):
    places = (SCRIPT.parents[2], script.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, str(script), *options],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_runs_without_what_only_a_search_needs(tmp_path):
    to = tmp_path / "bench.json"
    run = bench("--interpret", "--parts", "ceilings,kl,candidate", "--to", str(to))
    assert run.returncode == 0, run.stderr[-2000:]
    report = json.loads(to.read_text())
    assert report["machine"]["interpreted"]
    rows = {row["what"]: row for row in report["rows"]}
    assert rows["kernel, no logits"]["right"]
    assert rows["masks, forward, reconstruction and KL"]["right"]
    assert rows["masks, forward, reconstruction and KL, kernels off"]["right"]
    assert {"copy, 1024 bf16", "forward without its head"} <= set(rows)
    assert not any(row["aim"] for row in report["rows"])  # times mean nothing here
    assert all(what in run.stdout for what in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="There is a CUDA device.")
def test_without_a_device_it_says_one_sentence(tmp_path):
    run = bench("--to", str(tmp_path / "bench.json"))
    assert run.returncode == 2
    assert run.stderr == "There is no CUDA device here; --interpret runs a smoke test on the CPU.\n"
    assert not list(tmp_path.iterdir())


def test_parts_of_another_file_beside_it_are_run_and_a_wrong_result_is_an_error(tmp_path):
    for path in SCRIPT.parent.glob("*.py"):
        shutil.copy(path, tmp_path)
    (tmp_path / "bench_gpu_solvers.py").write_text(
        "def Settings(*_): ...\n"
        "def refit(settings): raise SystemExit('q')\n"
        "PARTS = {'refit': refit}\n"
    )
    to = tmp_path / "bench.json"
    run = bench("--interpret", "--parts", "refit", "--to", str(to), script=tmp_path / SCRIPT.name)
    assert run.returncode == 1, run.stderr[-2000:]
    assert "WRONG" in run.stdout
    assert json.loads(to.read_text())["rows"][0]["what"] == "q"
