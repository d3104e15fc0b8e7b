from importlib import import_module

import pytest
import torch
from problems import SmallLayer

from optishear.kernels.use import kernels
from optishear.recipe.pattern import Row
from optishear.solvers import refit as reference
from optishear.solvers.masks import keep_highest


pytest.importorskip("triton", reason="triton comes with torch's builds for GPUs only")
kernel = import_module("optishear.kernels.refit_step")


SHAPES = [(5, 37), (1, 1), (3, 1), (1, 2500), (2, 1024)]
KEPT = {"some": lambda x: x > 0.5, "all": lambda x: x >= 0, "none": lambda x: x < 0}


def made_up(shape, kept, count, *, seed=0):
    """`count` matrices, a mask, and a positive number a row."""
    generator = torch.Generator().manual_seed(seed)
    matrices = [torch.randn(shape, generator=generator) for _ in range(count)]
    keep = KEPT[kept](torch.rand(shape, generator=generator))
    return matrices, keep, torch.rand(shape[0], generator=generator) + 0.1


def assert_close(found, wanted):
    """Dots are summed in another order: in fp32, that is 1e-6 of the sum of magnitudes."""
    for ours, theirs in zip(found, wanted):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kept", KEPT)
def test_a_move_is_torch_s(shape, kept):
    (weight, residual, direction, noise), keep, slope = made_up(shape, kept, 4)
    product = direction + 0.1 * noise  # as of a positive definite matrix
    wanted = reference.move_rows(weight, residual, direction, product, keep.float(), slope)
    found = kernel.move_rows(weight, residual, direction, product, keep, slope)
    assert_close(found, wanted)
    assert found[0] is weight  # written in place
    assert found[1] is residual
    if kept == "none":
        assert not found[2].any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kept", KEPT)
def test_a_turn_is_torch_s_and_masks_as_well(shape, kept):
    (residual, ahead, direction), keep, before = made_up(shape, kept, 3)
    wanted = reference.turn_rows(residual, ahead * keep, direction, keep.float(), before)
    found = kernel.turn_rows(residual, ahead, direction, keep, before)
    assert_close(found, wanted)
    assert found[0] is direction


def test_rows_at_their_optimum_stay_where_they_are():
    (weight, residual, direction, _), keep, slope = made_up((4, 21), "some", 4)
    direction[1], slope[1] = 0, 0
    before = weight.clone()
    _, _, step = kernel.move_rows(weight, residual, direction, direction.clone(), keep, slope)
    assert step[1] == 0
    assert torch.equal(weight[1], before[1])
    assert not torch.equal(weight[2], before[2])
    _, now, turn = kernel.turn_rows(residual, residual.clone(), direction, keep, slope)
    assert turn[1] == 0
    assert now[1] > 0


def test_a_direction_of_negative_curvature_is_not_gone_along():
    (weight, residual, direction, _), keep, slope = made_up((2, 21), "all", 4)
    before = weight.clone()
    _, _, step = kernel.move_rows(weight, residual, direction, -direction, keep, slope)
    assert not step.any()
    assert torch.equal(weight, before)


def test_runs_of_rows_and_columns_of_a_larger_matrix_will_do():
    (weight, residual, direction, product), keep, slope = made_up((9, 40), "some", 4)
    part = slice(2, 7), slice(3, 33)
    inside = [x[part] for x in (weight, residual, direction, product)]
    whole = weight.clone()
    wanted = reference.move_rows(*inside, keep[part].float(), slope[2:7])
    assert_close(kernel.move_rows(*inside, keep[part], slope[2:7]), wanted)
    whole[part] = weight[part]
    assert torch.equal(weight, whole)  # nothing around it was touched


def test_matrices_that_are_not_stored_by_rows_are_refused():
    (weight, residual, direction), keep, before = made_up((6, 6), "some", 3)
    with pytest.raises(ValueError, match="Neighbours in a row"):
        kernel.turn_rows(residual, weight.T, direction, keep, before)


def problem(lam):
    layer = SmallLayer(rows=5, width=100, tokens=300)
    return layer.quadratic(lam), layer.weight, keep_highest(layer.weight.abs(), 350, Row())


@pytest.mark.parametrize("precision", ["highest", "bf16x3"])
@pytest.mark.parametrize("lam", [1.0, 0.5])
def test_a_refit_answers_alike_with_kernels_and_without(lam, precision, way):
    quadratic, dense, keep = problem(lam)
    copy, start = dense.clone(), dense * 0.9
    found = {}
    for mode in ("off", way):
        with kernels(mode):
            found[mode] = reference.refit(quadratic, dense, keep, start, precision=precision)
    assert found[way].iterations == found["off"].iterations > 3
    assert found[way].excess == pytest.approx(found["off"].excess, rel=0.02)
    assert torch.allclose(found[way].weight, found["off"].weight, atol=1e-4)
    assert not found[way].weight[~keep].any()
    assert torch.equal(dense, copy)  # kernels write in place, but never there
    assert torch.equal(start, copy * 0.9)


def test_weights_and_masks_stored_by_columns_are_refitted_as_well(way):
    quadratic, dense, keep = problem(1.0)
    with kernels(way):
        by_rows = reference.refit(quadratic, dense, keep)
        by_columns = reference.refit(
            quadratic, dense.T.contiguous().T, keep.T.contiguous().T, start=dense.T.clone().T
        )
    assert torch.allclose(by_columns.weight, by_rows.weight, atol=1e-4)


def test_the_switch_decides_whether_the_kernels_run(monkeypatch, way):
    launched = []
    launch = kernel._launch
    monkeypatch.setattr(kernel, "_launch", lambda fn, *a: (launched.append(fn), launch(fn, *a)))
    with kernels("off"):
        reference.refit(*problem(1.0))
    assert launched == []
    with kernels(way):
        steps = reference.refit(*problem(1.0)).iterations
    assert launched == [kernel._move, kernel._turn] * steps
