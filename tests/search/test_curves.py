"""Curves are log-linear between what was measured, and a gene's curve is that of its layers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import small_layout

from optishear.errors import ConfigError
from optishear.recipe.profile import Rule
from optishear.search.curves import Curves, GeneCurve, fixed_drop, gene_curves
from optishear.search.space_file import SpaceSpec, build_space


LAYOUT = small_layout(blocks=3, scale=4)  # layers of 768 and 960 weights
RULES = {"uniform": Rule(dict.fromkeys(LAYOUT.sizes, 1.0), dict.fromkeys(LAYOUT.sizes, 0.0))}
ONE = Curves({"a": ((100, 0.01), (200, 0.04), (400, 0.64))})


def curves_of(layout):
    """Every layer with another scale."""
    return Curves(
        {
            layer.name: tuple(
                (layer.size * i // 8, 1e-3 * (1 + number) * 2.0**i) for i in range(2, 8)
            )
            for number, layer in enumerate(layout.layers)
        }
    )


def space(metric=None, pattern="row", roles=None, **sparsity):
    spec = {"pattern": pattern, "metric": metric or {"name": "wanda"}, "sparsity": sparsity}
    return build_space(SpaceSpec.model_validate(spec | {"roles": roles or {}}), LAYOUT, RULES)


class TestACurve:
    @pytest.mark.parametrize(
        ("drop", "cost"),
        [
            (0, 0.0),
            (50, 0.005),  # a line below the first point
            (100, 0.01),
            (150, 0.02),  # the geometric mean of both ends
            (200, 0.04),
            (300, 0.16),
            (400, 0.64),
            (500, 2.56),  # the last piece goes on
        ],
    )
    def test_it_is_log_linear_between_its_points(self, drop, cost):
        assert ONE.cost("a", drop) == pytest.approx(cost, rel=1e-12)

    def test_its_points_are_met_exactly(self):
        assert [ONE.cost("a", count) for count, _ in ONE.points["a"]] == [0.01, 0.04, 0.64]

    def test_it_is_a_line_where_a_value_is_not_positive(self):
        curves = Curves({"a": ((10, -0.1), (20, 0.3), (40, 0.0)), "b": ((10, 2.0),)})
        found = [curves.cost("a", drop) for drop in (5, 15, 30, 60)]
        assert found == pytest.approx([-0.05, 0.1, 0.15, -0.3])
        assert curves.cost("b", 30) == 6.0  # one point alone: the line from 0

    def test_the_costs_of_layers_add_up(self):
        curves = Curves({"a": ((10, 1.0),), "b": ((10, 3.0),)})
        assert curves.total({"a": 10, "b": 5}) == 2.5

    @pytest.mark.parametrize(
        "points", [(), ((0, 1.0),), ((2, 1.0), (2, 2.0)), ((5, 1.0), (3, 2.0)), ((1, np.nan),)]
    )
    def test_points_that_are_no_curve_are_a_bug_and_refused(self, points):
        with pytest.raises(ValueError, match="a: a curve has one point or more"):
            Curves({"a": points})

    def test_a_layer_that_was_not_measured_is_named(self):
        with pytest.raises(ConfigError, match="no point of the layer b"):
            ONE.cost("b", 1)

    def test_a_curve_that_leaves_all_numbers_says_so(self):
        with pytest.raises(ConfigError, match="a: its curve ends at 2 weights dropped and rises"):
            Curves({"a": ((1, 1e-9), (2, 1.0))}).cost("a", 100)


SPACES = {
    "layers in steps": space(by="layer", steps=32, low=0.4, high=0.8, budget=0.6),
    "blocks in steps": space(by="block", steps=12, low=0.3, high=0.8),
    "n of 4": space(pattern="n:4", by="layer", low=0.0, high=0.75, budget=0.5),
    "blocks of n of 4": space(pattern="n:4", by="block", low=0.25, high=0.75),
    "options": space(by="block", options=[0.45, 0.5, 0.55]),
    "any number": space(by="layer", low=0.2, high=0.9),
    "metric and blocks": space({"name": "power", "alpha": {"real": [0.5, 2.0]}}, by="block"),
    "attention is 2:4": space(by="layer", low=0.2, high=0.9, roles={"attn.*": {"pattern": "2:4"}}),
}


@pytest.mark.parametrize("name", SPACES)
class TestGeneCurves:
    def test_an_option_drops_what_the_recipe_of_its_code_does(self, name):
        chosen = SPACES[name]
        free = chosen if chosen.sparsity is None else without_budget(chosen)
        curves = curves_of(LAYOUT)
        found = gene_curves(chosen, curves)
        low = np.array([gene.low for gene in chosen.genes], dtype=float)
        for gene, curve in enumerate(found):
            followers = [layer.name for layer in chosen.gene_layers[gene]]
            for code, dropped, cost in (
                () if curve is None else zip(curve.codes, curve.amounts, curve.costs)
            ):
                row = low.copy()
                row[gene] = code
                drop = free.decode(row).drop
                assert sum(drop[layer] for layer in followers) == dropped
                assert cost == pytest.approx(curves.total({n: drop[n] for n in followers}))

    def test_only_sparsities_have_curves_and_all_of_them(self, name):
        chosen = SPACES[name]
        found = gene_curves(chosen, curves_of(LAYOUT))
        has = [curve is not None for curve in found]
        assert has == [gene.name.startswith("sparsity.") for gene in chosen.genes]
        for gene, curve in zip(chosen.genes, found):
            if curve is not None:
                assert (np.diff(curve.amounts) > 0).all()
                assert {gene.low, gene.high} <= set(curve.codes)

    def test_what_no_gene_says_is_fixed(self, name):
        chosen = SPACES[name]
        attention = sum(layer.size for layer in LAYOUT.layers if layer.role == "attn.q")
        assert fixed_drop(chosen) == (attention // 2 if name == "attention is 2:4" else 0)


def without_budget(chosen):
    return type(chosen)(chosen.metric, chosen.layers, None)


def test_integers_list_every_code_and_reals_every_64th_and_both_ends():
    curves = curves_of(LAYOUT)
    assert len(gene_curves(SPACES["layers in steps"], curves)[0].codes) == 13  # 13/32 to 25/32
    n_of_4 = gene_curves(SPACES["n of 4"], curves)[0]
    assert n_of_4.codes.tolist() == [4, 3, 2, 1]  # kept, so they fall
    assert n_of_4.amounts.tolist() == [0, 192, 384, 576]
    any_number = gene_curves(SPACES["any number"], curves)[0]
    assert any_number.codes[[0, -1]].tolist() == [0.2, 0.9]
    assert any_number.amounts[1:-1].tolist() == list(range(156, 685, 12))  # 768 / 64


def test_a_curve_over_depth_and_rules_say_no_layer_s_sparsity():
    for by in ("curve", "uniform"):
        chosen = space(by=by, low=0.1, high=0.9)
        assert set(gene_curves(chosen, curves_of(LAYOUT))) == {None}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([0.5, 0.5004, 0.5008, 0.6]), min_size=1, unique=True))
def test_of_options_with_one_count_the_first_is_listed(options):
    chosen = space(by="layer", options=sorted(options))
    for curve in gene_curves(chosen, curves_of(LAYOUT)):
        assert len(set(curve.amounts)) == len(curve.amounts) <= len(options)
        assert curve.codes[0] == 0


@pytest.mark.parametrize(
    ("codes", "dropped", "costs"),
    [
        ([0.0, 1.0], [1, 1], [0.0, 1.0]),
        ([0.0, 1.0], [1, 2], [0.0, np.inf]),
        ([], [], []),
    ],
)
def test_arrays_that_are_no_gene_s_curve_are_a_bug_and_refused(codes, dropped, costs):
    with pytest.raises(ValueError, match="one finite code and cost for each"):
        GeneCurve(
            np.array(codes, dtype=float),
            np.array(dropped, dtype=np.int64),
            np.array(costs, dtype=float),
        )


@pytest.mark.parametrize("name", SPACES)
def test_an_answer_may_leave_a_step_of_what_has_no_levels(name):
    chosen = SPACES[name]
    for curve in gene_curves(chosen, curves_of(LAYOUT)):
        if curve is not None:
            leveled = name in ("layers in steps", "blocks in steps") or "n of 4" in name
            assert curve.slack == (0 if leveled else np.diff(curve.amounts).max())


def test_a_layer_that_loses_nothing_needs_no_curve():
    assert Curves({}).total({"a": 0}) == 0
