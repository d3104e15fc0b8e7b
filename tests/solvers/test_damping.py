"""Damping by held-back tokens: the grid's best, against brute force in fp64."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from made_up_patterns import MADE_UP
from problems import SmallLayer

from optishear.calibration.statistics import Gram, InputSq, LayerStats
from optishear.errors import NumericalError
from optishear.metrics.classic import Wanda
from optishear.recipe.pattern import Block, NofM, Row, WholeLayer
from optishear.recipe.quadratic import DAMPINGS, USUAL_DAMPING
from optishear.solvers.alps import ALPS
from optishear.solvers.base import LayerProblem, Mask, Solver
from optishear.solvers.damping import ROWS, HeldBack, best, few_rows, try_dampings
from optishear.solvers.moonshot import reconstruction
from optishear.solvers.quadratic import HeldBackError
from optishear.solvers.refit import Refit
from optishear.solvers.sparsegpt import SparseGPT


SOLVERS = {
    "refit": Refit(Mask(Wanda()), 1e-7),
    "sparsegpt": SparseGPT(),
    "alps": ALPS(tolerance=1e-7),
    "refit of sparsegpt": Refit(SparseGPT()),
}
TOKENS = 44  # for 40 inputs: hardly enough


def inputs(tokens=TOKENS, width=40):
    generator = torch.Generator().manual_seed(3)
    mix = torch.randn(width, width, generator=generator)
    x = torch.randn(tokens + 60, width, generator=generator) @ mix
    return x[:tokens], x[tokens:]


def pose(weight, x, drop, damping, pattern=None):
    stats = LayerStats.of(len(x), 3, InputSq(x.square().sum(0)), Gram(x.T @ x))
    make = partial(reconstruction, stats, damping)
    return LayerProblem(weight, drop, pattern or Row(), lambda: stats, make)


def slow_error(change, weight, x):
    return (
        ((change.double() @ x.double().T) ** 2).sum()
        / ((weight.double() @ x.double().T) ** 2).sum()
    ).item()


def test_a_refit_is_tried_as_brute_force_tries_it():
    weight, (seen, held_back) = SmallLayer().weight, inputs()
    posed = partial(pose, weight, seen, 240)
    tried = try_dampings(SOLVERS["refit"], posed, HeldBack(weight, held_back.T @ held_back))
    keep = posed(0.01).choose(Wanda())
    slow = {}
    for damping in DAMPINGS:
        hessian = (seen.double().T @ seen.double()) / len(seen)
        hessian += damping * hessian.diagonal().mean() * torch.eye(40, dtype=torch.float64)
        new = torch.zeros_like(weight, dtype=torch.float64)
        for row, kept in enumerate(keep):
            system = hessian[kept][:, kept]
            new[row, kept] = torch.linalg.solve(system, hessian[kept] @ weight[row].double())
        slow[damping] = slow_error(new - weight, weight, held_back)
    assert [each.damping for each in tried] == list(DAMPINGS)
    for each in tried:
        assert each.error == pytest.approx(slow[each.damping], rel=1e-3)
    assert best(tried) == min(slow, key=slow.get)
    assert best(tried) > USUAL_DAMPING  # so few tokens ask for more


@pytest.mark.parametrize("name", SOLVERS)
def test_each_error_is_that_of_the_solver_on_what_was_not_held_back(name):
    weight, (seen, held_back) = SmallLayer().weight, inputs()
    posed = partial(pose, weight, seen, 240)
    tried = try_dampings(SOLVERS[name], posed, HeldBack(weight, held_back.T @ held_back))
    usual = next(each for each in tried if each.damping == USUAL_DAMPING)
    new = SOLVERS[name].solve(posed(USUAL_DAMPING)).weight
    assert usual.error == pytest.approx(slow_error(new - weight, weight, held_back), rel=1e-3)


@dataclass(frozen=True)
class Counting(Solver):
    """Counts how often it has to choose."""

    chosen: list

    @property
    def needs(self):
        return Wanda.needs

    def solve(self, problem):
        if problem.given is None:
            self.chosen.append(problem)
        return Mask(Wanda()).solve(problem)


def test_a_mask_that_settles_is_chosen_once_and_sparsegpts_at_every_damping(monkeypatch):
    weight, (seen, held_back) = SmallLayer().weight, inputs()
    apart, posed = HeldBack(weight, held_back.T @ held_back), partial(pose, weight, seen, 240)
    chosen = []
    try_dampings(Refit(Counting(chosen)), posed, apart)
    assert len(chosen) == 1
    swept = []
    solve = SparseGPT.solve
    monkeypatch.setattr(SparseGPT, "solve", lambda self, p: swept.append(p) or solve(self, p))
    try_dampings(SparseGPT(), posed, apart)
    assert len(swept) == len(DAMPINGS)


def test_the_shifted_error_differs_from_the_true_one_by_what_no_weight_changes():
    weight, (x, _) = SmallLayer().weight, inputs()
    generator = torch.Generator().manual_seed(5)
    moved = 0.3 * torch.randn(x.shape, generator=generator)  # x - x', x' being x here
    apart = HeldBack(weight, x.T @ x, moved.T @ x, 0.5)

    def true(new):
        wrong = new.double() @ x.double().T - weight.double() @ (x + 0.5 * moved).double().T
        return (wrong.square().sum() / (weight.double() @ x.double().T).square().sum()).item()

    others = [weight + 0.1 * torch.randn(weight.shape, generator=generator) for _ in range(3)]
    gaps = [true(new) - apart.error(new) for new in (weight, *others)]
    assert gaps == pytest.approx([gaps[0]] * 4, rel=1e-4)
    assert gaps[0] > 0


def test_a_tie_goes_to_the_lowest():
    assert best([HeldBackError(0.3, 0.5), HeldBackError(0.1, 0.5), HeldBackError(1.0, 0.6)]) == 0.1


def test_a_layer_that_puts_nothing_out_is_refused_in_a_sentence():
    weight = SmallLayer().weight
    with pytest.raises(NumericalError, match=r"Its output on the held-back .* is 0, so that") as e:
        HeldBack(weight, torch.zeros(40, 40)).error(weight)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("pattern", [Row(), WholeLayer(), Block(16), NofM(4), *MADE_UP])
def test_few_rows_are_those_of_the_name_and_lose_their_share(pattern):
    shape = (320, 48)
    whole = pattern.groups(shape)
    drop = whole.count * (1 if pattern.levels == 2 else 3 if pattern.levels else 1)
    rows, fewer = few_rows("a", shape, drop, pattern)
    again, _ = few_rows("a", shape, drop, pattern)
    assert torch.equal(rows, again)
    assert torch.equal(rows, rows.unique())
    pattern.cuts((len(rows), 48), fewer)  # is a count that it can drop
    assert len(rows) in (ROWS, 320)
    part = pattern.groups((len(rows), 48))
    assert fewer == pytest.approx(drop * part.weights / whole.weights, abs=1)
    if len(rows) < 320:
        assert not torch.equal(rows, few_rows("b", shape, drop, pattern)[0])


def test_a_layer_of_few_rows_speaks_for_itself():
    rows, fewer = few_rows("a", (12, 40), 7, Row())
    assert rows.tolist() == list(range(12))
    assert fewer == 7
