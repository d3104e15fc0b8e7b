import math

import pytest
import torch

from optishear.calibration.statistics import InputSq, LayerStats
from optishear.errors import ConfigError
from optishear.metrics import METRICS, make_metric
from optishear.recipe.metric_forms import COEFFICIENTS, TRANSFORMS


def stats_of(x, sequences=4):
    return LayerStats.of(len(x), sequences, InputSq(x.square().sum(0)))


@pytest.fixture
def layer():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 8, generator=generator), torch.randn(32, 8, generator=generator)


@pytest.mark.parametrize("name", METRICS)
class TestEveryMetric:
    """What a metric promises, whichever it is. A new one gets these by its line in METRICS."""

    def test_scores_are_finite_and_shaped_as_the_weight(self, layer, name):
        weight, x = layer
        scores = METRICS[name]().score(weight, stats_of(x))
        assert scores.shape == weight.shape
        assert scores.isfinite().all()

    def test_scores_are_finite_where_channels_rows_and_weights_are_dead(self, layer, name):
        weight, x = layer[0].clone(), layer[1].clone()
        weight[:, 2], weight[3], x[:, 2], x[:, 5] = 0, 0, 0, 0
        assert METRICS[name]().score(weight, stats_of(x)).isfinite().all()

    def test_inputs_are_left_alone(self, layer, name):
        weight, x = layer
        before = weight.clone()
        METRICS[name]().score(weight, stats_of(x))
        assert torch.equal(weight, before)

    def test_one_layer_has_one_score(self, layer, name):
        weight, x = layer
        metric = METRICS[name]()
        assert torch.equal(metric.score(weight, stats_of(x)), metric.score(weight, stats_of(x)))

    def test_has_a_paper_and_a_formula(self, layer, name):
        assert METRICS[name].paper
        assert "S_ij" in METRICS[name].__doc__


@pytest.mark.parametrize("name", [name for name in METRICS if name != "random"])
def test_scores_follow_a_permutation_of_the_inputs(layer, name):
    weight, x = layer
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    plain = METRICS[name]().score(weight, stats_of(x))
    permuted = METRICS[name]().score(weight[:, order], stats_of(x[:, order]))
    torch.testing.assert_close(permuted, plain[:, order])


def test_wanda_is_weight_size_times_input_norm(layer):
    weight, x = layer
    score = METRICS["wanda"]().score(weight, stats_of(x))
    for i in range(6):
        for j in range(8):
            want = abs(weight[i, j].item()) * math.sqrt((x[:, j].double() ** 2).mean().item())
            assert score[i, j].item() == pytest.approx(want, rel=1e-6)


def test_ria_is_relative_importance_times_the_root_of_the_input_norm(layer):
    weight, x = layer
    score, size = METRICS["ria"]().score(weight, stats_of(x)), weight.abs().double()
    for i in range(6):
        for j in range(8):
            relative = size[i, j] / size[:, j].sum() + size[i, j] / size[i].sum()
            want = relative * (x[:, j].double() ** 2).mean() ** 0.25
            assert score[i, j].item() == pytest.approx(want.item(), rel=1e-5)


@pytest.mark.parametrize("values", [(0.5, 0.3, 1.2, -0.7, 0.25), (2.0, 0.0, 1.0, 1.5, 1.0)])
def test_power_is_its_formula_written_as_a_loop(layer, values):
    alpha, beta, gamma, delta, mix = values
    weight, x = layer
    score, size = METRICS["power"](*values).score(weight, stats_of(x)), weight.abs().double()
    for i in range(6):
        for j in range(8):
            sums = mix * size[:, j].sum() ** -gamma + (1 - mix) * size[i].sum() ** -beta
            norm = (x[:, j].double() ** 2).mean().sqrt()
            want = size[i, j] ** alpha * sums * norm**delta
            assert score[i, j].item() == pytest.approx(want.item(), rel=1e-5)


SLOW_TRANSFORMS = {
    "no_op": lambda a, row: a,
    "sqrt": lambda a, row: math.sqrt(a),
    "pow": lambda a, row: a * a,
    "exp": lambda a, row: math.exp(a),
    "log": lambda a, row: math.log(a),
    "sigmoid": lambda a, row: 1 / (1 + math.exp(-a)),
    "softmax": lambda a, row: math.exp(a) / sum(math.exp(b) for b in row),
}


def slow_coefficient(name, a, i, j):
    row, column = sum(a[i]), sum(r[j] for r in a)
    flat = [v for r in a for v in r]
    return {
        "no_coe": 1.0,
        "row_sum": 1 / row,
        "column_sum": 1 / column,
        "relative_sum": 1 / (row + column),
        "to_sum_scalar": 1 / sum(flat),
        "to_mean_scalar": len(flat) / sum(flat),
        "frobenius_norm": 1 / math.sqrt(sum(v * v for v in flat)),
    }[name]


@pytest.mark.parametrize("on_weight", TRANSFORMS)
@pytest.mark.parametrize("on_input", TRANSFORMS)
def test_meta_orders_weights_as_the_paper_s_formula_does(layer, on_weight, on_input):
    weight, x = layer
    w = weight.abs().double().tolist()
    energy = [(x.double() ** 2).sum(0).div(4).tolist()]  # summed over a sequence's tokens
    norm = [[math.sqrt(v) for v in energy[0]]]
    for a, b in zip(COEFFICIENTS, reversed(COEFFICIENTS), strict=True):
        metric = METRICS["meta"](on_weight, on_input, a, b)
        got = metric.score(weight, stats_of(x, sequences=4)).double().flatten()
        want = torch.tensor(
            [
                slow_coefficient(a, w, i, j)
                * SLOW_TRANSFORMS[on_weight](w[i][j], w[i])
                * slow_coefficient(b, energy, 0, j)
                * SLOW_TRANSFORMS[on_input](norm[0][j], norm[0])
                for i in range(6)
                for j in range(8)
            ],
            dtype=torch.float64,
        )
        order = want.argsort()
        gaps = want[order].diff() > 1e-6 * want.abs().max()
        assert (got[order].diff()[gaps] > 0).all(), (a, b)


def test_meta_takes_the_norm_summed_per_sequence(layer):
    """exp and sigmoid are not scale-free: mean over tokens would be another metric."""
    weight, x = layer
    metric = METRICS["meta"]("no_op", "sigmoid", "no_coe", "no_coe")
    few, many = (metric.score(weight, stats_of(x, sequences=n)) for n in (2, 16))
    assert not torch.allclose(few, many)


def test_meta_survives_inputs_that_overflow_an_exponential(layer):
    weight, x = layer
    for on_weight in TRANSFORMS:
        metric = METRICS["meta"](on_weight, "exp", "column_sum", "relative_sum")
        scores = metric.score(weight, stats_of(x * 1e4))
        assert scores.isfinite().all()
        assert len(scores[0].unique()) == 8


def test_random_scores_do_not_depend_on_what_was_pruned_before(layer):
    weight, x = layer
    first = METRICS["random"]().score(weight, stats_of(x))
    METRICS["random"]().score(weight[:3], stats_of(x))
    torch.rand(5)
    assert torch.equal(METRICS["random"]().score(weight, stats_of(x)), first)
    assert not torch.equal(METRICS["random"](seed=1).score(weight, stats_of(x)), first)
    assert not torch.equal(METRICS["random"]().score(weight + 1, stats_of(x)), first)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"name": "wnada"}, "no metric is called 'wnada'. Did you mean 'wanda'?"),
        ({"name": "power", "aplha": 1.0}, "no setting 'aplha'. Did you mean 'alpha'?"),
        (
            {"name": "power", "alpha": "big"},
            "alpha of metric 'power' is 'big', expected a finite number",
        ),
        ({"name": "power", "alpha": 0.0}, "alpha is 0, it must be positive"),
        ({"name": "power", "mix": 2.0}, "mix is 2, it must lie in [0, 1]"),
        ({"name": "meta", "weight_transform": "cube"}, "No transform of the meta metric"),
        ({}, "no metric is called None"),
    ],
)
def test_a_metric_that_cannot_be_is_a_sentence(spec, sentence):
    with pytest.raises(ConfigError) as raised:
        make_metric(spec, "recipe.metric")
    assert sentence in str(raised.value)
