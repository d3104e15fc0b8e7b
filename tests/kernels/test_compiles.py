"""Every kernel goes through Triton's compiler and ptxas for a real GPU, which needs none.

The interpreter runs what no GPU would: operations without a layout, memory that is not there,
numbers of 64 bits that slipped in.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest


pytest.importorskip("triton", reason="triton comes with torch's builds for GPUs only")

COUNTS = Path(__file__).parents[2] / "experiments" / "benchmarks" / "kernel_counts.py"
SHARED = {"sm_90": 227 * 1024, "sm_86": 99 * 1024}  # bytes that one program may have


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    if platform.system() != "Linux":
        pytest.skip("triton brings ptxas on Linux")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(COUNTS.parents[2]), environment.get("PYTHONPATH", "")]
    )
    done = subprocess.run(
        [sys.executable, str(COUNTS), "--rows", "2", "--few"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_every_kernel_compiles_and_fits(counts):
    assert {found["kernel"] for found in counts["kernels"]} == {
        "drop_from_row", "drop_from_groups", "histogram", "drop_from_run",
        "tile_sums", "sweep_rows", "move", "turn",
    }  # fmt: skip
    disassembled = [found["kernel"] for found in counts["kernels"] if found["instructions"]]
    assert sorted(disassembled) == sorted({found["kernel"] for found in counts["kernels"]})
    for found in counts["kernels"]:
        assert found["spilled_bytes"] == 0, found
        assert found["shared_bytes"] <= SHARED[found["arch"]], found


def test_scores_are_rounded_as_the_reference_rounds_them(counts):
    for found in counts["kernels"]:
        if found["kernel"].startswith(("drop", "histogram")):
            assert ".ftz" not in found["ptx"], found
            if found["what"].startswith("ria"):
                assert "div.rn.f32" in found["ptx"], found


def test_solvers_compute_in_single_precision(counts):
    for found in counts["kernels"]:
        if found["kernel"] in ("sweep_rows", "move", "turn"):
            assert ".f64" not in found["ptx"], found


def test_the_head_takes_tensor_cores_for_half_precision_alone(counts):
    wanted = {"bf16": "wgmma", "fp16": "mma.sync", "fp32": "fma.rn.f32"}
    heads = {f["what"]: f["ptx"] for f in counts["kernels"] if f["kernel"] == "tile_sums"}
    assert all(wanted[dtype] in heads[dtype] for dtype in wanted)
    assert not {"wgmma", "mma.sync"} & set(heads["fp32"])


def test_a_row_needs_fewer_steps_than_halving_takes(counts):
    for found in counts["searches"]:
        assert found["steps_median"] < found["halving_median"], found
