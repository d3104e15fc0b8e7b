"""A streamed prune of blocks that share keys and values is the one in memory, also gone on with."""

import pytest
import torch
from tiny_folders import folder_with, tensors_of, tokenizer
from tiny_models import make
from tiny_sharing import SHARING

from optishear.errors import ConfigError
from optishear.runs.watcher import Silent
from optishear.text.sources import TextSpec
from optishear.tools.named import NamedMethod
from optishear.tools.prune import How, prune_to
from optishear.tools.prune_streamed import prune_streamed


HOW = How(TextSpec("embedded", "train", 4, 64), gradient_sequences=2)
SPARSEGPT = NamedMethod("sparsegpt", 0.5).on


class StoppedError(Exception):
    pass


class StopAfter(Silent):
    def __init__(self, blocks):
        self.blocks = blocks

    def pruned(self, done, blocks):
        if done == self.blocks:
            raise StoppedError


@pytest.fixture(scope="module", params=SHARING)
def dense(request, tmp_path_factory):
    sizes = {"vocab_size": len(tokenizer()), "vocab_size_per_layer_input": len(tokenizer())}
    model = make(request.param, {**SHARING[request.param], **sizes})
    return str(folder_with(model, tmp_path_factory.mktemp(request.param)))


def test_it_writes_what_the_whole_model_would_be_also_after_a_stop(dense, tmp_path):
    prune_to(dense, SPARSEGPT, tmp_path / "whole", HOW)
    with pytest.raises(StoppedError):
        prune_streamed(dense, SPARSEGPT, tmp_path / "streamed", HOW, StopAfter(3))
    prune_streamed(dense, SPARSEGPT, tmp_path / "streamed", HOW)
    want, got = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "streamed")
    assert want.keys() == got.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in want.items())


def test_its_gradients_are_refused_block_by_block(dense, tmp_path):
    with pytest.raises(ConfigError, match="gradients cannot be taken one block at a time"):
        prune_streamed(dense, NamedMethod("moonshot-wanda", 0.5).on, tmp_path / "streamed", HOW)
