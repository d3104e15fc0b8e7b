"""A reconstruction moves what is kept towards what the dense window does, never further away."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from optishear.errors import ConfigError
from optishear.pruning.movable import Movable, Moving
from optishear.pruning.reconstruction import Window, reconstruct, split
from optishear.recipe.reconstruction import ReconstructionSettings


SETTINGS = ReconstructionSettings(epochs=6, learning_rate=5e-3, held_back=0.25)


class TwoMatrices(Window):
    """tanh between two matrices, half of whose weights are gone, and a norm's weight."""

    name, broken = "block 3", False

    def __init__(self, dtype=torch.float32, sequences=12, tokens=7):
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape):
            return torch.randn(*shape, generator=generator).to(dtype)

        self.sequences = sequences
        self.read = [drawn(1, tokens, 6) for _ in range(sequences)]
        self.a, self.b = nn.Parameter(drawn(10, 6)), nn.Parameter(drawn(6, 10))
        self.scale = nn.Parameter(1 + 0.1 * drawn(6))
        for parameter in (self.a, self.b, self.scale):
            parameter.requires_grad_(False)
        self.dense = [self.output(index).clone() for index in range(sequences)]
        with torch.no_grad():
            for parameter in (self.a, self.b):
                parameter[parameter.abs() < parameter.abs().median()] = 0

    def output(self, sequence):
        x = self.read[sequence]
        made = x + torch.tanh((x * self.scale) @ self.a.T) @ self.b.T
        return made * math.nan if self.broken and torch.is_grad_enabled() else made

    def target(self, sequence):
        return self.dense[sequence]

    def weights(self, nearest=lambda numbers: numbers, norm=False):
        found = [
            Movable("a", self.a, lambda t: t, nearest),
            Movable("b", self.b, lambda t: t.T, nearest),  # stored transposed, as in Conv1D
        ]
        scale = Movable("scale", self.scale, lambda t: t, nearest, zeros_stay=False)
        return [*found, scale] if norm else found

    def state(self):
        return [p.detach().clone() for p in (self.a, self.b, self.scale)]

    def error(self, sequences):
        """By hand, in fp64."""
        gone = torch.cat([self.output(i) - self.dense[i] for i in sequences]).double()
        dense = torch.cat([self.dense[i] for i in sequences]).double()
        return (gone.square().sum() / dense.square().sum()).item()


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_it_lowers_the_error_on_sequences_that_it_has_not_learned_from():
    window = TwoMatrices()
    learned, held = split(12, 0.25, 0)
    before = window.error(held)
    report = reconstruct(window, window.weights(), SETTINGS)
    assert report.before == pytest.approx(before, rel=1e-5)
    assert report.after == pytest.approx(window.error(held), rel=1e-5)
    assert report.after < 0.8 * report.before
    assert (report.learned, report.decided) == (len(learned), len(held)) == (9, 3)
    assert report.losses[report.best - 1] == report.after == min(report.losses)
    assert report.window == "block 3"
    assert not report.notes


def test_zeros_stay_and_nothing_that_is_kept_becomes_one():
    window = TwoMatrices()
    before = window.state()
    reconstruct(window, window.weights(), SETTINGS)
    after = window.state()
    for was, now in zip(before[:2], after[:2], strict=True):
        assert torch.equal(was == 0, now == 0)
        assert not torch.equal(was, now)
    assert torch.equal(before[2], after[2])  # a norm stays unless it is handed in
    assert not any(p.requires_grad or p.grad is not None for p in (window.a, window.b))


def test_what_is_no_mask_moves_as_a_whole():
    window = TwoMatrices()
    report = reconstruct(window, window.weights(norm=True), SETTINGS)
    alone = TwoMatrices()
    assert not torch.equal(window.scale, alone.scale)
    assert report.after < reconstruct(alone, alone.weights(), SETTINGS).after


@pytest.mark.parametrize("rate", [3.0, 20.0])
@pytest.mark.parametrize("held_back", [0.0, 0.25])
def test_an_absurd_learning_rate_goes_back_to_the_start_and_says_so(rate, held_back):
    window = TwoMatrices()
    before = window.state()
    settings = replace(SETTINGS, learning_rate=rate, held_back=held_back, epochs=3)
    report = reconstruct(window, window.weights(), settings)
    assert same(before, window.state())
    assert report.best == 0
    assert report.after == report.before
    assert len(report.losses) == 2  # two in a row that bring nothing
    [note] = report.notes
    assert "whose weights stay" in note
    assert f"{rate:g}" in note


def test_what_is_not_finite_never_leaves():
    window = TwoMatrices()
    before = window.state()
    window.broken = True
    report = reconstruct(window, window.weights(), SETTINGS)
    assert same(before, window.state())
    assert report.losses == ()
    assert "not finite" in report.notes[0]
    with torch.no_grad():
        window.b[0, 0] = math.inf
    with pytest.raises(ConfigError, match="What block 3 makes once its layers are pruned is not"):
        reconstruct(window, window.weights(), SETTINGS)


def test_weights_too_large_for_the_files_never_leave():
    window = TwoMatrices()
    before = window.state()
    report = reconstruct(window, window.weights(lambda numbers: numbers / 0), SETTINGS)
    assert same(before, window.state())
    assert report.best == 0


def test_one_seed_is_the_same_bit_for_bit_and_others_are_not():
    def run(number=0, **more):
        window = TwoMatrices()
        report = reconstruct(window, window.weights(), replace(SETTINGS, **more), number)
        return window.state(), report

    state, report = run()
    again, told = run()
    assert same(state, again)
    assert report == told
    assert not same(state, run(seed=1)[0])
    assert not same(state, run(number=1)[0])  # sequences come in another order
    assert not same(state, run(batch=2)[0])
    assert split(12, 0.25, 0)[1] != split(12, 0.25, 1)[1]


def test_the_best_epoch_is_kept_and_two_that_bring_nothing_end_it():
    window = TwoMatrices(sequences=4, tokens=2)  # too little to learn from: it overfits
    held = split(4, 0.5, 0)[1]
    settings = ReconstructionSettings(epochs=200, learning_rate=0.02, held_back=0.5)
    report = reconstruct(window, window.weights(), settings)
    assert 0 < report.best < len(report.losses) < 200
    assert len(report.losses) == report.best + 2
    assert window.error(held) == pytest.approx(report.after, rel=1e-5)


def test_the_model_computes_with_numbers_that_the_files_can_hold():
    def nearest(numbers):
        return numbers.bfloat16().float()

    window = TwoMatrices()
    with torch.no_grad():
        for parameter in (window.a, window.b):
            parameter.copy_(nearest(parameter))
    report = reconstruct(window, window.weights(nearest), SETTINGS)
    assert report.best
    assert same(window.state()[:2], [nearest(w) for w in window.state()[:2]])
    assert report.after == pytest.approx(window.error(split(12, 0.25, 0)[1]), rel=1e-5)


def test_small_steps_add_up_in_a_model_that_computes_in_bfloat16():
    window = TwoMatrices(torch.bfloat16)
    settings = replace(SETTINGS, learning_rate=1e-3)  # far below bf16's step at 1
    report = reconstruct(window, window.weights(), settings)
    assert report.after < 0.97 * report.before
    assert window.a.dtype == torch.bfloat16


def test_a_window_that_does_what_the_dense_one_did_is_left_alone():
    window = TwoMatrices()
    window.dense = [window.output(index) * (1 + 1e-7) for index in range(window.sequences)]
    before = window.state()
    report = reconstruct(window, window.weights(), SETTINGS)
    assert same(before, window.state())
    assert report.losses == report.notes == ()


def test_gradients_are_those_of_finite_differences():
    window = TwoMatrices(torch.float64)
    moving = Moving(window.weights(norm=True))
    assert all(numbers.dtype == torch.float64 for numbers in moving.numbers)

    def loss():
        gone = torch.cat([window.output(i) - window.dense[i] for i in (1, 4)])
        return gone.square().sum()

    with moving.recorded():
        for index in (1, 4):  # of two sequences they add up
            moving.add_gradients((window.output(index) - window.dense[index]).square().sum())
    h = 1e-6
    for numbers in moving.numbers:
        got, flat = numbers.grad, numbers.data
        assert got is not None
        for place in range(0, len(flat), 5):
            value = flat[place].item()
            ends = []
            for step in (h, -h):
                flat[place] = value + step
                moving.write()
                ends.append(loss().item())
            flat[place] = value
            moving.write()
            assert got[place].item() == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5)


def test_the_first_step_is_that_of_torchs_adamw_on_the_kept_weights():
    window, other = TwoMatrices(sequences=1), TwoMatrices(sequences=1)
    settings = ReconstructionSettings(epochs=1, learning_rate=1e-3, held_back=0.0)
    report = reconstruct(window, window.weights(), settings)
    assert report.best == 1
    keep = [other.a != 0, other.b != 0]
    for was, now, kept in zip((other.a, other.b), (window.a, window.b), keep, strict=True):
        moved = (now - was)[kept]
        assert torch.allclose(moved.abs(), torch.tensor(1e-3), rtol=1e-3)  # Adam's first step


def test_sequences_held_back_are_a_share_and_leave_something_to_learn_from():
    for sequences in (2, 5, 16, 128):
        for share in (0.01, 0.125, 0.5):
            learned, held = split(sequences, share, 3)
            assert sorted([*learned, *held]) == list(range(sequences))
            assert len(held) == max(1, round(share * sequences))
    assert split(3, 0.0, 0) == ([0, 1, 2], [0, 1, 2])
    with pytest.raises(ConfigError, match="1 of 1 calibration sequences are to be held back"):
        split(1, 0.125, 0)
