from functools import cache
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optishear.calibration.statistics import InputSq, LayerStats
from optishear.metrics import METRICS, make_metric
from optishear.recipe.metric_forms import (
    COEFFICIENTS,
    META_GENES,
    NAMED_POINTS,
    POWER_GENES,
    TRANSFORMS,
    canonical_metric,
    distinct_meta_genomes,
)
from optishear.recipe.pattern import Block, NofM, Row, WholeLayer
from optishear.solvers.masks import keep_highest


@cache
def layer(seed=0, row_inputs=False):
    """With `row_inputs` each output has inputs of its own, as under MOONSHOT's mix."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 24, generator=generator) * 0.3
    x = torch.randn(40, 24, generator=generator) * torch.rand(24, generator=generator) * 3
    input_sq = x.square().sum(0)
    if row_inputs:
        input_sq = input_sq * torch.rand(6, 24, generator=generator) * 2
    return weight, LayerStats.of(40, 4, InputSq(input_sq))


def meta(values):
    return {"name": "meta", **dict(zip(META_GENES, values, strict=True))}


def score(spec, seed=0, row_inputs=False):
    return make_metric(spec).score(*layer(seed, row_inputs))


@cache
def meta_score(values, row_inputs):
    """Of one genome, for all patterns."""
    return score(meta(values), 0, row_inputs)


def mask(spec, pattern, seed=0, row_inputs=False):
    return keep_highest(score(spec, seed, row_inputs), 72, pattern)


@pytest.mark.parametrize(
    ("pattern", "row_inputs"),
    [
        (Row(), False),
        (WholeLayer(), False),
        (NofM(4), False),
        (Block(8), False),
        (Row(), True),
        (Block(8), True),
    ],
)
def test_every_genome_of_the_paper_has_the_mask_of_its_canonical_form(pattern, row_inputs):
    masks = {}
    for values in product(TRANSFORMS, TRANSFORMS, COEFFICIENTS, COEFFICIENTS):
        canonical = canonical_metric(meta(values), pattern, row_inputs)
        key = tuple(sorted(canonical.items()))
        if key not in masks:
            masks[key] = mask(canonical, pattern, 0, row_inputs)
        keep = keep_highest(meta_score(values, row_inputs), 72, pattern)
        assert torch.equal(keep, masks[key]), values


def test_the_paper_s_2401_genomes_are_few_distinct_ones():
    rows, layers = distinct_meta_genomes(Row()), distinct_meta_genomes(WholeLayer())
    assert (len(rows), len(layers)) == (318, 498)
    assert {"name": "wanda"} in rows
    assert {"name": "magnitude"} in rows


def test_the_sum_over_a_column_is_a_power_only_where_all_rows_have_the_same_inputs():
    spec = meta(("no_op", "pow", "no_coe", "column_sum"))
    assert canonical_metric(spec, Row()) == {"name": "magnitude"}
    assert canonical_metric(spec, Row(), row_inputs=True) == spec


def test_canonical_forms_are_their_own_canonical_form():
    for pattern in (Row(), WholeLayer()):
        for metric in distinct_meta_genomes(pattern):
            assert canonical_metric(metric, pattern) == metric


@pytest.mark.parametrize(
    ("form", "name"), [(form, name) for form, points in NAMED_POINTS.items() for name in points]
)
@pytest.mark.parametrize("pattern", [Row(), WholeLayer(), NofM(4), Block(8)])
def test_named_metrics_are_points_of_the_searchable_forms(form, name, pattern):
    spec = {"name": form, **NAMED_POINTS[form][name]}
    assert canonical_metric(spec, pattern) == {"name": name}
    assert torch.equal(mask(spec, pattern), mask({"name": name}, pattern))


def test_ria_is_a_point_up_to_the_factor_one_half():
    weight, stats = layer()
    power = METRICS["power"](alpha=1.0, beta=1.0, gamma=1.0, delta=0.5, mix=0.5)
    ria = METRICS["ria"]().score(weight, stats)
    torch.testing.assert_close(2 * power.score(weight, stats), ria)


@settings(deadline=None, max_examples=150)
@given(
    st.tuples(
        st.floats(0.25, 2),
        st.floats(0, 2),
        st.floats(0, 2),
        st.floats(-1, 2),
        st.sampled_from([0.0, 0.25, 1.0]),
    ),
    st.sampled_from([Row(), WholeLayer(), NofM(4), Block(8)]),
    st.booleans(),
)
def test_a_power_metric_has_the_mask_of_its_canonical_form(values, pattern, row_inputs):
    rounded = [round(v, 4) for v in values]
    spec = {"name": "power", **dict(zip(POWER_GENES, rounded, strict=True))}
    canonical = canonical_metric(spec, pattern, row_inputs)
    ours, theirs = (mask(s, pattern, 0, row_inputs) for s in (spec, canonical))
    # Exponents are divided by alpha and rounded to 4 decimals: a near tie may fall otherwise.
    assert (ours != theirs).sum() <= 4


@settings(deadline=None)
@given(st.lists(st.floats(0, 2), min_size=5, max_size=5), st.sampled_from([Row(), WholeLayer()]))
def test_canonical_power_metrics_are_stable(values, pattern):
    spec = {"name": "power", **dict(zip(POWER_GENES, values, strict=True))}
    spec["alpha"], spec["mix"] = 0.25 + values[0], min(values[4], 1.0)
    once = canonical_metric(spec, pattern)
    assert canonical_metric(once, pattern) == once
