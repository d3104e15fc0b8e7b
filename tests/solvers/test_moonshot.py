import pytest
import torch
from problems import SmallLayer

from optishear.calibration.gradients import LayerGradients
from optishear.errors import NumericalError
from optishear.metrics import METRICS
from optishear.recipe.pattern import Block, NofM, Row, WholeLayer
from optishear.solvers.alps import ALPS
from optishear.solvers.base import Mask
from optishear.solvers.moonshot import blended, blended_stats
from optishear.solvers.refit import Refit
from optishear.solvers.sparsegpt import SparseGPT


def terms(layer, weight):
    """R and F as the formulation has them, in fp64 from the inputs and gradients themselves."""
    change = weight.double() - layer.weight.double()
    g = (layer.gradients.stored.float() * layer.gradients.scale[:, None]).double()
    along = torch.einsum("rsi,ri->rs", g, change)
    samples = layer.gradients.samples
    return (change @ layer.x.double().T).square().sum(), 0.5 * along.square().sum() / samples


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 0.9])
def test_the_cost_is_the_normalised_blend_of_both_terms(lam):
    layer = SmallLayer()
    quadratic = blended(layer.weight, layer.stats, layer.gradients, lam, damping=1e-9)
    weight = layer.weight * torch.rand(layer.weight.shape)
    r0, f0 = terms(layer, torch.zeros_like(weight))
    r, f = terms(layer, weight)
    want = (lam * r / r0 + (1 - lam) * f / f0) * r0 / (2 * layer.stats.tokens)
    damping = 0.5 * quadratic.shared.added * (weight - layer.weight).square().sum()
    got = quadratic.cost(weight - layer.weight) - damping.item()
    assert got == pytest.approx(want.item(), rel=1e-4)


def test_damping_is_relative_to_the_mean_diagonal_of_the_rows_hessians():
    layer = SmallLayer()
    undamped = layer.quadratic(0.4, damping=1e-12)
    mean = torch.stack([h.diagonal() for h in layer.row_hessians(undamped)]).mean().item()
    assert layer.quadratic(0.4, 0.01).shared.added == pytest.approx(0.01 * mean, rel=1e-4)


@pytest.mark.parametrize("lam", [0.0, 0.5])
def test_what_metrics_read_is_the_diagonal_of_each_row(lam):
    layer = SmallLayer()
    undamped = layer.quadratic(lam, damping=1e-12)
    diagonals = torch.stack([h.diagonal() for h in layer.row_hessians(undamped)])
    seen = blended_stats(layer.weight, layer.stats, layer.gradients, lam)
    assert torch.allclose(seen.input_norm.double(), diagonals.sqrt(), rtol=1e-3)
    scores = METRICS["wanda"]().score(layer.weight, seen)
    assert torch.allclose(scores.double(), layer.weight.abs() * diagonals.sqrt(), rtol=1e-3)


@pytest.mark.parametrize("solver", [SparseGPT(), ALPS(), Refit(Mask(METRICS["wanda"]()))])
@pytest.mark.parametrize("pattern", [Row(), WholeLayer(), Block(16), NofM(4)], ids=lambda p: p.text)
def test_a_lambda_of_one_is_the_plain_method_to_rounding(solver, pattern):
    from dataclasses import replace

    layer = SmallLayer()
    plain = layer.problem(240, pattern)
    quadratic = blended(layer.weight, layer.stats, layer.gradients, 1.0)
    seen = blended_stats(layer.weight, layer.stats, layer.gradients, 1.0)
    mixed = replace(plain, make_quadratic=lambda: quadratic, make_stats=lambda: seen)
    want, got = solver.solve(plain), solver.solve(mixed)
    assert torch.equal(want.keep, got.keep)
    assert torch.allclose(want.weight, got.weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("metric", sorted(set(METRICS) - {"random"}))
def test_metrics_read_a_lambda_of_one_as_the_plain_statistics(metric):
    layer = SmallLayer()
    seen = blended_stats(layer.weight, layer.stats, layer.gradients, 1.0)
    want = METRICS[metric]().score(layer.weight, layer.stats)
    got = METRICS[metric]().score(layer.weight, seen)
    assert torch.allclose(want, got, rtol=1e-5)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_the_preconditioner_is_the_inverse_without_a_mask_and_above_it_with_one(lam):
    layer, generator = SmallLayer(), torch.Generator().manual_seed(0)
    quadratic, keep = layer.quadratic(lam), torch.rand(5, 40, generator=generator) > 0.4
    part = quadratic.part(slice(3, 8))
    x = torch.randn(5, 40, generator=generator)
    everything = part.inverse_on(torch.ones_like(keep))
    divided, inner = everything(part.times(x))
    assert torch.allclose(divided, x, atol=2e-3)
    if inner is not None:  # S times what was divided
        assert torch.allclose(part.times(x, inner), part.times(x), rtol=1e-3, atol=1e-2)
        assert torch.allclose(
            inner, torch.einsum("rni,ri->rn", part.term, divided), rtol=2e-3, atol=1e-2
        )
    masked = part.inverse_on(keep)
    for row, hessian in enumerate(layer.row_hessians(quadratic)[3:8]):
        kept = keep[row].nonzero()[:, 0]
        basis = torch.zeros(len(kept), 5, 40)
        basis[range(len(kept)), row, kept] = 1
        bound = torch.stack([masked(unit)[0][row, kept] for unit in basis]).double()
        sought = torch.linalg.inv(hessian[kept][:, kept])
        assert torch.linalg.eigvalsh(bound - sought).min() > -1e-4 * sought.norm()


def test_less_weight_on_the_reconstruction_buys_taylor_loss():
    layer = SmallLayer()
    losses, errors = [], []
    for lam in (1.0, 0.5, 0.0):
        solution = Refit(SparseGPT()).solve(layer.problem(240, WholeLayer(), lam))
        error, loss = terms(layer, solution.weight)
        losses.append(loss.item())
        errors.append(error.item())
    assert losses[0] > losses[1] > losses[2]
    assert errors[0] < errors[1] < errors[2]


def test_a_layer_without_gradients_cannot_be_blended():
    layer = SmallLayer()
    none = LayerGradients(torch.zeros_like(layer.gradients.stored), layer.gradients.scale)
    with pytest.raises(NumericalError, match="Taylor loss is 0 on 3 gradient sequences"):
        blended(layer.weight, layer.stats, none, 0.5)
