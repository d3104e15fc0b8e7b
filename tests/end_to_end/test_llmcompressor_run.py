"""llm-compressor itself on the recipes that we write for it, in an environment of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_checkpoint import saved

from optishear.calibration.origin import Origin
from optishear.interchange.llmcompressor import llmcompressor_recipe
from optishear.interchange.modules import linear_modules
from optishear.models.discover import layout_of
from optishear.models.load import load
from optishear.models.weights import read
from optishear.recipe.pattern import parse_pattern
from optishear.recipe.profile import Bounds, project
from optishear.recipe.recipe import Recipe
from optishear.text.sources import TextSpec
from optishear.text.tokens import token_batches
from optishear.tools.prune import How, prune_to


PYTHON = os.environ.get("OPTISHEAR_LLMCOMPRESSOR_PYTHON", "")
TEXT = TextSpec("embedded", "train", 4, 64)
MASK, SPARSEGPT = {"name": "mask"}, {"name": "sparsegpt"}

pytestmark = pytest.mark.skipif(
    not PYTHON,
    reason="needs an environment with llm-compressor: OPTISHEAR_LLMCOMPRESSOR_PYTHON names its "
    "python",
)


def their_masks(dense, text, folder, tokens, pipeline):
    """By layer what llm-compressor keeps."""
    (folder / "recipe.yaml").write_text(text)
    (folder / "tokens.json").write_text(json.dumps(tokens))
    script = Path(__file__).with_name("run_llmcompressor.py")
    files = [folder / name for name in ("recipe.yaml", "tokens.json", "masks.safetensors")]
    words = [PYTHON, script, dense, *files, *pipeline]
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(folder / "masks.safetensors")


@pytest.mark.parametrize("architecture", ["llama", "opt"])  # OPT's modules stand in another order
@pytest.mark.parametrize(
    ("metric", "solver", "pattern", "exact", "agree"),
    [
        ("wanda", MASK, "row", True, 1.0),
        ("wanda", MASK, "row", False, 0.98),
        ("wanda", MASK, "n:4", True, 1.0),
        ("own", SPARSEGPT, "block:128", True, 0.99),
    ],
)
def test_it_drops_what_the_file_says_where_we_would(
    architecture, metric, solver, pattern, exact, agree, tmp_path
):
    dense = str(saved(architecture, tmp_path / "dense", torch.float32))
    loaded = load(dense)
    layout, where = layout_of(loaded.model), parse_pattern(pattern)
    targets = {layer.name: 0.27 + 0.11 * (i % 5) for i, layer in enumerate(layout.layers)}
    drop = project(targets, layout, where, Bounds(0.0, 0.9), None)
    if exact and pattern == "row":
        drop = {x.name: where.uniform(x, targets[x.name]) for x in layout.layers}
    recipe = Recipe.of({"name": metric}, drop, pattern, solver)
    tokens = token_batches(TEXT, loaded.tokenizer).tokens.tolist()
    found = llmcompressor_recipe(recipe, layout, linear_modules(dense), Origin())
    assert (found.deviation.by == 0) == exact
    pipeline = ["sequential"] if pattern == "n:4" else []
    theirs = their_masks(dense, found.text, tmp_path, tokens, pipeline)
    gone = {layer.name: int((~theirs[layer.name]).sum()) for layer in layout.layers}
    worst = max(layout.layers, key=lambda x: abs(gone[x.name] - drop[x.name]) / x.size)
    by = (gone[worst.name] - drop[worst.name]) / worst.size
    assert abs(by) == pytest.approx(abs(found.deviation.by))
    assert sum(gone.values()) / layout.total == pytest.approx(found.deviation.got)

    prune_to(dense, lambda _layout: recipe, tmp_path / "ours", How(TEXT))
    ours = load(str(tmp_path / "ours")).model
    same = sum(
        int(((read(ours, layer) != 0) == theirs[layer.name]).sum()) for layer in layout.layers
    )
    assert same >= agree * layout.total
    assert "llmcompressor" not in sys.modules
