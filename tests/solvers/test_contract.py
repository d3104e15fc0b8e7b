"""What a solver promises, whichever it is. A new one gets these by its line in RECIPES."""

import pytest
import torch
from made_up_patterns import MADE_UP, groups_of
from pairwise import pairwise
from problems import KINDS, ROWS, WIDTH, SmallLayer

from optishear.calibration.gradients import LayerGradients
from optishear.errors import ConfigError
from optishear.metrics import METRICS
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.parts import Parts
from optishear.recipe.pattern import Block, NofM, Row, WholeLayer
from optishear.solvers.alps import ALPS
from optishear.solvers.methods import CHOOSERS, METHODS, needs_of, solver_names, solver_of
from optishear.solvers.refit import Refit
from optishear.solvers.sparsegpt import SparseGPT
from optishear.solvers.target import shifted


OWN = {"name": "own"}
RECIPES = {
    **{f"mask by {name}": ({"name": name}, {"name": "mask"}) for name in METRICS},
    "sparsegpt": (OWN, {"name": "sparsegpt"}),
    "alps": (OWN, {"name": "alps"}),
    "refit of wanda": ({"name": "wanda"}, {"name": "refit", "of": "mask"}),
    "refit of meta": ({"name": "meta"}, {"name": "refit", "of": "mask"}),
    "refit of sparsegpt": (OWN, {"name": "refit", "of": "sparsegpt"}),
    "refit of alps": (OWN, {"name": "refit", "of": "alps"}),
}
SIZE = ROWS * WIDTH
PATTERNS = [Row(), WholeLayer(), Block(16), NofM(4)]
LAMBDAS = [1.0, 0.5, 0.0]


def cases(names, *more):
    """Every two of a solver, a λ and what else there is come together."""
    return pytest.mark.parametrize(names.split(), pairwise(list(RECIPES), LAMBDAS, *more))


def make(name):
    metric, solver = RECIPES[name]
    return solver_of(Parts.of(metric, "row", solver))


def test_every_solver_is_held_to_the_contract():
    assert {solver["name"] for _, solver in RECIPES.values()} == set(solver_names())


class TestEverySolver:
    @cases("name lam pattern share", PATTERNS, [0, 0.5, 0.75, 1])
    def test_drops_exactly_as_many_as_asked_and_leaves_exact_zeros(self, name, lam, pattern, share):
        drop = int(share * SIZE) + (0 if isinstance(pattern, NofM) or share in (0, 1) else 5)
        solution = make(name).solve(SmallLayer().problem(drop, pattern, lam))
        assert (~solution.keep).sum() == drop
        gone = solution.weight[~solution.keep]
        assert (gone == 0).all()
        assert not torch.signbit(gone).any()
        if isinstance(pattern, NofM):
            assert ((~solution.keep).view(-1, 4).sum(1) == drop // (SIZE // 4)).all()
        if isinstance(pattern, Row):
            counts = (~solution.keep).sum(1)
            assert counts.max() - counts.min() <= 1
        if isinstance(pattern, Block):
            parts = [(~part).sum() for part in solution.keep.split(16, dim=1)]
            assert parts == [cut.count for cut in pattern.cuts((ROWS, WIDTH), drop)]

    @cases("name lam kind", list(KINDS))
    def test_solves_degenerate_layers_without_touching_their_weights(self, name, lam, kind):
        layer = SmallLayer(kind)
        before = layer.weight.clone()
        solution = make(name).solve(layer.problem(SIZE // 2, lam=lam))
        assert torch.equal(layer.weight, before)
        assert solution.weight.isfinite().all()
        assert solution.weight.dtype == before.dtype
        assert (~solution.keep).sum() == SIZE // 2

    @cases("name lam shape", [(1, 24), (30, 8), (5, 300)])
    def test_takes_layers_of_any_shape(self, name, lam, shape):
        rows, width = shape
        layer = SmallLayer(rows=rows, width=width)
        solution = make(name).solve(layer.problem(rows * width // 2, lam=lam))
        assert solution.weight.shape == (rows, width)
        assert (~solution.keep).sum() == rows * width // 2

    @cases("name lam")
    def test_gives_the_same_answer_twice(self, name, lam):
        first, second = (
            make(name).solve(SmallLayer().problem(SIZE // 2, WholeLayer(), lam)) for _ in range(2)
        )
        assert torch.equal(first.weight, second.weight)

    @cases("name lam pattern kind", PATTERNS, ["plain", "bfloat16", "dead_inputs"])
    def test_no_shift_and_a_stream_that_has_not_moved_change_no_bit(self, name, lam, pattern, kind):
        layer = SmallLayer(kind)
        cross = layer.drifted()[1].float()
        problem = layer.problem(SIZE // 2, pattern, lam)
        plain = make(name).solve(problem)
        for moved, alpha in ((cross, 0.0), (torch.zeros_like(cross), 1.0)):
            found = make(name).solve(shifted(problem, moved, alpha, lam))
            assert torch.equal(plain.weight, found.weight)
            assert torch.equal(plain.keep, found.keep)
            want, got = ((x.cost, x.damping, x.notes) for x in (plain, found))
            assert want == got

    @cases("name lam pattern share", PATTERNS, [0, 0.5, 0.75])
    def test_what_it_makes_is_measured_against_the_shifted_target(self, name, lam, pattern, share):
        layer, drop = SmallLayer(), int(share * SIZE)
        problem = shifted(
            layer.problem(drop, pattern, lam), layer.drifted()[1].float(), 0.75, share=lam
        )
        target = problem.weight
        assert torch.equal(target, layer.weight) == (lam == 0)  # no reconstruction, no shift
        solution = make(name).solve(problem)
        assert (~solution.keep).sum() == drop
        if RECIPES[name][1]["name"] == "mask":
            assert torch.equal(solution.weight, target.masked_fill(~solution.keep, 0))
            return
        change = solution.weight.double() - target.double()
        hessians = layer.row_hessians(problem.quadratic)
        cost = 0.5 * torch.einsum("ri,rij,rj->", change, hessians, change).item()
        assert solution.cost == pytest.approx(cost, rel=1e-4, abs=1e-9)
        masked = target.masked_fill(~solution.keep, 0) - target
        assert solution.cost <= problem.quadratic.cost(masked) * (1 + 1e-6)


@pytest.mark.parametrize(("lam", "pattern", "width"), pairwise(LAMBDAS, PATTERNS, [24, WIDTH]))
def test_a_refit_to_another_target_is_its_masked_least_squares_solution(lam, pattern, width):
    """Row by row H_TT x = (H t)_T, in fp64; 24 inputs are solved exactly, 40 by steps."""
    layer = SmallLayer(width=width)
    target = layer.other_target()
    problem = layer.problem(ROWS * width // 2, pattern, lam, target=target)
    solution = make("refit of wanda").solve(problem)
    hessians, best = layer.row_hessians(problem.quadratic), torch.zeros(ROWS, width).double()
    for row, hessian in enumerate(hessians):
        kept = solution.keep[row].nonzero()[:, 0]
        aim = hessian @ target[row].double()
        best[row, kept] = torch.linalg.solve(hessian[kept][:, kept], aim[kept])
    change = best - target.double()
    least = 0.5 * torch.einsum("ri,rij,rj->", change, hessians, change).item()
    assert least * (1 - 1e-5) <= solution.cost <= least * (1 + 1.1e-4)
    assert (solution.weight - best).abs().max() < 0.05 * best.abs().max()


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("pattern", MADE_UP, ids=lambda p: p.text)
def test_every_solver_keeps_to_the_groups_of_a_pattern_that_it_does_not_know(name, pattern):
    """Wider than SparseGPT's blocks, so that groups reach across them."""
    layer = SmallLayer(rows=4, width=180)
    groups = groups_of(pattern, 4, 180)
    drop = 4 * 90 if pattern.levels else 205
    for lam in (1.0, 0.5):
        solution = make(name).solve(layer.problem(drop, pattern, lam))
        lost = [sum(not solution.keep[cell] for cell in group) for group in groups]
        assert sum(lost) == int((~solution.keep).sum()) == drop
        weights = sum(map(len, groups))
        assert all(abs(n - drop * len(group) / weights) < 1 for n, group in zip(lost, groups))
        assert (solution.weight[~solution.keep] == 0).all()


@pytest.mark.parametrize(
    ("kind", "pattern", "lam", "of"), pairwise(list(KINDS), PATTERNS, LAMBDAS, list(CHOOSERS))
)
def test_a_refit_never_costs_more_than_the_masked_weights(kind, pattern, lam, of):
    layer = SmallLayer(kind)
    metric = {"name": "wanda"} if of == "mask" else OWN
    solver = solver_of(Parts.of(metric, "row", {"name": "refit", "of": of}))
    problem = layer.problem(SIZE // 2, pattern, lam)
    solution = solver.solve(problem)
    masked = layer.weight.masked_fill(~solution.keep, 0)
    assert solution.cost is not None
    assert solution.cost <= problem.quadratic.cost((masked - layer.weight).float()) * (1 + 1e-6)


def test_a_mask_never_moves_a_kept_weight():
    layer = SmallLayer()
    solution = make("mask by wanda").solve(layer.problem(SIZE // 3))
    assert torch.equal(solution.weight[solution.keep], layer.weight[solution.keep])


def test_a_given_mask_takes_the_place_of_the_metric_s_choice():
    from dataclasses import replace

    layer = SmallLayer()
    given = torch.rand(ROWS, WIDTH) > 0.3
    problem = replace(layer.problem(int((~given).sum()), WholeLayer()), given=given)
    kept = Parts.of({"name": "given", "hash": "x"}, "layer", {"name": "refit", "of": "mask"})
    assert torch.equal(solver_of(kept).solve(problem).keep, given)
    with pytest.raises(ConfigError, match="no mask was handed over"):
        solver_of(kept).solve(layer.problem(5))


def test_every_named_method_is_a_recipe_that_solves():
    layout = ModelLayout((Layer("b.0.self_attn.q", 0, "self_attn.q", ROWS, WIDTH, "b.0"),))
    layer = SmallLayer()
    for name, method in METHODS.items():
        recipe = method.recipe(layout, {"b.0.self_attn.q": 24}, method.pattern)
        recipe.check(layout)
        lam = method.moonshot_lambda
        assert (LayerGradients in needs_of(recipe)) == (lam != 1), name
        solution = solver_of(recipe.default).solve(layer.problem(24, recipe.default.pattern, lam))
        assert (~solution.keep).sum() == 24
        assert method.paper
        assert method.needs


@pytest.mark.parametrize(
    ("metric", "solver", "sentence"),
    [
        ("wanda", {"name": "masq"}, r"No solver is called 'masq'\. Did you mean 'mask'"),
        ("wanda", {"name": "mask", "damping": 1}, "'mask' has no setting damping"),
        ("wanda", {"name": "refit", "of": "sparsgpt"}, "Did you mean 'sparsegpt'"),
        ("own", {"name": "mask"}, "mask needs the name of a metric"),
        ("wanda", {"name": "sparsegpt"}, "choose by themselves"),
    ],
)
def test_an_impossible_solver_is_a_sentence(metric, solver, sentence):
    with pytest.raises(ConfigError, match=sentence):
        solver_of(Parts.of({"name": metric}, "row", solver))


def made_by(**solver):
    return solver_of(Parts.of(OWN, "row", solver))


def test_the_settings_of_a_solver_reach_it():
    assert made_by(name="sparsegpt", block=16) == SparseGPT(16)
    assert made_by(name="alps", iterations=7, tolerance=0.1) == ALPS(7, 0.1)
    assert made_by(name="refit", of="sparsegpt", block=9, tolerance=0.5) == Refit(SparseGPT(9), 0.5)
    assert made_by(name="refit", of="alps", iterations=7) == Refit(ALPS(7))


def test_the_settings_of_a_solver_do_what_they_say():
    layer = SmallLayer(rows=8, width=160)
    problem = layer.problem(800)
    [note] = made_by(name="alps", iterations=6).solve(problem).notes
    assert "ALPS stopped after 6 iterations" in note
    usual, narrow = (
        made_by(name="sparsegpt", **more).solve(problem) for more in ({}, {"block": 8})
    )
    assert not torch.equal(usual.keep, narrow.keep)
    assert torch.equal((~narrow.keep).sum(1), torch.full((8,), 100))
    loose, tight = (
        made_by(name="refit", of="sparsegpt", tolerance=tolerance).solve(problem)
        for tolerance in (0.5, 1e-5)
    )
    assert torch.equal(loose.keep, tight.keep)
    assert tight.cost < loose.cost <= 1.5 * tight.cost
    assert loose.notes == ()


def test_a_metric_that_no_solver_reads_has_no_settings():
    with pytest.raises(ConfigError, match="'own' has no settings, found alpha"):
        solver_of(Parts.of({"name": "own", "alpha": 1}, "row", {"name": "sparsegpt"}))
