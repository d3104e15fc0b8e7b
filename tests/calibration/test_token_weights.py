"""Token weights are squared gradients of the loss in what layers put out, a row a token."""

import pytest
import torch
import torch.nn.functional as F
from tiny_folders import tiny_folder
from tiny_models import TINY, tokens

from optishear.calibration.streamed_gradients import BlockByBlock
from optishear.calibration.token_weight_store import load_or_collect_weights
from optishear.calibration.token_weights import (
    Guide,
    TokenWeights,
    even_runs,
    guide_of,
    mean_squares,
)
from optishear.errors import ConfigError
from optishear.models.blocks import BlockStack
from optishear.models.discover import layout_of
from optishear.models.load import load
from optishear.models.streamed import stream
from optishear.models.weights import view_of
from optishear.recipe.layout import Layer


SEQUENCES = tokens(3, 10, seed=1)
LAYER = Layer("a", 0, "a", 7, 5, "a")


def collect(path, model, groups, samples=SEQUENCES, how=None):
    return load_or_collect_weights(path, model, layout_of(model), samples, groups, how)


def losses_with(model, name, added, sequence):
    """The summed loss for each of `added`, put to what a layer makes, in fp64."""
    hook = model.get_submodule(name).register_forward_hook(
        lambda _m, _a, made: made + added.view_as(made)
    )
    try:
        logits = model(sequence.expand(len(added), -1), use_cache=False).logits[:, :-1]
    finally:
        hook.remove()
    targets = sequence[:, 1:].expand(len(added), -1)
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").sum(1)


@pytest.mark.parametrize(
    ("kind", "step", "close"), [("gpt2", 1e-4, 1e-5), ("opt", 1e-4, 1e-5), ("llama", 3e-3, 1e-2)]
)
def test_they_are_the_squared_slopes_of_the_loss(kind, step, close, tmp_path):
    """In fp64, but for llama's norms, which are made in fp32."""
    model = TINY[kind]().double()
    found = collect(tmp_path / "w", model, 2)
    for layer in layout_of(model).layers:
        for sample, token in [(0, 0), (1, 4), (2, 8)]:
            rows = layer.out_features
            added = torch.zeros(rows, 10, rows, dtype=torch.float64)
            added[torch.arange(rows), token, torch.arange(rows)] = step
            sequence = SEQUENCES[sample : sample + 1]
            with torch.no_grad():
                up, down = (
                    losses_with(model, layer.name, sign * added, sequence) for sign in (1, -1)
                )
            slopes = (up - down) / (2 * step)
            want = torch.stack([slopes[run].square().mean() for run in even_runs(rows, 2)])
            got = found[layer.name].squares[10 * sample + token].double()
            torch.testing.assert_close(got, want, rtol=close, atol=1e-9)


@pytest.mark.parametrize("kind", sorted(TINY))
def test_every_architecture_has_them_and_is_left_as_it_was(kind, tmp_path):
    model = TINY[kind]()
    layout = layout_of(model)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    found = collect(tmp_path / "w", model, 3)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(w.squares.shape == (30, 3) and w.squares.isfinite().all() for w in found.values())
    routed = {x.name for x in layout.layers if view_of(model, x.name).expert is not None}
    if kind == "list_moe":
        routed = {layer.name for layer in layout.layers if "expert" in layer.role}
    assert found.keys() == {layer.name for layer in layout.layers} - routed
    assert not model._forward_hooks


def test_the_last_token_of_a_sequence_predicts_nothing(tmp_path):
    found = collect(tmp_path / "w", TINY["llama"](), 1)
    squares = found["model.layers.1.mlp.down_proj"].squares.view(3, 10)
    assert (squares[:, -1] == 0).all()
    assert (squares[:, :-1] > 0).all()


def test_more_groups_are_finer_means_of_the_same(tmp_path):
    model = TINY["llama"]()
    one, two = collect(tmp_path / "1", model, 1), collect(tmp_path / "2", model, 2)
    for name, weights in one.items():
        torch.testing.assert_close(weights.squares, two[name].squares.mean(1, keepdim=True))


def test_row_groups_cover_all_rows_once():
    for rows, groups in [(7, 1), (7, 2), (7, 3), (8, 4), (5, 5)]:
        runs = even_runs(rows, groups)
        assert [row for run in runs for row in range(rows)[run]] == list(range(rows))
        sizes = [run.stop - run.start for run in runs]
        assert len(sizes) == groups
        assert max(sizes) - min(sizes) <= 1


def test_the_mean_over_rows_is_taken_in_fp32():
    gradient = torch.full((2, 7), 1e-4, dtype=torch.float16)
    assert (mean_squares(gradient, 3) > 0).all()


class TestRelative:
    def weights(self):
        generator = torch.Generator().manual_seed(0)
        return TokenWeights(torch.rand(50, 3, generator=generator) * torch.tensor([1.0, 4.0, 0.1]))

    def test_their_mean_over_tokens_and_rows_is_one(self):
        found = self.weights().relative(LAYER, clip=1.5)
        rows = torch.tensor([2.0, 2.0, 3.0])
        assert ((found.mean(0) * rows).sum() / 7).item() == pytest.approx(1)

    def test_groups_keep_their_scale_to_each_other(self):
        found, squares = self.weights().relative(LAYER, clip=100.0), self.weights().squares
        torch.testing.assert_close(found[:, 1] / found[:, 0], squares[:, 1] / squares[:, 0])

    def test_no_token_is_above_the_bound(self):
        weights = self.weights()
        found = weights.relative(LAYER, clip=1.5)
        bound = 1.5 * weights.squares.mean(0)
        over = weights.squares > bound
        assert over.any()
        for group in range(3):
            top = found[over[:, group], group]
            torch.testing.assert_close(top, top[:1].expand_as(top))
            assert (found[:, group] <= top[0]).all()

    def test_equal_squares_weigh_exactly_one(self):
        assert (TokenWeights(torch.full((9, 3), 3e-7)).relative(LAYER) == 1).all()

    def test_what_the_loss_does_not_hear_is_refused(self):
        squares = torch.ones(4, 2)
        squares[:, 1] = 0
        with pytest.raises(ConfigError, match="does not depend"):
            TokenWeights(squares).relative(LAYER)


def test_a_guide_is_cut_by_samples():
    weights = torch.arange(24.0).view(12, 2)
    part = Guide({"a": weights}, 4).part(1, 2)
    assert part.samples == 2
    assert torch.equal(part.weights["a"], weights[3:9])
    assert part.groups == {"a": 2}


def test_routed_layers_cannot_be_guided(tmp_path):
    model = TINY["list_moe"]()
    found = {1: collect(tmp_path / "w", model, 1)}
    groups = dict.fromkeys(layout_of(model).layers, 1)
    with pytest.raises(ConfigError, match=r"experts.0.* does not read every token once"):
        guide_of(groups, found, 3)


class TestKept:
    def test_the_second_call_reads_what_the_first_found(self, tmp_path):
        model = TINY["llama"]()
        first = collect(tmp_path / "w", model, 2)

        def never(*_):
            raise AssertionError

        again = collect(tmp_path / "w", model, 2, how=never)
        assert again.keys() == first.keys()
        assert all(torch.equal(again[name].squares, first[name].squares) for name in first)

    def test_a_damaged_file_is_made_anew_with_a_warning(self, tmp_path, caplog):
        model, path = TINY["llama"](), tmp_path / "w"
        first = collect(path, model, 2)
        data = path.read_bytes()
        path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
        with caplog.at_level("WARNING"):
            again = collect(path, model, 2)
        assert "is damaged" in caplog.text
        assert all(torch.equal(again[name].squares, first[name].squares) for name in first)

    def test_a_model_in_training_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="training mode"):
            collect(tmp_path / "w", TINY["llama"]().train(), 1)

    def test_more_groups_than_rows_are_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="rows make no 17 groups"):
            collect(tmp_path / "w", TINY["llama"](), 17)

    def test_what_is_not_finite_is_refused_and_nothing_is_kept(self, tmp_path):
        model = TINY["llama"]()
        with torch.no_grad():
            model.lm_head.weight[0] = float("inf")
        with pytest.raises(ConfigError, match="is not finite"):
            collect(tmp_path / "w", model, 1)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_block_by_block_from_files_they_are_the_same_bit_for_bit(kind, tmp_path):
    folder = tiny_folder(kind, tmp_path / "model")
    streamed = stream(str(folder))
    model = streamed.loaded.model
    stack = BlockStack(model)
    stack.prove(SEQUENCES[:1], stack.states(SEQUENCES[:1]), to_rounding=False)
    how = BlockByBlock(streamed, stack, streamed.layout(), tmp_path / "hidden").squares
    got = load_or_collect_weights(tmp_path / "s", model, streamed.layout(), SEQUENCES, 2, how)
    want = collect(tmp_path / "w", load(str(folder)).model, 2)
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name].squares, want[name].squares) for name in want)
    assert not (tmp_path / "hidden").exists()
