import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optishear.calibration.statistics import LayerStats
from optishear.errors import ConfigError, NumericalError
from optishear.metrics import METRICS
from optishear.recipe.pattern import NofM, Row, WholeLayer
from optishear.recipe.recipe import Recipe
from optishear.solvers.base import Mask
from optishear.solvers.masks import keep_highest
from optishear.solvers.methods import METHODS, SOLVERS, solver_of


@pytest.fixture
def layer():
    """Never square: a transposed answer must not fit."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 8, generator=generator)
    x = torch.randn(64, 8, generator=generator)
    return weight, LayerStats(64, 4, x.square().sum(0))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", SOLVERS)
class TestEverySolver:
    """What a solver promises, whichever it is. A new one gets these by its line in SOLVERS."""

    @pytest.mark.parametrize("drop", [0, 1, 24, 47, 48])
    @pytest.mark.parametrize("pattern", [Row(), WholeLayer()])
    def test_drops_exactly_as_many_as_asked(self, layer, name, metric, pattern, drop):
        weight, stats = layer
        solution = SOLVERS[name](METRICS[metric]()).solve(weight, drop, pattern, stats)
        assert (~solution.keep).sum() == drop
        assert (solution.weight[~solution.keep] == 0).all()
        assert not torch.signbit(solution.weight[~solution.keep]).any()

    @pytest.mark.parametrize("drop", [0, 12, 24, 36])
    def test_n_of_m_drops_equally_many_in_every_group(self, layer, name, metric, drop):
        weight, stats = layer
        solution = SOLVERS[name](METRICS[metric]()).solve(weight, drop, NofM(4), stats)
        assert ((~solution.keep).view(-1, 4).sum(1) == drop // 12).all()

    def test_leaves_its_inputs_alone(self, layer, name, metric):
        weight, stats = layer
        before = weight.clone()
        SOLVERS[name](METRICS[metric]()).solve(weight, 24, Row(), stats)
        assert torch.equal(weight, before)


def slow_keep(scores, drop, pattern):
    """Sorts every group by (score, index) in Python and strikes out the first."""
    keep = torch.ones_like(scores, dtype=torch.bool)
    rows, columns = scores.shape

    def strike(cells, count):
        for i, j in sorted(cells, key=lambda ij: (scores[ij].item(), ij))[:count]:
            keep[i, j] = False

    match pattern:
        case Row():
            for i in range(rows):
                more = i < drop % rows
                strike([(i, j) for j in range(columns)], drop // rows + more)
        case WholeLayer():
            strike([(i, j) for i in range(rows) for j in range(columns)], drop)
        case NofM(m):
            for i in range(rows):
                for start in range(0, columns, m):
                    group = [(i, j) for j in range(start, start + m)]
                    strike(group, drop // (rows * columns // m))
    return keep


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_masks_are_those_of_a_stable_sort_with_ties_and_in_every_dtype(data):
    rows, groups, m = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(2, 4)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    values = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 0.5, 1.0, 3.0])
    cells = data.draw(st.lists(values, min_size=rows * groups * m, max_size=rows * groups * m))
    scores = torch.tensor(cells, dtype=dtype).view(rows, groups * m)
    pattern = data.draw(st.sampled_from([Row(), WholeLayer(), NofM(m)]))
    if isinstance(pattern, NofM):
        drop = data.draw(st.integers(0, m)) * rows * groups
    else:
        drop = data.draw(st.integers(0, scores.numel()))
    assert torch.equal(keep_highest(scores, drop, pattern), slow_keep(scores, drop, pattern))


def test_wanda_s_own_way_of_choosing_is_reproduced():
    """Their code: a stable ascending sort of each row, the first int(in * s) indices are struck."""
    generator = torch.Generator().manual_seed(3)
    weight, norm = torch.randn(7, 30, generator=generator), torch.rand(30, generator=generator)
    scores = weight.abs() * norm
    struck = scores.sort(dim=-1, stable=True)[1][:, : int(30 * 0.6)]
    theirs = torch.ones_like(weight, dtype=torch.bool).scatter_(1, struck, False)
    ours = keep_highest(scores, 7 * int(30 * 0.6), Row())
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_an_error_not_a_mask(bad):
    scores = torch.ones(3, 5)
    scores[1, 2] = bad
    with pytest.raises(NumericalError, match="1 of 15 scores are nan or inf"):
        keep_highest(scores, 5, Row())


@pytest.mark.parametrize(("drop", "pattern"), [(49, Row()), (-1, WholeLayer()), (5, NofM(4))])
def test_impossible_counts_are_refused(drop, pattern):
    with pytest.raises(ValueError, match=r"Cannot drop|do not fit"):
        keep_highest(torch.rand(6, 8), drop, pattern)


def test_every_named_method_is_a_recipe_that_solves(layer):
    weight, stats = layer
    for method in METHODS.values():
        recipe = Recipe(method.metric, {"a": 24}, method.pattern, method.solver)
        solution = solver_of(recipe).solve(weight, 24, recipe.pattern_object, stats)
        assert (~solution.keep).sum() == 24
        assert method.paper


def test_an_unknown_solver_or_setting_is_a_sentence():
    with pytest.raises(ConfigError, match=r"No solver is called 'masq'\. Did you mean 'mask'"):
        solver_of(Recipe({"name": "wanda"}, {}, "row", {"name": "masq"}))
    with pytest.raises(ConfigError, match="'mask' has no settings, found: damping"):
        solver_of(Recipe({"name": "wanda"}, {}, "row", {"name": "mask", "damping": 1}))


def test_a_mask_never_moves_a_kept_weight(layer):
    weight, stats = layer
    solution = Mask(METRICS["wanda"]()).solve(weight, 20, Row(), stats)
    assert torch.equal(solution.weight[solution.keep], weight[solution.keep])
