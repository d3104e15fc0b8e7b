import pytest
import torch
from problems import KINDS, SmallLayer

from optishear.calibration.statistics import Gram, InputSq, LayerStats
from optishear.errors import NumericalError
from optishear.metrics import METRICS
from optishear.recipe.pattern import NofM, Row, WholeLayer
from optishear.solvers import quadratic as quadratic_module
from optishear.solvers import refit as refit_module
from optishear.solvers.base import Mask
from optishear.solvers.refit import Refit, exact_refit, refit
from optishear.solvers.sparsegpt import SparseGPT


def wanda_keep(layer, pattern, lam=1.0, share=0.5):
    drop = int(share * layer.weight.numel())
    return Mask(METRICS["wanda"]()).solve(layer.problem(drop, pattern, lam)).keep


def slow_optimum(layer, quadratic, keep):
    """Row by row: H_TT x = (H w)_T, in fp64."""
    best = torch.zeros(layer.weight.shape, dtype=torch.float64)
    for row, hessian in enumerate(layer.row_hessians(quadratic)):
        kept = keep[row].nonzero()[:, 0]
        goal = hessian @ layer.weight[row].double()
        best[row, kept] = torch.linalg.solve(hessian[kept][:, kept], goal[kept])
    return best


def cost(layer, quadratic, weight):
    change = weight.double() - layer.weight.double()
    return 0.5 * torch.einsum("ri,rij,rj->", change, layer.row_hessians(quadratic), change).item()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lam", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("pattern", [Row(), WholeLayer(), NofM(4)], ids=lambda p: p.text)
def test_exact_and_iterative_refits_find_the_optimum_of_every_row(kind, lam, pattern):
    layer = SmallLayer(kind)
    quadratic, keep = layer.quadratic(lam), wanda_keep(layer, pattern, lam)
    best = slow_optimum(layer, quadratic, keep)
    least = cost(layer, quadratic, best)
    exact = exact_refit(quadratic, layer.weight, keep)
    found = refit(quadratic, layer.weight, keep)
    assert (exact[~keep] == 0).all()
    assert (found.weight[~keep] == 0).all()
    assert (exact - best).abs().max() < 1e-3 * best.abs().max()
    assert cost(layer, quadratic, exact) <= least * (1 + 1e-5)
    assert cost(layer, quadratic, found.weight) <= least * (1 + 1.1e-4)


@pytest.mark.parametrize("lam", [1.0, 0.4])
def test_the_excess_that_it_states_bounds_the_true_one(lam):
    """And narrowly: a loose bound would be paid for in steps."""
    layer = SmallLayer(width=160, tokens=300)
    quadratic, keep = layer.quadratic(lam), wanda_keep(layer, Row(), lam, 0.7)
    least = cost(layer, quadratic, slow_optimum(layer, quadratic, keep))
    seen = []
    for steps in range(1, 12):
        found = refit(quadratic, layer.weight, keep, tolerance=0.0, most_iterations=steps)
        true = cost(layer, quadratic, found.weight) / least - 1
        assert true <= found.excess + 1e-6
        assert found.excess <= 3 * true + 1e-6 or steps == 1
        assert found.iterations == steps
        seen.append(found.excess)
    assert seen[-1] < 1e-3 * seen[0]


def test_a_looser_tolerance_stops_earlier_and_both_keep_their_word():
    layer = SmallLayer(width=120)
    quadratic, keep = layer.quadratic(), wanda_keep(layer, Row(), share=0.7)
    least = cost(layer, quadratic, slow_optimum(layer, quadratic, keep))
    loose, tight = (refit(quadratic, layer.weight, keep, tolerance=t) for t in (1e-1, 1e-5))
    assert loose.iterations < tight.iterations
    assert cost(layer, quadratic, loose.weight) <= least * 1.1
    assert cost(layer, quadratic, tight.weight) <= least * (1 + 2e-5)


def test_neither_the_inputs_nor_the_weights_scale_changes_the_steps():
    layer = SmallLayer()
    keep = wanda_keep(layer, Row())
    plain = refit(layer.quadratic(), layer.weight, keep)
    louder = [kind(layer.stats[kind].total * 1e6) for kind in (InputSq, Gram)]
    layer.stats = LayerStats.of(layer.stats.tokens, 4, *louder)
    loud = refit(layer.quadratic(), layer.weight * 1e-4, keep)
    assert plain.iterations == loud.iterations
    assert torch.allclose(plain.weight, loud.weight * 1e4, rtol=1e-3, atol=1e-4)


def test_a_warm_start_at_the_optimum_takes_no_step():
    layer = SmallLayer()
    quadratic, keep = layer.quadratic(), wanda_keep(layer, Row())
    best = exact_refit(quadratic, layer.weight, keep)
    assert refit(quadratic, layer.weight, keep, start=best).iterations == 0


def test_a_start_outside_the_mask_is_brought_inside():
    layer = SmallLayer()
    keep = wanda_keep(layer, Row())
    found = refit(layer.quadratic(), layer.weight, keep, start=torch.ones_like(layer.weight))
    assert (found.weight[~keep] == 0).all()


def test_weights_in_dead_inputs_stay_as_they_are():
    layer = SmallLayer("dead_inputs")
    keep = torch.ones_like(layer.weight, dtype=torch.bool)
    keep[:, 10:20] = False
    found = refit(layer.quadratic(), layer.weight, keep).weight
    dead = [0, 7, layer.weight.shape[1] - 1]
    assert torch.allclose(found[:, dead], layer.weight[:, dead], atol=1e-6)


@pytest.mark.parametrize("lam", [1.0, 0.5])
def test_working_through_the_rows_in_chunks_changes_nothing(monkeypatch, lam):
    layer = SmallLayer()
    quadratic, keep = layer.quadratic(lam), wanda_keep(layer, Row(), lam)
    whole = refit(quadratic, layer.weight, keep)
    exact = exact_refit(quadratic, layer.weight, keep)
    monkeypatch.setitem(quadratic_module.ROW_TERM_BYTES, "cpu", 4 * 3 * 40 * 5)
    monkeypatch.setattr(refit_module, "EXACT_BYTES", 8 * 20**2 * 5)
    again = refit(quadratic, layer.weight, keep)
    assert torch.allclose(again.weight, whole.weight, atol=2e-3 * whole.weight.abs().max().item())
    assert torch.allclose(exact_refit(quadratic, layer.weight, keep), exact, atol=1e-5)


def test_a_refit_that_runs_out_of_iterations_says_how_far_it_may_be():
    layer = SmallLayer()
    problem = layer.problem(layer.weight.numel() // 2)
    found = refit(
        problem.quadratic, layer.weight, wanda_keep(layer, Row()), tolerance=0.0, most_iterations=2
    )
    assert "the refit stopped after 2 iterations up to" in found.notes[0]


def test_it_improves_on_sparsegpt_s_weights_for_sparsegpt_s_mask():
    layer = SmallLayer()
    problem = layer.problem(layer.weight.numel() // 2, WholeLayer())
    plain, better = SparseGPT().solve(problem), Refit(SparseGPT()).solve(problem)
    assert torch.equal(plain.keep, better.keep)
    assert better.cost < plain.cost


def test_gradients_beyond_what_fp32_can_hold_are_a_reason_not_a_crash():
    layer = SmallLayer()
    layer.gradients = type(layer.gradients)(
        layer.gradients.stored[:, :1].repeat(1, 3, 1), layer.gradients.scale
    )
    quadratic = layer.quadratic(0.0, damping=1e-9)
    with pytest.raises(NumericalError, match="outweigh the damped Hessian"):
        refit(quadratic, layer.weight, wanda_keep(layer, Row()))


def test_narrow_layers_are_solved_exactly():
    layer = SmallLayer(width=32)
    quadratic, keep = layer.quadratic(0.5), wanda_keep(layer, Row(), 0.5)
    found = refit(quadratic, layer.weight, keep)
    assert torch.equal(found.weight, exact_refit(quadratic, layer.weight, keep))
    assert (found.excess, found.iterations) == (0.0, 0)
