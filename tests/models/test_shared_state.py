"""Blocks that read the keys and values of earlier ones run apart as they do in the whole model."""

from dataclasses import replace

import pytest
import torch
from tiny_models import TINY, make, tokens
from tiny_sharing import SHARING

from optishear.errors import ConfigError
from optishear.models.blocks import BlockRunner, BlockStack, Entangled, hidden_of
from optishear.models.discover import decoder_blocks, layout_of
from optishear.models.head import hidden_states
from optishear.models.hidden_files import SharedFiles
from optishear.models.prefix import NotReusable, PrefixForward
from optishear.models.shared_state import NOTHING
from optishear.models.weights import working_weights
from optishear.pruning.block_loop import InMemory, apply_by_block
from optishear.pruning.oneshot import prune
from optishear.recipe.reconstruction import ReconstructionSettings
from optishear.tools.named import NamedMethod


BATCHES = [tokens(3, 12, seed=1), tokens(2, 12, seed=2)]


@pytest.fixture(params=SHARING)
def model(request):
    return make(request.param, SHARING[request.param])


@torch.no_grad()
def whole(model, block):
    """What this block makes in a forward of the whole model, one tensor a batch."""
    made = []
    hook = decoder_blocks(model)[1][block].register_forward_hook(
        lambda _module, _args, returned: made.append(hidden_of(returned).clone())
    )
    for batch in BATCHES:
        hidden_states(model, batch)
    hook.remove()
    return made


def test_every_block_alone_makes_what_it_makes_in_the_whole_forward(model):
    runner = BlockRunner(model, BATCHES)
    assert runner.stack.shares
    for block in range(5):
        made = [runner.run(index) for index in range(len(BATCHES))]
        assert all(map(torch.equal, made, whole(model, block)))
        runner.advance()


def test_what_is_shared_is_of_the_weights_that_a_block_had_when_it_was_gone_through(model):
    runner = BlockRunner(model, BATCHES)
    for block, module in enumerate(decoder_blocks(model)[1]):
        dense = [runner.run(index) for index in range(len(BATCHES))]
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(0.9)
        runner.advance()
        want = whole(model, block)
        made = [runner.handed[index] for index in range(len(BATCHES))]
        assert all(m is not None and torch.equal(m, w) for m, w in zip(made, want, strict=True))
        assert not any(map(torch.equal, dense, want))


def test_two_runners_share_nothing_with_each_other(model):
    first = BlockRunner(model, BATCHES)
    for _ in range(3):
        first.advance()
    second = BlockRunner(model, BATCHES[::-1], stack=first.stack)
    for _ in range(4):
        second.advance()
    assert all(map(torch.equal, [first.run(0), first.run(1)], whole(model, 3)))


def test_blocks_that_share_nothing_are_run_as_before():
    for family in ("llama", "gemma2", "mixtral"):
        runner = BlockRunner(TINY[family](), BATCHES)
        runner.advance()
        assert not runner.stack.shares
        assert runner._shared == [NOTHING, NOTHING]


def test_without_what_is_shared_a_block_fails(model):
    stack = BlockStack(model)
    states = stack.states(BATCHES[0][:1])
    with pytest.raises(Entangled, match="block 4 alone fails"):
        stack.prove(BATCHES[0][:1], states, to_rounding=True)
    with pytest.raises(NotReusable, match="block 4 alone fails"):
        PrefixForward(model, BATCHES, 10**9)


def test_what_is_shared_is_kept_in_files_too(tmp_path):
    kept, cpu = SharedFiles(tmp_path / "shared", 0, torch.device("cpu")), torch.device("cpu")
    assert kept[0] == NOTHING
    key = ("shared_kv_states", "a/b", 1)
    kept[0], kept[1] = {key: torch.ones(2, 3)}, {}
    kept.turn()
    again = SharedFiles(tmp_path / "shared", 1, cpu)
    assert torch.equal(again[0][key], torch.ones(2, 3))
    assert again[1] == {}


def pruned(model, recipe, sequential):
    """By name the weights that this makes of the model."""
    layout = layout_of(model)
    with working_weights(model, layout) as working:
        source = InMemory(model, working, layout)
        apply_by_block(source, recipe, BATCHES, sequential=sequential, prune_layers=prune)
        return {layer.name: working.view(layer.name).clone() for layer in layout.layers}


def test_block_by_block_is_one_shot_where_nothing_depends_on_the_blocks_before(model):
    layout = layout_of(model)
    recipe = NamedMethod("magnitude", 0.5).recipe(layout)
    want, got = pruned(model, recipe, False), pruned(model, recipe, True)
    assert all(torch.equal(got[name], weight) for name, weight in want.items())
    recipe = NamedMethod("wanda", 0.5).recipe(layout)
    want, got = pruned(model, recipe, False), pruned(model, recipe, True)
    first = [layer.name for layer in layout.layers if layer.block == 0]
    assert all(torch.equal(got[name], want[name]) for name in first)
    assert not all(torch.equal(got[name], weight) for name, weight in want.items())


def test_a_local_reconstruction_of_such_blocks_is_refused(model):
    recipe = NamedMethod("wanda", 0.5).recipe(layout_of(model))
    recipe = replace(recipe, reconstruct=ReconstructionSettings())
    with pytest.raises(ConfigError, match="share more than hidden states"):
        pruned(model, recipe, True)
