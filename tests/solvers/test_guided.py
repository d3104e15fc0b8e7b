"""Guided quadratics: groups of rows with Hessians of their own, under every solver."""

import pytest
import torch
from problems import SmallLayer

from optishear.calibration.statistics import Gram, InputSq, LayerStats
from optishear.calibration.token_weights import even_runs
from optishear.metrics import make_metric
from optishear.recipe.pattern import Block, NofM, Row, WholeLayer
from optishear.solvers.alps import ALPS
from optishear.solvers.base import LayerProblem, Mask
from optishear.solvers.guided import guided, guided_stats
from optishear.solvers.moonshot import reconstruction
from optishear.solvers.refit import Refit
from optishear.solvers.sparsegpt import SparseGPT
from optishear.solvers.target import shifted_target


WANDA = make_metric({"name": "wanda"}, "metric")
SOLVERS = {
    "mask": Mask(WANDA),
    "refit": Refit(Mask(WANDA)),
    "sparsegpt": SparseGPT(),
    "alps": ALPS(),
    "refit of sparsegpt": Refit(SparseGPT()),
}
PATTERNS = {"row": Row(), "layer": WholeLayer(), "block:8": Block(8), "n:4": NofM(4)}


class GuidedLayer(SmallLayer):
    """Rows in groups, whose tokens weigh differently."""

    def __init__(self, groups=2, weights=None, **kwargs):
        super().__init__(**kwargs)
        generator = torch.Generator().manual_seed(5)
        if weights is None:
            weights = torch.rand(len(self.x), groups, generator=generator).square() * 3
        self.s, self.groups = weights, tuple(map(self.stats_of, weights.T))
        self.runs = even_runs(len(self.weight), len(self.groups))

    def stats_of(self, s):
        x = self.x * s.sqrt()[:, None]
        return LayerStats.of(len(x), 4, InputSq(x.square().sum(0)), Gram(x.T @ x))

    def guided_problem(self, drop, pattern, target=None):
        rows = len(self.weight)
        stats = guided_stats(self.stats, self.groups, rows)
        quadratic = guided(self.groups, rows)
        weight = self.weight if target is None else target
        return LayerProblem(weight, drop, pattern, lambda: stats, lambda: quadratic)

    def problem_of_group(self, number, drop, pattern, target=None):
        """The rows of one group as a layer of their own."""
        run, stats = self.runs[number], self.groups[number]
        weight = (self.weight if target is None else target)[run]
        return LayerProblem(weight, drop, pattern, lambda: stats, lambda: reconstruction(stats))


def half(pattern, layer):
    """A count that fits, odd where it may be."""
    return layer.weight.numel() // 2 + (pattern.levels is None)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_counts_are_exact_and_the_cost_is_that_of_each_rows_own_hessian(solver, name):
    layer, pattern = GuidedLayer(rows=13, groups=3), PATTERNS[name]
    drop = half(pattern, layer) if pattern.levels is None else 13 * 40 // 2
    found = SOLVERS[solver].solve(layer.guided_problem(drop, pattern))
    assert int((~found.keep).sum()) == drop
    assert (found.weight[~found.keep] == 0).all()
    for cut in pattern.cuts(layer.weight.shape, drop):
        lost = (~found.keep[cut.rows, cut.columns]).sum()
        groups = layer.weight[cut.rows, cut.columns].numel() // (cut.height * cut.width)
        assert int(lost) == cut.count * groups
    if solver != "mask":
        cost = 0.0
        for run, s in zip(layer.runs, layer.s.double().T):
            x = layer.x.double()
            hessian = (s[:, None] * x).T @ x / len(x)
            hessian += 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian))
            change = (found.weight - layer.weight)[run].double()
            cost += 0.5 * ((change @ hessian) * change).sum().item()
        assert found.cost == pytest.approx(cost, rel=1e-3)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("name", ["row", "n:4"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_groups_are_solved_as_if_each_were_a_layer(solver, name, shifted):
    """Where rows do not compete. ALPS as far as it goes before it looks at all of the mask."""
    layer, pattern = GuidedLayer(rows=12), PATTERNS[name]
    target = layer.other_target() if shifted else None
    solver = ALPS(iterations=2) if solver == "alps" else SOLVERS[solver]
    whole = solver.solve(layer.guided_problem(240, pattern, target))
    parts = [solver.solve(layer.problem_of_group(g, 120, pattern, target)) for g in (0, 1)]
    assert torch.equal(whole.keep, torch.cat([part.keep for part in parts]))
    weight = torch.cat([part.weight for part in parts])
    torch.testing.assert_close(whole.weight, weight, rtol=1e-4, atol=1e-4)
    if whole.cost is not None:
        assert whole.cost == pytest.approx(sum(part.cost or 0.0 for part in parts), rel=1e-4)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_one_group_of_equal_weights_is_the_plain_method(solver, name):
    layer, pattern = GuidedLayer(weights=torch.ones(200, 1)), PATTERNS[name]
    drop = 240 if pattern.levels else 241
    found = SOLVERS[solver].solve(layer.guided_problem(drop, pattern))
    plain = SOLVERS[solver].solve(layer.problem(drop, pattern))
    assert torch.equal(found.keep, plain.keep)
    assert torch.equal(found.weight, plain.weight)
    assert found.cost == plain.cost


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_groups_of_equal_weights_are_the_plain_method(solver, name):
    layer, pattern = GuidedLayer(weights=torch.ones(200, 4)), PATTERNS[name]
    drop = 240 if pattern.levels else 241
    found = SOLVERS[solver].solve(layer.guided_problem(drop, pattern))
    plain = SOLVERS[solver].solve(layer.problem(drop, pattern))
    assert torch.equal(found.keep, plain.keep)
    if plain.cost is None:
        assert torch.equal(found.weight, plain.weight)
    else:  # a refit ends within 1e-4 of the least cost
        assert found.cost == pytest.approx(plain.cost, rel=3e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_where_all_rows_compete_those_that_weigh_more_keep_more(solver):
    weights = torch.ones(200, 2) * torch.tensor([1.0, 25.0])
    layer = GuidedLayer(weights=weights)
    found = SOLVERS[solver].solve(layer.guided_problem(240, WholeLayer()))
    first, second = (int(found.keep[run].sum()) for run in layer.runs)
    assert second > 1.5 * first


def test_a_small_layer_is_refitted_exactly_group_by_group():
    layer = GuidedLayer(width=20)
    found = SOLVERS["refit"].solve(layer.guided_problem(120, Row()))
    for run, s in zip(layer.runs, layer.s.double().T):
        x = layer.x.double()
        hessian = (s[:, None] * x).T @ x / len(x)
        hessian += 0.01 * hessian.diagonal().mean() * torch.eye(20)
        slope = (found.weight[run].double() - layer.weight[run].double()) @ hessian
        kept = slope.masked_fill(~found.keep[run], 0)
        assert kept.abs().max() < 1e-4 * slope.abs().max()


def test_notes_and_damping_are_those_of_all_groups():
    layer = GuidedLayer(kind="one_token", weights=torch.rand(1, 2))
    quadratic = guided(layer.groups, len(layer.weight), damping=0.0)
    assert quadratic.damping > 0
    assert len(quadratic.notes) >= 1
    assert all("damping raised" in note for note in quadratic.notes)


def test_a_shifted_target_weighs_tokens_as_the_quadratic_does():
    """Each row by least squares over its group's weighted tokens, damping included, in fp64."""
    layer = GuidedLayer()
    pruned, alpha = layer.x.double(), 0.5
    noise = torch.randn(pruned.shape, generator=torch.Generator().manual_seed(3)).double()
    dense = pruned + 0.3 * noise * pruned.square().mean(0).sqrt()
    s, tokens = layer.s.double(), len(pruned)
    cross = torch.stack([(w[:, None] * (dense - pruned)).T @ pruned / tokens for w in s.T])
    quadratic = guided(layer.groups, len(layer.weight))
    found = shifted_target(layer.weight, cross.float(), alpha, quadratic).double()
    for number, run in enumerate(layer.runs):
        root = (s[:, number, None] / tokens).sqrt()
        damping = torch.eye(pruned.shape[1]).double() * quadratic.hessians[number].added ** 0.5
        left = torch.cat([root * pruned, damping])
        aim = torch.cat([root * (pruned + alpha * (dense - pruned)), damping])
        weight = layer.weight[run].double()
        want = torch.linalg.lstsq(left, aim @ weight.T, driver="gelsd").solution.T
        assert (want - weight).abs().max() > 0.01
        torch.testing.assert_close(found[run], want, rtol=1e-3, atol=1e-3)
