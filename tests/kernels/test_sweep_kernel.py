from importlib import import_module

import pytest
import torch
from problems import SmallLayer

from optishear.errors import NumericalError
from optishear.kernels.use import kernels
from optishear.recipe.pattern import Block, NofM, Row, WholeLayer
from optishear.solvers.sparsegpt import SparseGPT


pytest.importorskip("triton", reason="triton comes with torch's builds for GPUs only")
kernel = import_module("optishear.kernels.sparsegpt_sweep")


def made_up(rows, columns, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    upper = torch.randn(columns, columns, generator=generator).triu() / columns**0.5
    upper.diagonal().abs_().add_(0.5)
    return torch.randn(rows, columns, generator=generator), upper


def column_by_column(weight, keep, upper, group=0, drop=None):
    """(weight, keep, passed), no product rounded together with a sum."""
    weight, keep, passed = weight.clone(), keep.clone(), torch.zeros_like(weight)
    for j in range(weight.shape[1]):
        if group and j % group == 0:
            ahead = slice(j, j + group)
            saliency = (weight[:, ahead] / upper.diagonal()[ahead]).square()
            for row, order in enumerate(saliency.argsort(dim=1, stable=True)):
                keep[row, j + order] = torch.arange(group) >= drop[row]
        goes = ~keep[:, j]
        passed[goes, j] = weight[goes, j] / upper[j, j]
        weight[:, j + 1 :] -= passed[:, j, None] * upper[j, j + 1 :]
        weight[goes, j] = 0
    return weight, keep, passed


def by_kernel(weight, keep, upper, group=0, drop=None):
    weight, keep, passed = weight.clone(), keep.clone(), torch.full_like(weight, 7.0)
    bad = torch.zeros(len(weight), dtype=torch.int32)
    drop = bad if drop is None else drop.int()
    kernel.sweep_block(weight, keep, upper, passed, group, drop, bad)
    return weight, keep, passed, bad


def assert_same(found, wanted, way="interpret"):
    """To the bit: the interpreter rounds each operation, and so does `column_by_column`.

    A GPU rounds a product and its sum together; what that changes grows as the weights do.
    """
    for ours, theirs in zip(found, wanted):
        if way == "interpret" or ours.dtype == torch.bool:
            assert torch.equal(ours, theirs)
        else:
            assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


KEPT = {"some": lambda x: x > 0.5, "all": lambda x: x >= 0, "none": lambda x: x < 0}


@pytest.mark.parametrize("shape", [(5, 128), (1, 128), (4, 16), (9, 1), (1, 1), (6, 37)], ids=str)
@pytest.mark.parametrize("kept", KEPT)
def test_a_given_mask_is_swept_to_the_same_bits_as_column_by_column(shape, kept, way):
    weight, upper = made_up(*shape)
    keep = KEPT[kept](torch.rand(shape, generator=torch.Generator().manual_seed(1)))
    assert_same(by_kernel(weight, keep, upper)[:3], column_by_column(weight, keep, upper), way)


@pytest.mark.parametrize("group", [2, 4, 6, 8])
@pytest.mark.parametrize("rows", [1, 7])
def test_groups_choose_by_the_saliencies_of_the_moment_each_row_its_own_count(group, rows, way):
    weight, upper = made_up(rows, 24)
    drop = torch.arange(rows) % (group + 1)
    keep = torch.rand(rows, 24) > 0.5  # is overwritten
    *found, bad = by_kernel(weight, keep, upper, group, drop)
    assert_same(found, column_by_column(weight, keep, upper, group, drop), way)
    assert bad.sum() == 0
    assert torch.equal((~found[1]).sum(1), drop * (24 // group))


def test_of_equal_saliencies_the_first_go():
    weight, upper = torch.tensor([[1.0, -1, 1, -1, 0, -0.0, 0, 0]]), torch.eye(8)
    _, keep, _, _ = by_kernel(weight, weight > 9, upper, 4, torch.tensor([3]))
    assert keep.tolist() == [[False, False, False, True] * 2]


def test_a_layer_of_zeros_stays_one():
    weight, upper = torch.zeros(3, 20), made_up(1, 20)[1]
    for group in (0, 4):
        found, _, passed, bad = by_kernel(weight, weight > 0, upper, group, torch.full((3,), 2))
        assert not found.any()
        assert not passed.any()
        assert not bad.any()


def test_levels_one_below_the_other_are_what_each_is_alone():
    weight, upper = made_up(5, 16)
    drops = [torch.full((5,), count) for count in (1, 2, 3)]
    keep = torch.ones(5, 16, dtype=torch.bool)
    alone = [by_kernel(weight, keep, upper, 4, drop) for drop in drops]
    together = by_kernel(weight.repeat(3, 1), keep.repeat(3, 1), upper, 4, torch.cat(drops))
    for whole, parts in zip(together, zip(*alone)):
        assert torch.equal(whole, torch.cat(parts))


def test_blocks_wider_than_a_tile_are_swept_in_parts():
    weight, upper = made_up(3, 300)
    keep = torch.rand(3, 300, generator=torch.Generator().manual_seed(1)) > 0.5
    found = by_kernel(weight, keep, upper)
    for ours, slow in zip(found, column_by_column(weight, keep, upper)):
        assert torch.allclose(ours.float(), slow.float(), atol=1e-5)


def test_what_lies_below_the_factor_s_diagonal_is_not_read(way):
    weight, upper = made_up(3, 20)
    keep = weight > 0
    noise = upper + torch.full_like(upper, torch.nan).tril(-1)
    assert_same(by_kernel(weight, keep, noise)[:3], column_by_column(weight, keep, upper), way)


def test_a_factor_stored_by_columns_is_read_as_well():
    """As torch's triangular solver leaves it."""
    weight, upper = made_up(3, 20)
    keep = weight > 0
    by_columns = upper.T.contiguous().T
    assert by_columns.stride() == (1, 20)
    assert_same(by_kernel(weight, keep, by_columns)[:3], by_kernel(weight, keep, upper)[:3])


def test_rows_that_are_not_contiguous_are_refused():
    weight, upper = made_up(20, 20)
    with pytest.raises(ValueError, match="Neighbours in a row"):
        by_kernel(weight.T, weight > 0, upper)


def solved(pattern, mode, lam=1.0, spoilt=None, width=144, by_columns=False):
    layer = SmallLayer(rows=3, width=width, tokens=300)
    if by_columns:
        layer.weight = layer.weight.T.contiguous().T
    if spoilt is not None:
        layer.weight[1, 3] = spoilt
    with kernels(mode):
        return SparseGPT().solve(layer.problem(layer.weight.numel() // 2, pattern, lam))


PATTERNS = [Block(16), Block(128), Block(140), NofM(4), NofM(8), NofM(144), Row(), WholeLayer()]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.text)
def test_the_solver_answers_alike_with_kernels_and_without(pattern, way):
    """Up to rounding: torch on this machine may round a product and a sum together."""
    with_kernels = solved(pattern, way)
    without = solved(pattern, "off")
    assert torch.equal(with_kernels.keep, without.keep)
    assert torch.allclose(with_kernels.weight, without.weight, rtol=1e-4, atol=1e-5)


def test_weights_stored_by_columns_are_solved_as_well(way):
    """As GPT-2's are."""
    by_columns = solved(NofM(4), way, width=24, by_columns=True)
    by_rows = solved(NofM(4), way, width=24)
    assert torch.equal(by_columns.keep, by_rows.keep)
    assert torch.allclose(by_columns.weight, by_rows.weight, rtol=1e-4, atol=1e-5)


def test_the_switch_decides_whether_the_kernel_runs(monkeypatch, way):
    launches = []
    launch = kernel._launch
    monkeypatch.setattr(kernel, "_launch", lambda *a: (launches.append(1), launch(*a)))
    solved(Row(), "off")
    assert launches == []
    solved(Row(), way)
    assert len(launches) == 2  # blocks of 128 in 144 columns


def test_row_terms_go_through_torch_to_the_same_bits(way):
    with_kernels = solved(NofM(4), way, lam=0.5)
    assert torch.equal(with_kernels.weight, solved(NofM(4), "off", lam=0.5).weight)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, under the interpreter
@pytest.mark.parametrize("off", [False, True])
@pytest.mark.parametrize("spoilt", [torch.inf, torch.nan, 1e30])
def test_scores_that_are_not_finite_are_a_numerical_error_either_way(spoilt, off, way):
    with pytest.raises(NumericalError, match="scores are nan or inf"):
        solved(NofM(4), "off" if off else way, spoilt=spoilt, width=24)
