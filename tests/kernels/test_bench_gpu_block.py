"""The bench of a block as a script: tiny, on a CPU, where its times mean nothing."""

import os
import subprocess
import sys
from pathlib import Path


SCRIPT = Path(__file__).parents[2] / "experiments" / "benchmarks" / "bench_gpu_block.py"


def bench(*options):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_lever_is_timed_beside_the_plain_method(tmp_path):
    run = bench("--tiny", "--device", "cpu", "--methods", "optima", "--out", str(tmp_path))
    assert run.returncode == 0, run.stderr[-2000:]
    summary = (tmp_path / "summary.md").read_text()
    levers = [line.split("|")[2].strip() for line in summary.splitlines() if "| optima |" in line]
    assert levers[0] == "plain"
    assert {"order=site", "shift=0.5", "reconstruct=block"} < set(levers)
    assert "Tiny shapes" in summary


def test_without_a_gpu_it_says_that_only_tiny_shapes_can_be_run():
    run = bench("--device", "cpu")
    assert run.returncode == 2
    assert "there is only --tiny" in run.stderr
