"""Block by block a model computes what it computes in one go, or says that it cannot."""

import gc
from functools import partial

import pytest
import torch
from tiny_models import GATED, SIZES, TINY, VOCAB, make, tokens
from torch import nn

from optishear.errors import ConfigError
from optishear.models.blocks import BlockRunner
from optishear.models.discover import decoder_blocks
from optishear.models.head import hidden_states


BATCHES = [tokens(3, 12, seed=1), tokens(2, 12, seed=2)]
FOUR = {"num_hidden_layers": 4}
DEEP = {  # blocks that return tensors, tuples and lists; two kinds of masks in turn; alibi
    "llama": {**GATED, **FOUR},
    "gemma2": {**GATED, **FOUR, "query_pre_attn_scalar": 8, "sliding_window": 5},
    "falcon": {**SIZES, **FOUR, "num_attention_heads": 4, "ffn_hidden_size": 40, "alibi": True},
    "bloom": {"vocab_size": VOCAB, "hidden_size": 24, "n_layer": 4, "n_head": 4},
    "openai-gpt": {"vocab_size": VOCAB, "n_embd": 24, "n_layer": 4, "n_head": 4},
    "mixtral": {**GATED, **FOUR, "num_local_experts": 3, "num_experts_per_tok": 2},
}
MODELS = {name: TINY[name] for name in sorted(TINY)} | {
    f"deep {kind}": lambda kind=kind: make(kind, DEEP[kind]) for kind in DEEP
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def blocks_of(model):
    return decoder_blocks(model)[1]


def first(returned):
    return returned if isinstance(returned, torch.Tensor) else returned[0]


@torch.no_grad()
def made_by(model, block, run):
    """What this block makes while `run()` goes on, one tensor a batch."""
    made = []
    hook = blocks_of(model)[block].register_forward_hook(
        lambda _module, _args, returned: made.append(first(returned).clone())
    )
    run()
    hook.remove()
    return made


def whole(model, block):
    return made_by(model, block, lambda: [hidden_states(model, batch) for batch in BATCHES])


def observe(runner):
    """Runs the next block on all batches, and stays there."""
    for index in range(len(runner.batches)):
        runner.run(index)


def same(got, want):
    return len(got) == len(want) and all(map(torch.equal, got, want))


def test_every_block_alone_makes_what_it_makes_in_the_whole_forward(model):
    runner = BlockRunner(model, BATCHES)
    for block in range(len(blocks_of(model))):
        assert runner.block == block
        want = whole(model, block)
        assert same(made_by(model, block, partial(observe, runner)), want)
        assert same(made_by(model, block, runner.advance), want)


def test_blocks_run_with_the_weights_that_they_have_then(model):
    runner = BlockRunner(model, BATCHES)
    for block, module in enumerate(blocks_of(model)):
        before = made_by(model, block, partial(observe, runner))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(0.9)
        after = made_by(model, block, runner.advance)
        assert same(after, whole(model, block))
        assert not same(after, before)


def test_the_model_is_as_it_was_afterwards(model):
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    own = [set(vars(module)) for module in blocks_of(model)]
    want = hidden_states(model, BATCHES[0])
    runner = BlockRunner(model, BATCHES)
    runner.advance()
    observe(runner)
    assert [set(vars(module)) for module in blocks_of(model)] == own
    assert torch.equal(hidden_states(model, BATCHES[0]), want)
    # transformers itself may hook its modules on the first forward; it does so once.
    again = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert again == hooks


def test_only_the_one_block_is_computed():
    model = make("llama", DEEP["llama"])
    runner = BlockRunner(model, BATCHES)
    runner.advance()
    runner.advance()
    called = []
    for name, module in model.named_modules():
        if name.endswith("q_proj") or name in ("model.norm", "lm_head"):
            module.register_forward_hook(lambda *_args, name=name: called.append(name))
    observe(runner)
    assert called == ["model.layers.2.self_attn.q_proj"] * len(BATCHES)


def test_forwards_are_given_back_after_an_exception():
    model = make("llama", DEEP["llama"])
    blocks = blocks_of(model)
    want = hidden_states(model, BATCHES[0])
    runner = BlockRunner(model, BATCHES)
    runner.advance()
    runner.advance()

    def fail(*_args):
        raise KeyboardInterrupt

    hook = blocks[2].mlp.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        observe(runner)
    hook.remove()
    assert all("forward" not in vars(block) for block in blocks)
    assert not blocks[2]._forward_hooks
    assert torch.equal(hidden_states(model, BATCHES[0]), want)


def test_a_forward_of_the_modules_own_stays():
    """accelerate sets one where a model lies on several devices."""
    model = make("llama", DEEP["llama"])
    block = blocks_of(model)[0]
    mine = block.forward = block.forward
    want = whole(model, 1)
    runner = BlockRunner(model, BATCHES)
    runner.advance()
    assert same(made_by(model, 1, partial(observe, runner)), want)
    assert vars(block)["forward"] is mine


def test_a_block_that_works_in_place_spoils_nobody_elses_input():
    model = make("llama", DEEP["llama"])

    def in_place(forward):
        return lambda hidden, **kwargs: forward(hidden.mul_(0.9), **kwargs)

    for block in blocks_of(model):
        block.forward = in_place(block.forward)
    runner = BlockRunner(model, BATCHES)
    for block in range(4):
        want = whole(model, block)
        assert same(made_by(model, block, partial(observe, runner)), want)
        assert same(made_by(model, block, partial(observe, runner)), want)
        runner.advance()


def test_attention_weights_that_blocks_return_are_not_held():
    gc.collect()
    others = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor]
    model = make("bloom", {**DEEP["bloom"], "attn_implementation": "eager"})
    returned = []
    hook = blocks_of(model)[0].register_forward_hook(lambda *args: returned.append(args[-1][1]))
    runner = BlockRunner(model, BATCHES)
    hook.remove()
    assert returned[0].shape == (1, 4, 12, 12)
    returned.clear()
    runner.advance()
    gc.collect()
    before = {id(thing) for thing in others}
    tensors = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor]
    tensors = [thing for thing in tensors if id(thing) not in before]
    assert not any(t.is_floating_point() and t.shape[-2:] == (12, 12) for t in tensors)


def test_half_precision_is_equal_bit_for_bit_too():
    model = make("llama", DEEP["llama"]).to(torch.bfloat16)
    runner = BlockRunner(model, BATCHES)
    runner.advance()
    assert same(made_by(model, 1, partial(observe, runner)), whole(model, 1))


def test_blocks_that_are_called_more_than_once_are_refused():
    model = make("llama", DEEP["llama"])
    model.model.layers[2] = model.model.layers[0]
    with pytest.raises(ConfigError, match=r"called in the order \[0, 2, 1, .*--one-shot"):
        BlockRunner(model, BATCHES)


class Leaving(nn.Module):
    """Wraps a block; leaves something for another one, or takes it up."""

    def __init__(self, block, left, leaves):
        super().__init__()
        self.block, self.left, self.leaves = block, left, leaves
        self.attention_type = "full_attention"

    def forward(self, hidden, **kwargs):
        hidden = self.block(hidden, **kwargs)
        if self.leaves:
            self.left["hidden"] = hidden
            return hidden
        return hidden + 0.01 * self.left["hidden"]


def test_what_a_block_leaves_lying_about_for_another_is_noticed():
    model, left = make("llama", DEEP["llama"]), {}
    blocks = model.model.layers
    for block in range(4):
        blocks[block] = Leaving(blocks[block], left, leaves=block != 3)
    with pytest.raises(ConfigError, match=r"block 3 alone is off by .* of its norm.*--one-shot"):
        BlockRunner(model, BATCHES)


class Unlike(nn.Module):
    def __init__(self, block, make_return):
        super().__init__()
        self.block, self.make_return = block, make_return

    def forward(self, hidden, **kwargs):
        return self.make_return(self.block(hidden, **kwargs))


def test_blocks_that_return_something_unknown_are_refused():
    model = make("llama", DEEP["llama"])
    blocks = model.model.layers
    for block in range(4):
        blocks[block] = Unlike(blocks[block], lambda hidden: {"hidden": hidden})
    with pytest.raises(ConfigError, match=r"returns a dict .*--one-shot"):
        BlockRunner(model, BATCHES)


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ConfigError, match="training mode"):
        BlockRunner(TINY["llama"]().train(), BATCHES)


@pytest.mark.parametrize("batches", [[], [tokens(0, 12)], [tokens(2, 12), tokens(0, 12)]])
def test_no_tokens_are_refused(batches):
    with pytest.raises(ConfigError, match="no tokens at all"):
        BlockRunner(TINY["llama"](), batches)


def test_only_the_first_sequence_is_run_for_the_proof():
    model, seen = TINY["llama"](), []
    model.model.embed_tokens.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    BlockRunner(model, BATCHES)
    assert all(batch.shape == (1, 12) for batch in seen)
    assert len(seen) == 2 + len(blocks_of(model))
