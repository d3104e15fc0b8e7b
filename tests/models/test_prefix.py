"""A forward that begins in the middle ends where the whole one does, to the last bit."""

import gc
import itertools

import pytest
import torch
from tiny_models import GATED, TINY, make, tokens
from torch import nn
from torch.overrides import TorchFunctionMode

from optishear.errors import ConfigError
from optishear.models.blocks import BlockRunner
from optishear.models.discover import decoder_blocks
from optishear.models.head import hidden_states
from optishear.models.prefix import NotReusable, PrefixForward


BATCHES = [tokens(3, 12, seed=1), tokens(3, 12, seed=2), tokens(2, 12, seed=3)]
ALL = range(len(BATCHES))
SEQUENCES, STATE = 8, 12 * 24 * 4  # bytes of one sequence's hidden states, fp32
PLENTY = 2**24
FIVE = {"num_hidden_layers": 5}
MODELS = {name: TINY[name] for name in sorted(TINY)} | {
    "deep llama": lambda: make("llama", {**GATED, **FIVE}),
    "deep gemma2": lambda: make(
        "gemma2", {**GATED, **FIVE, "query_pre_attn_scalar": 8, "sliding_window": 5}
    ),
    "deep bloom": lambda: make("bloom", {"vocab_size": 53, "hidden_size": 24, "n_layer": 5}),
    "deep openai-gpt": lambda: make(
        "openai-gpt", {"vocab_size": 53, "n_embd": 24, "n_layer": 5, "n_head": 4}
    ),
    "deep mixtral": lambda: make(
        "mixtral", {**GATED, **FIVE, "num_local_experts": 3, "num_experts_per_tok": 2}
    ),
}


def deep_llama():
    return MODELS["deep llama"]()


def room_for(states):
    return states * SEQUENCES * STATE


class Versions:
    """Every block's weights at a few levels; level 0 is dense. A candidate is a level a block."""

    def __init__(self, model):
        self.blocks = decoder_blocks(model)[1]
        self.dense = [[p.detach().clone() for p in block.parameters()] for block in self.blocks]

    @torch.no_grad()
    def write(self, levels, first=0):
        """The weights of blocks `first`..; those of earlier blocks become useless."""
        for index, (block, dense) in enumerate(zip(self.blocks, self.dense, strict=True)):
            for parameter, before in zip(block.parameters(), dense, strict=True):
                level = levels[index] if index >= first else 9
                parameter.copy_(before * (1 - 0.1 * level))

    @staticmethod
    def keys(levels):
        return [f"{index}:{level}" for index, level in enumerate(levels)]


def candidates(blocks, count, seed=0):
    """Random walks away from each other: each changes a random block of one that came before."""
    generator = torch.Generator().manual_seed(seed)
    made = [[0] * blocks]
    while len(made) < count:
        parent, block, level = (
            int(torch.randint(0, high, (), generator=generator)) for high in (len(made), blocks, 3)
        )
        made.append([*made[parent][:block], level, *made[parent][block + 1 :]])
    return made


def wanted(model, versions, levels):
    versions.write(levels)
    return [hidden_states(model, batch) for batch in BATCHES]


def by_prefix(forward, versions, levels, batches=ALL):
    """As a caller does it: only the weights that matter are right."""
    keys = versions.keys(levels)
    first = forward.first_block(batches, keys)
    versions.write(levels, first)
    return [forward.hidden_states(batch, keys, first) for batch in batches]


def run(model, limit, all_levels):
    versions, forward = Versions(model), PrefixForward(model, BATCHES, limit)
    for levels in all_levels:
        want = wanted(model, versions, levels)
        got = by_prefix(forward, versions, levels)
        assert all(map(torch.equal, got, want))
        assert forward.held_bytes <= limit
    return forward


@pytest.mark.parametrize("name", MODELS)
def test_every_candidate_ends_where_its_whole_forward_does(name):
    model = MODELS[name]()
    blocks = len(decoder_blocks(model)[1])
    forward = run(model, PLENTY, candidates(blocks, 9))
    assert forward.blocks_reused > 0
    assert forward.blocks_run + forward.blocks_reused == 9 * blocks * len(BATCHES)


@pytest.mark.parametrize("states", [1, 2, 3, 7])
def test_little_room_changes_no_bit(states):
    forward = run(deep_llama(), room_for(states), candidates(5, 20))
    assert forward.held_bytes == room_for(states)


def test_half_precision_is_equal_bit_for_bit_too():
    run(deep_llama().to(torch.bfloat16), PLENTY, candidates(5, 10))


def test_only_blocks_from_the_first_difference_on_are_run():
    model = deep_llama()
    forward, called = PrefixForward(model, BATCHES, PLENTY), []
    for index, block in enumerate(decoder_blocks(model)[1]):
        block.mlp.register_forward_hook(lambda *_args, index=index: called.append(index))
    forward.hidden_states(0, list("aaaaa"))
    for keys, first in [("aabaa", 2), ("aabab", 4), ("baaaa", 0), ("aabab", 5), ("aaaab", 4)]:
        called.clear()
        assert forward.first_block(range(1), list(keys)) == first
        forward.hidden_states(0, list(keys))
        assert called == list(range(first, 5))
    assert forward.blocks_run == 5 + 3 + 1 + 5 + 0 + 1
    assert forward.blocks_reused == 0 + 2 + 4 + 0 + 5 + 4


def test_a_changed_earlier_block_never_hits_whatever_the_later_keys_are():
    forward = PrefixForward(deep_llama(), BATCHES, PLENTY)
    forward.hidden_states(0, list("abcde"))
    assert forward.first_block(range(1), list("abcde")) == 5
    for block in range(5):
        keys = list("abcde")
        keys[block] = "x"
        assert forward.first_block(range(1), keys) == block
    # keys are told apart, not run together
    assert forward.first_block(range(1), ["ab", "", "c", "d", "e"]) == 0
    assert forward.first_block(range(1), list("bacde")) == 0


def test_a_batch_knows_nothing_of_another_and_the_least_known_one_decides():
    model = deep_llama()
    versions, forward = Versions(model), PrefixForward(model, BATCHES, PLENTY)
    by_prefix(forward, versions, [0, 0, 0, 0, 0])
    by_prefix(forward, versions, [0, 0, 1, 0, 0], range(2))
    keys = versions.keys([0, 0, 1, 1, 0])
    assert forward.first_block(range(2), keys) == 3
    assert forward.first_block(range(2, 3), keys) == 2
    assert forward.first_block(range(3), keys) == 2
    assert forward.first_block(range(0), keys) == 5


def test_batches_do_not_drive_each_other_out():
    model = deep_llama()
    versions, forward = Versions(model), PrefixForward(model, BATCHES, room_for(4))
    for levels in candidates(5, 12):
        by_prefix(forward, versions, levels)
        first = {forward.first_block(range(b, b + 1), versions.keys(levels)) for b in range(3)}
        assert len(first) == 1
        assert first.pop() > 0


@pytest.fixture
def only_new_objects():
    """What lives already is no concern of `gc.get_objects`, which is fast then."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("only_new_objects")
@pytest.mark.parametrize("states", [1, 3])
def test_no_more_is_held_than_allowed_at_any_moment(states):
    model, alive = deep_llama(), []
    shapes = [(len(batch), 12, 24) for batch in BATCHES]

    def look(*_args):
        tensors = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.shape in shapes]
        alive.append(sum(t.numel() * 4 for t in tensors))

    # Inside a block's own forward a few tensors of the model's are alive beside those kept.
    hook = decoder_blocks(model)[1][4].mlp.register_forward_pre_hook(look)
    hidden_states(model, BATCHES[0])
    own = alive[0]
    forward = PrefixForward(model, BATCHES, room_for(states))
    alive.clear()
    for keys in ["aaaaa", "aaaab", "aabab", "baaaa", "aaaac", "caaaa"]:
        for batch in ALL:
            forward.hidden_states(batch, list(keys))
            assert forward.held_bytes <= room_for(states)
    hook.remove()
    assert len(alive) == 6 * len(BATCHES)
    assert room_for(states) < max(alive) <= room_for(states) + own


@pytest.mark.parametrize(
    ("blocks", "states", "kept"), [(5, 1, {4}), (5, 2, {2, 4}), (5, 3, {1, 2, 4}), (4, 1, {2})]
)
def test_with_little_room_states_far_apart_stay(blocks, states, kept):
    """Named by the blocks done. All equal again is rare, so the last one's is worth least."""
    model = make("llama", {**GATED, "num_hidden_layers": blocks})
    forward = PrefixForward(model, BATCHES, room_for(states))
    forward.hidden_states(0, ["a"] * blocks)
    shared = [["a"] * depth + ["b"] * (blocks - depth) for depth in range(blocks + 1)]
    assert {forward.first_block(range(1), keys) for keys in shared} == {0, *kept}


class AtEveryClone(TorchFunctionMode):
    def __init__(self, look):
        super().__init__()
        self.look = look

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.clone:
            self.look(args[0])
        return func(*args, **(kwargs or {}))


def test_what_has_to_go_goes_before_what_comes_is_copied():
    forward, held = PrefixForward(deep_llama(), BATCHES, room_for(3)), []
    with AtEveryClone(lambda state: held.append(forward.held_bytes + state.numel() * 4)):
        for first in "abc":  # nothing shared: nothing but what is kept gets copied
            for batch in ALL:
                forward.hidden_states(batch, list(first + "aaaa"))
    assert max(held) == room_for(3)


def test_what_is_used_stays_and_what_is_not_goes():
    forward = PrefixForward(deep_llama(), BATCHES, room_for(6))

    def knows(keys):
        return forward.first_block(range(1), list(keys))

    forward.hidden_states(0, list("aaaaa"))
    forward.hidden_states(0, list("bbbbb"))
    assert (knows("aaaax"), knows("bbbbx")) == (4, 4)
    for other in range(2 * 24):
        forward.hidden_states(0, ["a", "a", "a", "a", str(other)])
    for other in range(4):
        forward.hidden_states(0, [str(other)] * 5)
    assert (knows("aaaax"), knows("bbbbx")) == (4, 0)


def test_what_is_handed_out_can_be_written_to():
    model = TINY["gpt2"]()
    versions = Versions(model)
    forward = PrefixForward(model, BATCHES, PLENTY)
    want = wanted(model, versions, [0, 1])
    for _ in range(3):
        got = by_prefix(forward, versions, [0, 1])
        assert all(map(torch.equal, got, want))
        for hidden in got:
            hidden.zero_()


def in_place(forward):
    return lambda hidden, **kwargs: forward(hidden.mul_(0.9), **kwargs)


def test_blocks_that_work_in_place_spoil_no_state():
    model = deep_llama()
    for block in decoder_blocks(model)[1]:
        block.forward = in_place(block.forward)
    run(model, PLENTY, candidates(5, 12))
    run(model, room_for(2), candidates(5, 12))


def test_the_model_is_as_it_was_afterwards():
    model = deep_llama()
    want = hidden_states(model, BATCHES[0])

    def state():
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        return hooks, [set(vars(block)) for block in decoder_blocks(model)[1]]

    before = state()
    forward = PrefixForward(model, BATCHES, PLENTY)
    for keys in ["aaaaa", "aaaab", "aaaab"]:
        assert torch.equal(forward.hidden_states(0, list(keys)), want)
    assert state() == before


def test_an_exception_leaves_the_model_whole_and_nothing_wrong_behind():
    model = deep_llama()
    versions = Versions(model)
    forward = PrefixForward(model, BATCHES, PLENTY)
    by_prefix(forward, versions, [0, 0, 0, 0, 0])
    ran = (forward.blocks_run, forward.blocks_reused)

    def fail(*_args):
        raise KeyboardInterrupt

    hook = versions.blocks[3].mlp.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        by_prefix(forward, versions, [0, 1, 0, 0, 0])
    hook.remove()
    assert all("forward" not in vars(block) for block in versions.blocks)
    assert not any(block._forward_hooks for block in versions.blocks)
    assert (forward.blocks_run, forward.blocks_reused) == ran
    for levels in ([0, 1, 0, 0, 0], [0, 1, 0, 2, 0], [0, 0, 0, 0, 0]):
        want = wanted(model, versions, levels)
        assert all(map(torch.equal, by_prefix(forward, versions, levels), want))


def test_a_forward_that_needs_weights_which_are_not_there_is_refused():
    forward = PrefixForward(deep_llama(), BATCHES, PLENTY)
    forward.hidden_states(0, list("aaaaa"))
    forward.hidden_states(0, list("aaabb"), right_from=3)
    with pytest.raises(ValueError, match=r"Batch 0 has to run from block 1 .* block 3 on only"):
        forward.hidden_states(0, list("abbbb"), right_from=3)


def test_keys_are_one_a_block():
    forward = PrefixForward(deep_llama(), BATCHES, PLENTY)
    with pytest.raises(ValueError, match="4 keys for 5 blocks"):
        forward.first_block(range(1), list("abcd"))
    with pytest.raises(ValueError, match="6 keys for 5 blocks"):
        forward.hidden_states(0, list("abcdef"))


def test_no_gradients_are_recorded():
    model = deep_llama().requires_grad_(True)
    assert not PrefixForward(model, BATCHES, PLENTY).hidden_states(0, list("aaaaa")).requires_grad


def test_a_limit_below_one_state_a_batch_is_refused_with_numbers():
    PrefixForward(deep_llama(), BATCHES, room_for(1))
    with pytest.raises(NotReusable, match=r"memory\.prefixes: 9,215 .*9,216 .*46,080\)"):
        PrefixForward(deep_llama(), BATCHES, room_for(1) - 1)


@pytest.mark.parametrize("batches", [[], [tokens(0, 12)], [tokens(2, 12), tokens(0, 12)]])
def test_no_tokens_are_refused(batches):
    with pytest.raises(ConfigError, match="no tokens at all"):
        PrefixForward(TINY["llama"](), batches, PLENTY)


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ConfigError, match="training mode"):
        PrefixForward(TINY["llama"]().train(), BATCHES, PLENTY)


class Wrapped(nn.Module):
    """A block and what is done to what it returns."""

    def __init__(self, block, after):
        super().__init__()
        self.block, self.after, self.attention_type = block, after, "full_attention"

    def forward(self, hidden, **kwargs):
        return self.after(self.block(hidden, **kwargs))


def wrapped_llama(after_of):
    model = deep_llama()
    blocks = model.model.layers
    for index in range(5):
        blocks[index] = Wrapped(blocks[index], after_of(index))
    return model


def refusal_of(model):
    with pytest.raises(NotReusable) as refused:
        PrefixForward(model, BATCHES, PLENTY)
    message = str(refused.value)
    assert "Set `memory.prefixes: 0`" in message
    return message


def test_blocks_that_add_up_in_any_order_are_refused_although_they_are_off_by_rounding_only():
    calls = itertools.count()

    def after(hidden):
        hidden = hidden.clone()
        hidden[0, 0, 0] *= 1 + 2e-7 * (next(calls) % 7)
        return hidden

    BlockRunner(wrapped_llama(lambda _index: after), BATCHES)  # takes them
    assert "alone is off by " in refusal_of(wrapped_llama(lambda _index: after))


def test_blocks_that_leave_something_for_a_later_one_are_refused():
    left = []

    def after_of(index):
        if index == 4:
            return lambda hidden: hidden + 0.01 * left[-1]
        return lambda hidden: (left.append(hidden.clone()), hidden)[1]

    assert "block 4 alone is off by" in refusal_of(wrapped_llama(after_of))


def test_blocks_that_leave_something_for_what_follows_them_are_refused():
    left = []
    model = wrapped_llama(lambda _index: lambda hidden: (left.append(hidden.clone()), hidden)[1])
    model.model.norm.register_forward_pre_hook(lambda _module, args: (args[0] + left[-1],))
    assert "what follows its blocks makes something else alone" in refusal_of(model)


def test_a_model_that_misses_what_its_blocks_leave_is_refused():
    left = []
    model = wrapped_llama(lambda _index: lambda hidden: (left.append(hidden.clone()), hidden)[1])
    model.model.norm.register_forward_pre_hook(lambda _module, args: (args[0] + left.pop(),))
    model.model.embed_tokens.register_forward_pre_hook(lambda *_args: left.clear())
    assert "what follows its blocks fails alone (IndexError" in refusal_of(model)


def test_blocks_that_return_something_unknown_are_refused():
    message = refusal_of(wrapped_llama(lambda _index: lambda hidden: {"hidden": hidden}))
    assert "a block returns a dict" in message


def test_blocks_that_are_called_more_than_once_are_refused():
    model = deep_llama()
    model.model.layers[2] = model.model.layers[0]
    assert "called in the order [0, 2, 1," in refusal_of(model)


def test_a_refused_model_is_as_it_was():
    model = wrapped_llama(lambda _index: lambda hidden: {"hidden": hidden})
    refusal_of(model)
    assert not any(block._forward_hooks for block in model.model.layers)
    assert all("forward" not in vars(block) for block in model.model.layers)
