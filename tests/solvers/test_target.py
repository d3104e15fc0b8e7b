"""The shifted target is the least-squares answer for the dense model's output."""

import pytest
import torch
from problems import SAMPLES, SmallLayer

from optishear.errors import NumericalError
from optishear.solvers.target import shifted_target


def slow_optimum(layer, quadratic, dense, alpha, lam):
    """Each row by `lstsq` of all that is summed up, stacked, in fp64."""
    pruned, tokens = layer.x.double(), len(layer.x)
    damping = torch.eye(pruned.shape[1]).double() * quadratic.shared.added**0.5
    aim = pruned + alpha * (dense - pruned)
    rows = []
    for row, weight in enumerate(layer.weight.double()):
        parts = [((lam / tokens) ** 0.5 * pruned, (lam / tokens) ** 0.5 * aim), (damping, damping)]
        if quadratic.row_term is not None:
            term = quadratic.row_term.rows(slice(row, row + 1), layer.weight.device)[0].double()
            assert len(term) == SAMPLES
            parts.append((term, term))
        left = torch.cat([part for part, _ in parts])
        right = torch.cat([part @ weight for _, part in parts])
        rows.append(torch.linalg.lstsq(left, right[:, None], driver="gelsd").solution[:, 0])
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["plain", "rank_deficient", "dead_inputs", "bfloat16"])
@pytest.mark.parametrize("alpha", [0.25, 1.0])
@pytest.mark.parametrize("lam", [1.0, 0.4])
def test_it_equals_a_direct_least_squares_solve(kind, alpha, lam):
    layer = SmallLayer(kind)
    dense, cross = layer.drifted()
    quadratic = layer.quadratic(lam)
    found = shifted_target(layer.weight, cross.float(), alpha, quadratic, share=lam)
    want = slow_optimum(layer, quadratic, dense, alpha, lam)
    assert found.dtype == torch.float32
    shift = (want - layer.weight.double()).abs().max()
    assert shift > 0.01
    assert (found.double() - want).abs().max() < 1e-3 * max(1.0, shift)


def test_alpha_of_zero_and_an_input_that_has_not_moved_give_the_weight_itself():
    layer = SmallLayer()
    _, cross = layer.drifted()
    quadratic = layer.quadratic()
    assert shifted_target(layer.weight, cross.float(), 0.0, quadratic) is layer.weight
    still = torch.zeros_like(cross).float()
    assert shifted_target(layer.weight, still, 1.0, quadratic) is layer.weight


def test_the_weight_is_left_as_it_was():
    layer = SmallLayer()
    before = layer.weight.clone()
    shifted_target(layer.weight, layer.drifted()[1].float(), 1.0, layer.quadratic())
    assert torch.equal(layer.weight, before)


def test_a_shift_that_is_not_finite_is_no_target():
    layer = SmallLayer()
    cross = layer.drifted()[1].float()
    cross[2, 3] = float("inf")
    with pytest.raises(NumericalError, match="shifted target is nan or inf"):
        shifted_target(layer.weight, cross, 1.0, layer.quadratic())
