"""A pattern that the package does not know, through the whole line: searched, exported, applied,
written and verified. Where a format cannot say it, that is said."""

import json

import pytest
import yaml
from made_up_patterns import Down, Odd, known
from small_experiment import EMBEDDED
from tiny_folders import tiny_folder
from typer.testing import CliRunner

from optishear.cli import app
from optishear.config import load_experiment
from optishear.models.load import load
from optishear.models.weights import read
from optishear.runs.search import search
from optishear.runs.watcher import Silent


SPACES = {
    Odd(): {
        "metric": [{"name": "power", "delta": {"real": [0, 1]}}],
        "solver": [{"name": "mask"}, {"name": "sparsegpt", "block": {"choice": [8, 16]}}],
        "sparsity": {"by": "layer", "budget": 0.3},
    },
    Down(2): {
        "metric": [{"name": "magnitude"}],
        "solver": [{"name": "refit", "of": "mask"}, {"name": "alps", "iterations": 9}],
        "sparsity": {"by": "block", "budget": 0.25, "high": 0.5},
    },
}


@pytest.mark.parametrize("pattern", SPACES, ids=lambda p: p.text)
def test_it_is_searched_exported_pruned_and_verified(pattern, tmp_path):
    model = tiny_folder("llama", tmp_path / "tiny", shards="5GB")
    experiment = {
        **EMBEDDED,
        "model": str(model),
        "space": {"pattern": pattern.text, **SPACES[pattern]},
        "search": {"driver": "random", "population": 4, "evaluations": 4},
        "objectives": ["kl"],
        "baselines": [],
    }
    file = tmp_path / "made_up.yaml"
    file.write_text(yaml.safe_dump(experiment))
    with known(pattern):
        run = search(load_experiment(str(file)), tmp_path / "runs", Silent())
        front = json.loads(run.directory.front.read_text())
        assert {entry["recipe"]["pattern"] for entry in front["entries"]} == {pattern.text}
        place, to, pruned = str(run.directory.path), tmp_path / "out", tmp_path / "pruned"
        ask("export", place, "--to", str(to))
        told = ask("export", place, "--format", "llmcompressor", "--to", str(tmp_path / "x.yaml"))
        ask(
            "prune", "--model", str(model), "--recipe", str(to / "recipe.json"), "--to", str(pruned)
        )
        assert "FAILED" not in ask("verify", str(pruned), "--against", str(model))
        assert "not expressed: the pattern is" in told
        recipe, layout = run.front.pick().recipe, run.front.layout
        weights = load(str(pruned)).model
        for layer in layout.layers:
            weight = read(weights, layer)
            if isinstance(pattern, Odd):
                assert (weight[:, ::2] != 0).all()
            else:
                gone = (weight == 0).view(weight.shape[0] // 2, 2, -1).sum(1)
                assert gone.min() == recipe.drop[layer.name] * 2 // layer.size


def ask(*words):
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.output
