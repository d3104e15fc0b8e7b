import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest


pytest.importorskip("triton", reason="triton comes with torch's builds for GPUs only")


@pytest.mark.skipif(platform.system() != "Linux", reason="triton brings ptxas on Linux")
def test_every_kernel_compiles_for_hopper_without_doubles_and_within_its_memory(tmp_path):
    script = Path(__file__).parent / "compile_solver_kernels.py"
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert {found["kernel"] for found in kernels} == {"_sweep_rows", "_move", "_turn"}
    for found in kernels:
        assert found["shared"] < 200 * 1024
        assert not found["double"]
        assert found["binary"] > 0
