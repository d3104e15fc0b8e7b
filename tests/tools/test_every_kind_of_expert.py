"""Models whose experts are stored or multiplied in ways of their own, from folder to folder."""

import pytest
import torch
from tiny_experts import EXPERTS, make_experts
from tiny_folders import folder_with, tensors_of, tokenizer

from optishear.export.verify.check import FAILED
from optishear.runs.watcher import Silent
from optishear.text.sources import TextSpec
from optishear.tools.named import NamedMethod
from optishear.tools.prune import How, prune_to
from optishear.tools.prune_streamed import prune_streamed
from optishear.tools.verify import verify


HOW = How(TextSpec("embedded", "train", 4, 64))
WANDA = NamedMethod("wanda", 0.5).on


@pytest.mark.parametrize("kind", EXPERTS)
def test_they_are_pruned_streamed_and_verified(kind, tmp_path):
    model = make_experts(kind, vocab_size=len(tokenizer()))
    dense = str(folder_with(model, tmp_path / "dense"))
    prune_to(dense, WANDA, tmp_path / "whole", HOW)
    prune_streamed(dense, WANDA, tmp_path / "streamed", HOW)
    want, got = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "streamed")
    assert want.keys() == got.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in want.items())
    checks = verify(tmp_path / "whole", dense, False, "cpu", Silent())
    assert [check for check in checks if check.status == FAILED] == []
