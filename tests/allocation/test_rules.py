import numpy as np
import pytest
import rule_references
import torch
from layouts import small_layout

from optishear.allocation import RULES, LayerView, rules_for
from optishear.allocation.alpha import hill_exponent
from optishear.allocation.owl import owl
from optishear.calibration.statistics import InputSq, LayerStats
from optishear.errors import ConfigError
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.rule_settings import RULE_SETTINGS, parse_rule, usual_of


LAYOUT = small_layout(blocks=4, scale=4)


def views(outliers=None):
    generator = torch.Generator().manual_seed(0)
    found = []
    for layer in LAYOUT.layers:
        weight = torch.randn(layer.out_features, layer.in_features, generator=generator)
        x = torch.randn(50, layer.in_features, generator=generator)
        if layer.block == outliers:
            x[:, 0] *= 40  # one loud channel: many scores far above the mean
        found.append(LayerView(layer, weight, LayerStats.of(50, 5, InputSq(x.square().sum(0)))))
    return found


@pytest.mark.parametrize("name", RULES)
class TestEveryRule:
    def test_layers_of_one_block_share_their_sparsity(self, name):
        targets = RULES[name](views(outliers=1)).targets(0.6)
        for block in range(LAYOUT.blocks):
            assert len({targets[x.name] for x in LAYOUT.layers if x.block == block}) == 1


def uneven_views(seed):
    """Blocks of different sizes, tails and spectra, so that no two means of them are the same."""
    generator, found = torch.Generator().manual_seed(seed), []
    for block, (scale, power) in enumerate(((3, 1.0), (8, 2.0), (5, 1.5), (12, 2.5))):
        for role, out, in_ in (("attn.q", 3, 4), ("mlp.down", 2, 5)):
            name, shape = f"blocks.{block}.{role}", (out * scale, in_ * scale)
            weight = torch.randn(shape, generator=generator)
            weight = weight.sign() * weight.abs() ** power
            input_sq = torch.rand(shape[1], generator=generator) * 50
            layer = Layer(name, block, role, *shape, name)
            found.append(LayerView(layer, weight, LayerStats.of(50, 5, InputSq(input_sq))))
    return found


@pytest.mark.parametrize("seed", range(3))
class TestAgainstTheirFormulas:
    """Where blocks differ in size; with the papers' constants where none are given."""

    @pytest.mark.parametrize("name", ["owl", "alphapruning"])
    def test_a_rule_is_what_its_formula_says(self, name, seed):
        views = uneven_views(seed)
        targets = RULES[name](views).targets(0.6)
        expected = getattr(rule_references, name)(views, 0.6)
        assert targets == pytest.approx({v.layer.name: expected[v.layer.block] for v in views})
        assert len({round(value, 6) for value in expected.values()}) == 4

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("owl:lambda=0.2", {"lam": 0.2}),
            ("owl:m=2.5", {"m": 2.5}),
            ("alphapruning:epsilon=0.1", {"epsilon": 0.1}),
        ],
    )
    def test_a_rule_goes_by_the_settings_that_it_is_told(self, text, expected, seed):
        views, chosen = uneven_views(seed), parse_rule(text, "here")
        targets = RULES[chosen.name](views, chosen.values).targets(0.6)
        told = getattr(rule_references, chosen.name)(views, 0.6, **expected)
        assert targets == pytest.approx({v.layer.name: told[v.layer.block] for v in views})

    def test_the_hill_exponent_of_any_weight_is_that_of_the_reference(self, seed):
        for view in uneven_views(seed):
            values = np.linalg.svd(view.weight.double().numpy(), compute_uv=False) ** 2
            found = hill_exponent(torch.from_numpy(values))
            assert found == pytest.approx(rule_references.hill(view.weight.double().numpy()))

    @pytest.mark.parametrize("name", RULES)
    def test_the_mean_over_weights_is_the_sparsity_asked_for(self, name, seed):
        views = uneven_views(seed)
        targets = RULES[name](views).targets(0.6)
        weights = [view.layer.size for view in views]
        mean = np.average([targets[view.layer.name] for view in views], weights=weights)
        assert mean == pytest.approx(0.6, abs=1e-9)


def test_alphapruning_prunes_least_where_the_tail_of_the_spectrum_is_heaviest():
    layout = ModelLayout(LAYOUT.layers[:8:2])
    found = []
    for layer, exponent in zip(layout.layers, (3.0, 2.0, 5.0, 4.0), strict=True):
        n = min(layer.out_features, layer.in_features)
        values = (1 - (torch.arange(n, dtype=torch.float64) + 0.5) / n) ** (-1 / (exponent - 1))
        weight = torch.zeros(layer.out_features, layer.in_features)
        weight[range(n), range(n)] = values.sqrt().float()
        found.append(
            LayerView(layer, weight, LayerStats.of(50, 5, InputSq(torch.ones(layer.in_features))))
        )
    targets = list(RULES["alphapruning"](found).targets(0.6).values())
    assert np.argsort(targets).tolist() == [1, 0, 3, 2]


def test_owl_spares_the_block_with_outliers_by_at_most_its_spread():
    targets = owl(views(outliers=2)).targets(0.6)
    per_block = [targets[f"blocks.{block}.attn.q"] for block in range(4)]
    assert int(np.argmin(per_block)) == 2
    assert max(per_block) - min(per_block) == pytest.approx(0.16)


def test_owl_is_uniform_where_no_block_has_outliers():
    targets = owl(views(), usual_of("owl") | {"m": 1e9}).targets(0.6)
    assert set(targets.values()) == {0.6}


def test_alphapruning_stays_between_one_minus_and_one_plus_epsilon():
    targets = RULES["alphapruning"](views()).targets(0.6)
    ratios = np.array(list(targets.values())) / 0.6
    assert ratios.max() / ratios.min() == pytest.approx(1.3 / 0.7)


def zeroed(*names):
    return [LayerView(v.layer, v.weight * (v.layer.name not in names), v.stats) for v in views()]


def test_alphapruning_leaves_a_layer_of_zeros_out_of_its_blocks_mean():
    block = [layer for layer in LAYOUT.layers if layer.block == 1]
    first = zeroed(block[0].name)
    without = [v for v in first if v.layer.name != block[0].name]
    found, alone = (RULES["alphapruning"](some).targets(0.6) for some in (first, without))
    ratios = {x.name: found[x.name] / alone[x.name] for x in LAYOUT.layers if x.name in alone}
    assert max(ratios.values()) == pytest.approx(min(ratios.values()))
    assert found[block[0].name] == found[block[1].name]


def test_alphapruning_of_a_block_of_zeros_is_one_sentence():
    block = [layer.name for layer in LAYOUT.layers if layer.block == 1]
    with pytest.raises(ConfigError, match=r"all weights of block 1 are zero \(blocks\.1\."):
        RULES["alphapruning"](zeroed(*block))


@pytest.mark.parametrize("exponent", [2.0, 3.5])
def test_the_hill_exponent_of_a_power_law_is_found(exponent):
    shares = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    values = (1 - shares) ** (-1 / (exponent - 1))  # quantiles of p(x) ~ x^-exponent
    assert hill_exponent(values) == pytest.approx(exponent, rel=0.05)


def test_a_spectrum_without_a_tail_is_a_finite_number():
    assert np.isfinite(hill_exponent(torch.ones(5)))


def test_every_rule_says_which_settings_it_has():
    assert RULES.keys() == RULE_SETTINGS.keys()
    assert usual_of("owl") == {"lambda": 0.08, "m": 5.0}
    assert usual_of("alphapruning") == {"epsilon": 0.3}


def test_a_search_looks_at_every_rule_as_usual_and_at_its_own_settings_of_one():
    assert rules_for("block") == rules_for("owl") == [*RULES]
    assert rules_for("owl:m=7.0") == [*RULES, "owl:m=7.0"]
