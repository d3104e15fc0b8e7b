import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


pytest.importorskip("triton", reason="triton comes with torch's builds for GPUs only")
ROOT = Path(__file__).parents[2]
SMOKE = """
import sys

sys.modules.update(dict.fromkeys(("pymoo", "optuna", "datasets")))  # as on a bare machine
sys.path.insert(0, "experiments/benchmarks")
import bench_gpu_solvers
from bench_gpu_solvers import PARTS, Settings

bench_gpu_solvers.SHAPES = bench_gpu_solvers.SHAPES[1::2]  # one of each width
for name, part in PARTS.items():
    rows = part(Settings("cpu", tiny=True, seconds=0.0))
    assert {row["part"] for row in rows} == {name}
    assert all(list(row) == list(rows[0]) for row in rows)
    whole = [row for row in rows if "224 layers" in row["what"]]
    assert len(whole) >= 2
    assert all(row["milliseconds"] > 0 and "extrapolated" in row["what"] for row in whole)
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="it measures for real there")
def test_both_parts_of_the_bench_run_through_the_interpreter_with_few_packages():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("OPTISHEAR_KERNELS", None)
    done = subprocess.run(
        [sys.executable, "-c", SMOKE], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
