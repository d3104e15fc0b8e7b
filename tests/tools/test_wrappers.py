"""A multimodal wrapper is pruned in its language model alone, and stays the wrapper that it is."""

import json

import pytest
import torch
import transformers
from tiny_folders import folder_with, tensors_of, tokenizer
from tiny_wrappers import WRAPPERS, make_wrapper
from torch import nn

from optishear.export.verify.check import FAILED
from optishear.models.discover import decoder_blocks, layout_of
from optishear.models.load import load
from optishear.runs.watcher import Silent
from optishear.text.sources import TextSpec
from optishear.tools.named import NamedMethod
from optishear.tools.prune import How, prune_to
from optishear.tools.prune_streamed import prune_streamed
from optishear.tools.verify import verify


HOW = How(TextSpec("embedded", "train", 2, 64))
WANDA = NamedMethod("wanda", 0.5).on


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module", params=WRAPPERS)
def dense(request, tmp_path_factory):
    model = make_wrapper(request.param, len(tokenizer()))
    return folder_with(model, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def pruned(dense, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pruned") / "whole"
    checked, _ = prune_to(str(dense), WANDA, folder, HOW)
    assert checked.coverage.share == 1
    return folder


def named_class(folder):
    [name] = json.loads((folder / "config.json").read_text())["architectures"]
    return getattr(transformers, name)


def test_its_language_model_is_what_is_pruned(dense):
    model = load(str(dense)).model
    path, blocks = decoder_blocks(model)
    assert path == "model.language_model.layers"
    tower = [m for name, m in model.named_modules() if name.endswith(("vision_tower", "visual"))]
    assert parameters(tower[0]) > parameters(blocks)
    assert len(layout_of(model).layers) == 2 * 7


def test_only_the_weights_of_its_language_model_change(dense, pruned):
    before, after = tensors_of(dense), tensors_of(pruned)
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == 2 * 7
    assert not any("visual" in name or "vision" in name or "projector" in name for name in changed)
    for name in changed:
        assert (after[name] == 0).sum() >= after[name].numel() // 2


def test_the_checkpoint_opens_with_the_class_that_its_configuration_names(dense, pruned):
    kind = named_class(dense)
    assert named_class(pruned) is kind
    model, told = kind.from_pretrained(pruned, output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ours = load(str(pruned)).model
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, ours(ids).logits)


def test_streamed_the_same_tensors_are_written(dense, pruned, tmp_path):
    prune_streamed(str(dense), WANDA, tmp_path / "streamed", HOW)
    want, got = tensors_of(pruned), tensors_of(tmp_path / "streamed")
    assert want.keys() == got.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in want.items())
    assert named_class(tmp_path / "streamed") is named_class(dense)


def test_all_that_verify_looks_at_holds(dense, pruned):
    checks = verify(pruned, str(dense), False, "cpu", Silent())
    assert [check.name for check in checks if check.status == FAILED] == []
