"""Kernels choose and write what the CPU does, bit for bit, whatever the weights look like."""

from dataclasses import replace

import pytest
import torch
from pairwise import pairwise
from problems import SmallLayer

from optishear.calibration.statistics import InputSq, LayerStats
from optishear.errors import NumericalError
from optishear.kernels import layer_selection, selection
from optishear.kernels.separable import Separable
from optishear.kernels.use import kernels
from optishear.metrics import METRICS
from optishear.metrics.classic import Magnitude, Ria, Wanda
from optishear.recipe.pattern import Block, NofM, Row, WholeLayer
from optishear.solvers import base
from optishear.solvers.base import Mask
from optishear.solvers.masks import keep_highest
from optishear.solvers.ranks import RankCache, write_kept


BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
LARGEST = torch.finfo(torch.float32).max


def weights(kind, rows=3, columns=24, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    if kind == "ties":
        weight = weight.mul(1.5).round()
    if kind == "zeros":
        weight = torch.where(weight.abs() < 1, torch.copysign(torch.zeros(()), weight), weight)
    if kind == "all zero":
        weight = torch.copysign(torch.zeros(()), weight)
    if kind == "denormal":
        weight = weight * torch.finfo(dtype).tiny * 0.01
    if kind == "huge":
        weight = weight.sign() * torch.finfo(dtype).max * (1 - weight.abs() / 10)
        weight[0, 0] = torch.finfo(dtype).max
    if kind == "spread":
        weight = weight.sign() * 10 ** (weight * 3)
    return weight.to(dtype)


def stats(weight, quiet=False):
    generator = torch.Generator().manual_seed(1)
    energy = torch.rand(weight.shape[1], generator=generator)
    energy[::5] = energy[0].clone()
    return LayerStats.of(100, 4, InputSq(energy * (1e-30 if quiet else 1)))


def counts(weight, pattern):
    size = weight.numel()
    if isinstance(pattern, NofM):
        return [each * size // pattern.m for each in range(pattern.m + 1)]
    if isinstance(pattern, WholeLayer):  # the interpreter takes its time for histograms
        return sorted({size // 2, size})
    return sorted({0, size // 2 + 1, size})


def check(weight, metric, pattern, some=None):
    """Against scores, masks and products in torch and numpy."""
    known = stats(weight)
    want_scores = metric.score(weight, known)
    separable = metric.separable(weight, known)
    assert torch.equal(separable.scores(weight), want_scores)
    for drop in some or counts(weight, pattern):
        with kernels("off"):
            want = keep_highest(want_scores, drop, pattern)
        out, plain = torch.full_like(weight, 9), torch.full_like(weight, 9)
        write_kept(weight, want, plain)
        assert selection.fits(pattern, weight, out)
        keep = selection.write_without_lowest(weight, separable, drop, pattern, out)
        assert torch.equal(keep, want)
        bits = BITS[weight.dtype]
        assert torch.equal(out.view(bits), plain.view(bits))


KINDS = ["plain", "ties", "zeros", "all zero", "denormal", "huge", "spread"]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_any_weights(kind):
    check(weights(kind), Magnitude(), Row(), some=[0, 1, 35, 71, 72])


@pytest.mark.parametrize("metric", [Wanda(), Ria()], ids=repr)
@pytest.mark.parametrize("kind", ["plain", "ties", "zeros", "all zero", "denormal", "spread"])
def test_rows_of_any_weights_and_inputs(kind, metric):
    check(weights(kind, 2), metric, Row(), some=[25, 47])


@pytest.mark.parametrize(
    ("kind", "pattern", "dtype"),
    pairwise(
        ["plain", "zeros", "denormal", "huge"],
        [Row(), NofM(4), WholeLayer()],
        [torch.bfloat16, torch.float16],
    ),
)
def test_half_precision_ties_as_its_fp32_scores_do(kind, pattern, dtype):
    weight = weights(kind, 3, 20, dtype)
    check(weight, Magnitude(), pattern, some=None if isinstance(pattern, NofM) else [1, 31, 59])
    if kind == "plain":
        check(weight, Wanda(), pattern, some=[30])


@pytest.mark.parametrize("shape", [(1, 1), (1, 33), (7, 1), (3, 2), (2, 16), (2, 17)])
@pytest.mark.parametrize("pattern", [Row(), WholeLayer()], ids=str)
def test_awkward_shapes(shape, pattern):
    check(weights("plain", *shape), Wanda(), pattern)
    if isinstance(pattern, Row):
        check(weights("ties", *shape), Magnitude(), pattern)


@pytest.mark.parametrize("m", [2, 3, 4, 8, 12, 32])
def test_groups_of_any_width(m):
    check(weights("ties", 3, 2 * m), Wanda(), NofM(m))
    check(weights("zeros", 3, 2 * m), Ria(), NofM(m), some=[6 * (m // 2)])


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_any_weights(kind, monkeypatch):
    """Several programs, several tiles a row, and rows and tiles that do not come out even."""
    monkeypatch.setattr(layer_selection, "PROGRAMS", 2)
    monkeypatch.setattr(layer_selection, "BLOCK", 16)
    some = {"plain": [0, 1, 57, 114, 115], "ties": [28, 57]}
    check(weights(kind, 5, 23), Magnitude(), WholeLayer(), some.get(kind, [57]))
    if kind == "plain":
        check(weights(kind, 3, 20), Wanda(), WholeLayer(), some=[30])
        check(weights(kind, 3, 20), Ria(), WholeLayer(), some=[30])


def test_a_long_row_whose_scores_ties_and_gaps_are_far_apart():
    """Interpolation alone would creep here."""
    weight = weights("plain", 2, 300)
    weight[0, :150] = 1e-30
    weight[0, 150:] = 1e30
    weight[1] = torch.logspace(-37, 37, 300)
    check(weight, Magnitude(), Row(), some=[299, 301])


def test_a_row_loses_at_most_one_more_than_another():
    weight = weights("plain", 5, 24)
    out = torch.empty_like(weight)
    keep = selection.write_without_lowest(weight, Separable(), 53, Row(), out)
    assert (~keep).sum(1).tolist() == [11, 11, 11, 10, 10]


def test_rows_of_a_larger_matrix_and_of_a_larger_buffer():
    weight, buffer = weights("plain", 5, 40)[:, 3:27], torch.full((5, 50), 7.0)
    want = torch.full((5, 50), 7.0)
    keep = selection.write_without_lowest(weight, Separable(), 50, Row(), buffer[:, 20:44])
    want[:, 20:44] = weight * keep
    assert torch.equal(buffer, want)


@pytest.mark.parametrize("shape", [(2, 40), (6, 8), (1, 50), (1, 4096)])
@pytest.mark.parametrize("kind", ["plain", "ties", "zeros", "spread", "huge", "denormal"])
def test_given_scores_of_either_sign(kind, shape):
    scores = weights(kind, *shape)
    for count in (shape[1] // 2, shape[1] - 1) if kind in ("plain", "ties") else [shape[1] // 2]:
        with kernels("off"):
            want = keep_highest(scores, shape[0] * count, Row())
        got = selection.without_lowest(scores, count)
        assert torch.equal(got, want)


def test_scores_of_any_metric_and_pattern_go_through_a_kernel(monkeypatch):
    layer, used = SmallLayer(), []
    launch = selection._launch
    monkeypatch.setattr(selection, "_launch", lambda *a: used.append(a[3]) or launch(*a))
    metric = METRICS["power"](alpha=0.5)
    for pattern in (Row(), NofM(4), WholeLayer(), Block(16)):
        problem = layer.problem(240, pattern)
        got = Mask(metric).solve(problem)
        assert used, pattern
        used.clear()
        with kernels("off"):
            want = Mask(metric).solve(problem)
        assert not used
        assert torch.equal(got.weight, want.weight)
        assert torch.equal(got.keep, want.keep)


@pytest.mark.parametrize("pattern", [Row(), NofM(4), WholeLayer()], ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_scores_that_are_not_finite_are_refused_in_the_same_words(pattern, bad, way):
    weight = weights("plain", 5)
    weight[2, 3] = weight[4, 20] = bad
    problem = base.LayerProblem(weight, 60, pattern, lambda: stats(weight), lambda: None)
    for mode in (way, "off"):
        with kernels(mode), pytest.raises(NumericalError, match=r"^2 of 120 scores are nan"):
            Mask(Wanda()).solve(problem)


def test_a_sum_beyond_fp32_is_no_reason_to_refuse():
    weight = torch.full((2, 16), LARGEST)
    weight[:, :5] = 1
    check(weight, Magnitude(), Row())


def test_scores_are_looked_at_once_for_each_layer_and_metric(monkeypatch):
    weight, checks = weights("plain", 2, 8), []
    write = base.write_without_lowest
    monkeypatch.setattr(base, "write_without_lowest", lambda *a: checks.append(a[-1]) or write(*a))
    problem = base.LayerProblem(
        weight, 8, Row(), lambda: stats(weight), lambda: None, name="a", ranks=RankCache(10**6)
    )
    for metric in (Wanda(), Wanda(), Magnitude(), Wanda()):
        Mask(metric).solve(problem)
    Mask(Wanda()).solve(replace(problem, name="b"))
    Mask(Wanda()).solve(replace(problem, ranks=None))
    assert checks == [True, False, True, False, True, True]


def test_an_impossible_count_is_refused():
    weight = weights("plain", 5)
    problem = base.LayerProblem(weight, 121, Row(), lambda: stats(weight), lambda: None)
    with pytest.raises(ValueError, match="Cannot drop 121 of 120"):
        Mask(Wanda()).solve(problem)


def test_what_no_kernel_fits_goes_to_the_reference():
    weight = weights("plain", 6, 24)
    assert not selection.fits(Row(), weight.double())
    assert not selection.fits(Row(), weight.T)
    assert not selection.fits(Block(8), weight)
    assert not selection.fits(NofM(48), weight)
    assert not selection.fits(Row(), weight[:0])
    assert not selection.fits(Row(), torch.empty(2, 32_769))
    transposed = base.LayerProblem(weight.T, 60, Row(), lambda: stats(weight.T), lambda: None)
    got = Mask(Wanda()).solve(transposed)
    with kernels("off"):
        want = Mask(Wanda()).solve(transposed)
    assert torch.equal(got.weight, want.weight)


def test_scores_of_a_quadratic_by_rows_are_no_vectors():
    layer = SmallLayer()
    problem = layer.problem(240, lam=0.5)
    assert problem.stats[InputSq].total.ndim == 2
    assert Wanda().separable(layer.weight, problem.stats) is None
    assert Ria().separable(layer.weight, problem.stats) is None
    got = Mask(Wanda()).solve(problem)
    with kernels("off"):
        assert torch.equal(Mask(Wanda()).solve(problem).weight, got.weight)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_vectors_say_the_very_scores(name):
    weight = weights("spread", 6, 40)
    metric = METRICS[name]()
    known = stats(weight, quiet=True)
    if (separable := metric.separable(weight, known)) is not None:
        assert torch.equal(separable.scores(weight), metric.score(weight, known))
