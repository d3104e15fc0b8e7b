"""The wheel on its own: built, installed into a new environment, used outside the repository."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest


ROOT = Path(__file__).resolve().parents[2]


def run(*words, **kwargs):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "build", "--wheel", "--no-isolation", "--outdir", folder]
    run(sys.executable, *build, cwd=ROOT)
    [path] = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_embedded_model_the_spaces_and_the_experiments(wheel):
    names = set(ZipFile(wheel).namelist())
    for name in (
        "optishear/models/embedded/model.safetensors",
        "optishear/models/embedded/tokenizer.json",
        "optishear/models/embedded/tokens.npz",
        "optishear/shipped/experiments/quickstart.yaml",
        "optishear/shipped/search_spaces/metric_and_blocks.yaml",
        *(f"optishear/report/page/{name}" for name in ("page.html", "page.css", "page.js")),
    ):
        assert name in names
    model = [i for i in ZipFile(wheel).infolist() if "/models/embedded/" in i.filename]
    assert sum(info.file_size for info in model) <= 12_000_000


def test_the_quickstart_runs_from_an_installed_wheel_outside_the_repository(wheel, tmp_path):
    """The environment is new and holds the wheel; its dependencies are lent from this one, whose
    own editable install of optishear does not reach it."""
    environment = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", wheel]
    run(sys.executable, "-m", "pip", "--python", python, *install)
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    lent = Path(packages) / "dependencies.pth"
    lent.write_text(sysconfig.get_path("purelib") + "\n")
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    kwargs = {"cwd": outside, "env": {**clean, "OPTISHEAR_CACHE": str(tmp_path / "cache")}}
    where = run(python, "-c", "import optishear; print(optishear.__file__)", **kwargs)
    assert where.startswith(str(environment))
    command = [environment / "bin" / "optishear", "search", "quickstart", "--json"]
    few = ["search.population=4", "search.evaluations=4", "baselines=[wanda]"]
    few += [f"text.{name}.sequences=4" for name in ("calibration", "search", "evaluation")]
    small = [word for setting in few for word in ("--set", setting)]
    printed = json.loads(run(*command, *small, **kwargs))
    assert printed["status"] == "finished"
    assert (outside / printed["run"] / "figures" / "front.png").exists()
