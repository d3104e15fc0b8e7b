"""What slopes of layers say of genes: between which counts they are taken, and what follows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import small_layout

from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.profile import Rule, counts_within
from optishear.recipe.recipe import Recipe
from optishear.records.journal import Journal
from optishear.search.evaluator import Measuring
from optishear.search.genes import Real
from optishear.search.slopes import WINDOW, SlopesReader, gene_slopes, slopes_identity, windows
from optishear.search.space_file import SpaceSpec, build_space


LAYOUT = small_layout(blocks=3, scale=32)  # layers of 49,152 and 61,440 weights
NAMES = list(LAYOUT.sizes)
RULES = {"uniform": Rule(dict.fromkeys(LAYOUT.sizes, 1.0), dict.fromkeys(LAYOUT.sizes, 0.0))}


def space(pattern="row", roles=None, metric=None, **sparsity):
    spec = {"pattern": pattern, "metric": metric or {"name": "wanda"}, "sparsity": sparsity}
    return build_space(SpaceSpec.model_validate(spec | {"roles": roles or {}}), LAYOUT, RULES)


POWER = {"name": "power", "alpha": {"real": [0.5, 2.0]}}
SPACES = {
    "blocks": space("layer", by="block", low=0.1, high=0.95, budget=0.5),
    "layers": space("layer", by="layer", low=0.1, high=0.95, budget=0.5),
    "layers without a budget": space("layer", by="layer", low=0.1, high=0.95),
    "curve": space("layer", by="curve", low=0.0, high=0.95, width=0.1, budget=0.5),
    "curve without a budget": space("layer", by="curve", low=0.0, high=0.95, width=0.1),
    "metric and blocks": space("layer", metric=POWER, by="block", low=0.1, high=0.9, budget=0.5),
    "attention is 2:4": space(
        by="layer", low=0.1, high=0.95, budget=0.55, roles={"attn.*": {"pattern": "2:4"}}
    ),
    "options": space("layer", by="block", options=[0.3, 0.5, 0.7], budget=0.5),
}
LEVELED = {
    "steps": space("layer", by="layer", steps=32, low=0.25, high=0.75),
    "blocks in steps": space("layer", by="block", steps=32, low=0.25, high=0.75, budget=0.5),
    "n of 4": space("n:4", by="layer", low=0.0, high=0.75),
    "blocks of n of 4": space("n:4", by="block", low=0.25, high=0.75),
    "blocks of n of 4 on a budget": space("n:4", by="block", low=0.25, high=0.75, budget=0.5),
}
ON_A_BUDGET = ("blocks in steps", "blocks of n of 4 on a budget")  # met from below: counts jump
EVERY = {**SPACES, **LEVELED}


def drawn(chosen, seed, share=1.0):
    """A genome, within so much of its genes' ranges around their middles."""
    rng = np.random.default_rng(seed)
    middle = np.array([(gene.low + gene.high) / 2 for gene in chosen.genes])
    reach = np.array([(gene.high - gene.low) / 2 for gene in chosen.genes])
    row = middle + share * reach * rng.uniform(-1, 1, len(middle))
    return np.array([gene.clean(code) for gene, code in zip(chosen.genes, row)])


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**31))
def test_a_window_is_a_level_or_a_sixteenth_to_either_side_within_the_bounds(name, seed):
    chosen = EVERY[name]
    recipe = chosen.decode(drawn(chosen, seed))
    found = windows(chosen, recipe)
    assert list(found) == NAMES
    layers = chosen.layers
    for layer in LAYOUT.layers:
        here, (fewer, more) = recipe.drop[layer.name], found[layer.name]
        if name == "attention is 2:4" and layer.role == "attn.q":
            assert fewer == more == layer.size // 2
            continue
        counts = counts_within(layer, layers.patterns, layers.bounds)
        assert fewer in counts
        assert more in counts
        assert fewer <= here <= more
        assert fewer < more
        away = counts.step if name in LEVELED else layer.size // WINDOW // counts.step * counts.step
        assert fewer == max(counts[0], here - away)
        assert more == min(counts[-1], here + away)


def test_a_window_of_a_small_layer_is_one_step_at_least():
    tiny = ModelLayout((Layer("a", 0, "up", 2, 5, "a"),))
    rules = {"uniform": Rule(dict.fromkeys(tiny.sizes, 1.0), dict.fromkeys(tiny.sizes, 0.0))}
    spec = {"sparsity": {"by": "layer", "high": 0.9}}
    chosen = build_space(SpaceSpec.model_validate(spec), tiny, rules)
    assert windows(chosen, chosen.decode(np.array([0.5]))) == {"a": (4, 6)}
    assert windows(chosen, chosen.decode(np.array([0.0]))) == {"a": (0, 1)}


def cost_of(seed):
    """A smooth function of all counts, and its slopes by sparsity: layers matter together."""
    rng = np.random.default_rng(seed)
    scale, rate = rng.uniform(0.2, 2.0, len(NAMES)), rng.uniform(0.5, 2.0, len(NAMES))
    mixed = rng.uniform(-0.3, 0.3, (len(NAMES), len(NAMES)))

    def shares(drop):
        return np.array([drop[name] / LAYOUT.sizes[name] for name in NAMES])

    def value(drop):
        s = shares(drop)
        return float((scale * np.exp(rate * s)).sum() + s @ mixed @ s)

    def slopes(drop):
        s = shares(drop)
        return dict(zip(NAMES, scale * rate * np.exp(rate * s) + (mixed + mixed.T) @ s))

    return value, slopes


def difference(chosen, row, index, value):
    """Of the recipes to either side of one gene, over the change of its code."""
    away = 0.02 if isinstance(chosen.genes[index], Real) else 1.0
    ends = row.copy(), row.copy()
    ends[0][index], ends[1][index] = row[index] - away, row[index] + away
    one, two = (value(chosen.decode(end).drop) for end in ends)
    return (two - one) / (2 * away)


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ON_A_BUDGET])
@settings(max_examples=10)
@given(seed=st.integers(0, 2**31))
def test_a_gene_s_slope_is_a_finite_difference_of_what_its_genome_decodes_to(name, seed):
    chosen = EVERY[name]
    row = drawn(chosen, seed, share=0.2)  # off the bounds, which a slope knows nothing of
    value, slopes = cost_of(seed)
    got = gene_slopes(chosen, slopes(chosen.decode(row).drop))
    want = [difference(chosen, row, index, value) for index in range(len(chosen.genes))]
    own = {gene.name for gene in chosen.layers.genes}
    for gene, found in zip(chosen.genes, got):
        if gene.name not in own:
            assert found == 0  # a metric's
    room = 0.1 if name in LEVELED or name == "options" else 0.02  # a code's step is no small one
    assert got == pytest.approx(want, abs=room * max(map(abs, want)))


@pytest.mark.parametrize("name", ["blocks", "layers", "attention is 2:4", "blocks in steps"])
@settings(max_examples=20)
@given(slopes=st.lists(st.floats(-1e3, 1e3), min_size=len(NAMES), max_size=len(NAMES)))
def test_under_a_budget_what_all_genes_ask_for_together_changes_nothing(name, slopes):
    """The same shift of every target is taken back: slopes sum to 0, and where all are as steep for
    their size there are none."""
    chosen, told = EVERY[name], dict(zip(NAMES, slopes))
    found = gene_slopes(chosen, told)
    assert found.sum() == pytest.approx(0, abs=1e-9 * max(1.0, np.abs(slopes).max()))
    alike = {name: 3.0 * size for name, size in LAYOUT.sizes.items()}
    assert np.allclose(gene_slopes(chosen, alike), 0, atol=1e-9 * LAYOUT.total)


def test_a_code_that_counts_what_is_kept_falls_where_sparsity_rises():
    chosen = LEVELED["n of 4"]
    found = gene_slopes(chosen, dict(zip(NAMES, np.arange(1.0, 7.0).tolist())))
    assert found == pytest.approx([-share / 4 for share in range(1, 7)])


@settings(max_examples=20)
@given(slopes=st.lists(st.floats(-1e3, 1e3), min_size=len(NAMES), max_size=len(NAMES)))
def test_levels_on_a_budget_have_the_slopes_of_any_number_by_their_steps(slopes):
    told = dict(zip(NAMES, slopes))
    wanted = gene_slopes(SPACES["blocks"], told)
    for name, step in zip(ON_A_BUDGET, (1 / 32, -1 / 4)):
        assert np.allclose(gene_slopes(LEVELED[name], told), wanted * step, rtol=1e-9, atol=1e-9)


def test_of_options_that_are_not_even_it_is_the_mean_of_all_steps():
    chosen = space("layer", by="block", options=[0.1, 0.2, 0.7])
    told = dict.fromkeys(NAMES, 1.0)
    assert gene_slopes(chosen, told) == pytest.approx([2 * 0.3] * 3)  # two layers a block


class Counting(Measuring):
    """Answers with made-up slopes, and notes what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, recipes, rung):
        raise AssertionError("nobody asks for values here")

    def slopes(self, objective, asked, rung):
        for recipe, counts in asked:
            self.asked.append((recipe.key, rung))
            assert list(counts) == NAMES
            if recipe.drop[NAMES[0]] == 0:
                yield recipe.key, {"values": None, "reason": "no", "seconds": 1.0}
            else:
                told = [1.0 + index for index in range(len(NAMES))]
                yield (
                    recipe.key,
                    {"values": {objective: 0.5}, "slopes": told, "reason": "", "seconds": 1.0},
                )


def test_a_reader_asks_journal_then_memo_then_measures_each_recipe_once(tmp_path):
    chosen = SPACES["layers without a budget"]
    rows = [drawn(chosen, seed) for seed in range(3)]
    recipes = [chosen.decode(row) for row in rows]
    dense = Recipe.of({"name": "wanda"}, dict.fromkeys(NAMES, 0), "layer")
    measuring = Counting()
    identity = slopes_identity({"model": "m", "quantities": ["kl", "sparsity"]}, chosen, "kl")
    assert identity == {"model": "m", "quantities": ["kl"], "slopes": "16 steps in [0.1, 0.95]"}
    with Journal(tmp_path / "slopes.jsonl", identity, NAMES) as journal:
        reader = SlopesReader(measuring, chosen, "kl", journal, {})
        told = reader([recipes[0], recipes[1], recipes[0], dense], 64)
        reader(recipes[:2], 128)
        memo = dict(journal.entries)
    assert measuring.asked == [
        *((recipe.key, 64) for recipe in (*recipes[:2], dense)),
        *((recipe.key, 128) for recipe in recipes[:2]),
    ]
    assert told[0][0] == 0.5
    assert told[0][1] == pytest.approx(np.arange(1, 7))
    assert told[3] == (None, None)
    assert np.array_equal(told[0][1], told[2][1])
    with Journal(tmp_path / "other.jsonl", identity, NAMES) as journal:
        reader = SlopesReader(measuring, chosen, "kl", journal, memo)
        again = reader([recipes[0], dense, recipes[2]], 64)
        assert [journal.entries[r.key, 64].get("memo") for r in (recipes[0], dense)] == [True] * 2
    assert measuring.asked[5:] == [(recipes[2].key, 64)]
    assert np.array_equal(again[0][1], told[0][1])
    assert again[1] == (None, None)
