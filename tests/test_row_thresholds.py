"""Slopes of single rows are what finite differences say, and descents by them keep the budget."""

import numpy as np
import pytest
import torch
from mask_descent import (
    LAYER,
    OWN,
    BothMoves,
    LayerMoves,
    RowMasks,
    RowMoves,
    Rows,
    descend,
)
from masked_model import MaskedModel
from row_thresholds_solved import UnequalRows
from tiny_models import GATED, TINY, make

from optishear.calibration.collect import collect
from optishear.calibration.statistics import InputSq
from optishear.metrics import make_metric
from optishear.models.discover import layout_of
from optishear.models.weights import read, working_weights
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.pattern import Row
from optishear.search.slopes import WINDOW
from optishear.solvers.masks import keep_counts, keep_highest
from optishear.text.tokens import TokenBatches


WIDE = {**GATED, "hidden_size": 3 * WINDOW, "num_hidden_layers": 1}  # windows of some weights
MODELS = {"llama": lambda: make("llama", WIDE), "gpt2": TINY["gpt2"]}


@pytest.fixture(params=MODELS)
def masks(request):
    """A tiny model in fp64, Wanda's scores of its weights."""
    model = MODELS[request.param]().double()
    layout, generator = layout_of(model), torch.Generator().manual_seed(0)
    drawn = torch.randint(0, model.config.vocab_size, (7, 12), generator=generator)
    stats = collect(model, layout, [drawn[:4]], frozenset({InputSq}))
    with working_weights(model, layout) as working:
        text = TokenBatches.of(drawn[4:], "search")
        masked = MaskedModel(model, layout, working, stats, text)
        yield RowMasks(masked, masked.scores(make_metric({"name": "wanda"})))


def test_a_row_slope_is_the_difference_along_what_its_window_weighs(masks):
    """(KL(W + e D) - KL(W - e D)) / 2 e, with D_r = -w where a weight of row r ranks in the window,
    over the window's share of the row."""
    masked, rows = masks.masked, masks.rows
    targets = np.random.default_rng(0).uniform(0, 1, len(rows.width))
    counts = rows.counts(targets, masked.layout.total // 2)
    kl, slopes = masks.kl_and_slopes(counts)
    assert kl == pytest.approx(masked.kl(), rel=1e-6)
    scale, eps, checked = np.abs(slopes).max(), 1e-3, 0  # some norms compute in fp32
    for layer in masked.layout.layers:
        weight, dense = read(masked.model, layer), masked.dense(layer.name)
        for row in (0, layer.out_features - 1):
            count, width = int(rows.split(counts)[layer.name][row]), layer.in_features
            away = max(1, width // WINDOW)
            fewer, more = max(0, count - away), min(width, count + away)
            goes = masks.scores[layer.name][row].argsort(stable=True)[fewer:more]
            along = -dense[row, goes] * width / (more - fewer)
            before, values = weight[row].clone(), []
            with torch.no_grad():
                for side in (1, -1):
                    weight[row, goes] = before[goes] + side * eps * along
                    values.append(masked.kl())
                weight[row] = before
            want = (values[0] - values[1]) / (2 * eps)
            got = rows.split(slopes)[layer.name][row]
            assert got == pytest.approx(want, rel=2e-3, abs=2e-3 * scale), layer.name
            checked += 1
    assert checked == 2 * len(masked.layout.layers)


def test_equal_rows_are_the_pattern_row(masks):
    """Where all rows have one target, masks are those of a layer's count under the pattern."""
    rows, layout = masks.rows, masks.masked.layout
    counts = rows.split(rows.counts(rows.even(0.55), int(0.55 * layout.total)))
    keep = masks.keep(np.concatenate(list(counts.values())))
    for layer in layout.layers:
        want = keep_highest(masks.scores[layer.name], int(counts[layer.name].sum()), Row())
        assert torch.equal(keep[layer.name], want)


@pytest.mark.parametrize("kind", ["layers", "rows", "rows beside their layer's", "both"])
def test_every_point_of_a_descent_meets_the_budget_and_some_have_a_lower_kl(masks, kind):
    rows, budget = masks.rows, masks.masked.layout.total // 2
    moves = {
        "layers": lambda: LayerMoves(rows),
        "rows": lambda: RowMoves(rows, 0.02, OWN),
        "rows beside their layer's": lambda: RowMoves(rows, 0.02, LAYER),
        "both": lambda: BothMoves(rows, 0.02, LAYER),
    }[kind]()
    path = descend(masks, rows.even(0.5), moves, 4, budget)
    assert [int(point.counts.sum()) for point in path] == [budget] * 4
    assert all((point.counts >= 0).all() and (point.counts <= rows.width).all() for point in path)
    assert rows.width @ path[-1].targets == pytest.approx(budget)
    assert min(point.kl for point in path[1:]) < path[0].kl
    if kind == "layers":
        for own in rows.split(path[-1].counts).values():
            assert own.max() - own.min() <= 1


def test_counts_are_exact_where_rows_differ_in_width():
    layers = tuple(
        Layer(f"l{i}", 0, "r", *shape, f"l{i}") for i, shape in enumerate([(3, 10), (2, 7)])
    )
    rows = Rows(ModelLayout(layers))
    assert rows.counts(rows.even(0.5), 22).tolist() == [5, 5, 5, 4, 3]
    assert rows.counts(np.array([0, 0.5, 1, 0.5, 0.5]), 22).tolist() == [0, 5, 10, 4, 3]


def test_a_pattern_with_a_count_for_each_row_keeps_what_counts_keep():
    scores = torch.randn(7, 12, generator=torch.Generator().manual_seed(2))
    counts = (3, 3, 0, 12, 5, 5, 1)
    kept = keep_highest(scores, sum(counts), UnequalRows(counts))
    assert torch.equal(kept, keep_counts(scores, torch.tensor(counts)))
    with pytest.raises(ValueError, match="are not what these rows drop"):
        keep_highest(scores, 28, UnequalRows(counts))
