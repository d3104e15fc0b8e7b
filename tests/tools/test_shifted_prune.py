"""Target shift and order by site: the same bits in memory, streamed, resumed and on replicas."""

import json

import pytest
import torch
from click.testing import Result
from tiny_folders import tensors_of, tiny_folder
from typer.testing import CliRunner

from optishear.cli import app
from optishear.export.verify.check import FAILED, OK
from optishear.models.discover import layout_of
from optishear.models.load import load
from optishear.models.weights import working_weights
from optishear.pruning.block_loop import InMemory, apply_by_block
from optishear.pruning.oneshot import prune
from optishear.recipe.recipe import Recipe
from optishear.runs.watcher import Silent
from optishear.text.sources import TextSpec
from optishear.tools.named import NamedMethod
from optishear.tools.prune import How, prune_to
from optishear.tools.prune_streamed import prune_streamed
from optishear.tools.streamed_blocks import StreamedBlocks
from optishear.tools.verify import verify
from optishear.workers.layers import DenseLayers


HOW = How(TextSpec("embedded", "train", 40, 64))  # two batches
SHIFT = {"target_shift": 0.5}
ASKED = {
    "mask": NamedMethod("wanda", 0.5, quadratic=SHIFT, order="site").on,
    "refit": NamedMethod("wanda", 0.5, refit=True, quadratic=SHIFT, order="site").on,
    "sparsegpt": NamedMethod("sparsegpt", 0.5, quadratic=SHIFT).on,
    "by site": NamedMethod("sparsegpt", 0.5, order="site").on,
}


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return tiny_folder("qwen2", tmp_path_factory.mktemp("dense"), torch.bfloat16)


@pytest.fixture(scope="module", params=ASKED)
def written(request, dense, tmp_path_factory):
    """(what was asked for, the folder pruned in memory)"""
    folder = tmp_path_factory.mktemp("pruned") / "whole"
    prune_to(str(dense), ASKED[request.param], folder, HOW)
    return ASKED[request.param], folder


def same_tensors(one, other):
    left, right = tensors_of(one), tensors_of(other)
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_a_streamed_one_is_the_same_also_where_it_was_stopped(
    written, dense, tmp_path, monkeypatch
):
    asked, whole = written
    streamed, resumed = tmp_path / "streamed", tmp_path / "resumed"
    prune_streamed(str(dense), asked, streamed, HOW)
    assert same_tensors(streamed, whole)
    done = StreamedBlocks.done

    def stopped(self, *what):
        done(self, *what)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StreamedBlocks, "done", stopped)
        with pytest.raises(KeyboardInterrupt):
            prune_streamed(str(dense), asked, resumed, HOW)
    prune_streamed(str(dense), asked, resumed, HOW)
    assert same_tensors(resumed, whole)


def test_what_replicas_are_sent_is_enough_for_the_same_bits(dense):
    loaded = load(str(dense))
    layout = layout_of(loaded.model)
    recipe = NamedMethod("wanda", 0.5, refit=True, quadratic=SHIFT, order="site").recipe(layout)
    batches = [torch.arange(48).view(2, 24) % loaded.model.config.vocab_size]

    def as_sent(layers, working, data, recipe):
        weights = {x.name: working.dense(x.name).clone() for x in layers}
        sent = DenseLayers(weights, data.only(layers)).to("cpu")
        for layer in layers:
            solution = sent.solve(layer, recipe)
            working.write(layer.name, solution.weight)
            yield layer, solution

    found = []
    for prune_layers in (prune, as_sent):
        with working_weights(loaded.model, layout) as working:
            source = InMemory(loaded.model, working, layout)
            apply_by_block(source, recipe, batches, prune_layers=prune_layers)
            found.append({x.name: working.view(x.name).clone() for x in layout.layers})
    assert all(torch.equal(found[0][name], found[1][name]) for name in layout.sizes)


def test_kept_weights_are_verified_as_updated(written, dense):
    _, folder = written
    checks = {check.name: check for check in verify(folder, str(dense), False, "cpu", Silent())}
    assert checks["kept weights"].status == OK
    assert max(checks["kept weights"].layers.values()) > 0
    assert not [check for check in checks.values() if check.status == FAILED]


def test_the_recipe_in_the_folder_makes_the_same_again(written, dense, tmp_path):
    _, folder = written
    recipe = Recipe.read(folder / "optishear_recipe.json")
    again = tmp_path / "again"
    prune_to(str(dense), lambda _: recipe, again, HOW)
    assert same_tensors(again, folder)


def prune_command(*arguments) -> Result:
    base = ["prune", "--model", "embedded", "--method", "wanda", "--sparsity", "0.5"]
    return CliRunner().invoke(app, [*base, *arguments])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target-shift", "1.5"], "--target-shift: target_shift is 1.5, expected a share"),
        (["--order", "sites"], "--order: is 'sites', expected one of block, site"),
        (["--target-shift", "0.5", "--one-shot"], "a target shift, which mean nothing"),
    ],
)
def test_bad_input_is_one_sentence(arguments, said, tmp_path):
    found = prune_command("--to", str(tmp_path / "x"), *arguments)
    assert found.exit_code == 2
    assert said in " ".join(found.output.split())
    assert not (tmp_path / "x").exists()


def test_recipes_have_their_own(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({}))
    arguments = ["--model", "embedded", "--recipe", str(path), "--to", str(tmp_path / "x")]
    found = CliRunner().invoke(app, ["prune", *arguments, "--order", "site"])
    assert "--order: a recipe or a mask has its own" in " ".join(found.output.split())
