import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import small_layout

from optishear.errors import ConfigError
from optishear.recipe.metric_forms import COEFFICIENTS, META_GENES, TRANSFORMS
from optishear.recipe.profile import Rule
from optishear.search.seeds import seed_genomes
from optishear.search.space_file import SpaceSpec, build_space


LAYOUT = small_layout(blocks=3, scale=4)
NAMES = list(LAYOUT.sizes)
RULES = {
    "uniform": Rule(dict.fromkeys(NAMES, 1.0), dict.fromkeys(NAMES, 0.0)),
    "owl": Rule(
        dict.fromkeys(NAMES, 1.0), {name: 0.02 * (i // 2 - 1) for i, name in enumerate(NAMES)}
    ),
}
META = {
    "name": "meta",
    **{
        gene: {"choice": TRANSFORMS if "transform" in gene else COEFFICIENTS} for gene in META_GENES
    },
}
POWER = {
    "name": "power",
    "alpha": {"real": [0.5, 2.0]},
    "beta": {"real": [0.0, 1.5]},
    "gamma": {"real": [0.0, 1.5]},
    "delta": {"real": [0.0, 1.5]},
    "mix": {"real": [0.0, 1.0]},
}


def space(metric=({"name": "wanda"},), pattern="row", **sparsity):
    spec = SpaceSpec.model_validate({"pattern": pattern, "metric": metric, "sparsity": sparsity})
    return build_space(spec, LAYOUT, RULES)


SPACES = {
    "paper's metric": space([META], by="uniform", budget=0.6),
    "continuous metric": space([POWER], by="uniform", budget=0.6),
    "two metrics": space([{"name": "magnitude"}, POWER], by="block", budget=0.5),
    "blocks": space(by="block", low=0.2, high=0.9, budget=0.6),
    "layers without a budget": space(by="layer", low=0.2, high=0.9),
    "curve": space(by="curve", low=0.1, high=0.95, budget=0.6),
    "curve without a budget": space(by="curve", low=0.1, high=0.95),
    "options": space(by="block", options=[0.45, 0.5, 0.55]),
    "owl's level": space([POWER], by="owl", low=0.3, high=0.8),
    "n of 4": space(pattern="n:4", by="layer", low=0.0, high=0.75, budget=0.5),
    "n of 4 without a budget": space(pattern="n:4", by="layer", low=0.25, high=0.75),
    "2:4": space([META], pattern="2:4"),
}


@pytest.mark.parametrize("name", SPACES)
class TestEverySpace:
    @settings(deadline=None, max_examples=60)
    @given(st.data())
    def test_every_genome_is_a_legal_recipe_that_meets_the_budget(self, name, data):
        chosen = SPACES[name]
        low = np.array([g.low for g in chosen.genes])
        high = np.array([g.high for g in chosen.genes])
        shares = data.draw(st.lists(st.floats(0, 1), min_size=len(low), max_size=len(low)))
        recipe = chosen.decode(low + np.array(shares) * (high - low))
        recipe.check(LAYOUT)
        total = sum(recipe.drop.values())
        if chosen.budget is None:
            assert 0.1 <= total / LAYOUT.total <= 0.95
        elif recipe.pattern == "row":
            assert total == chosen.budget
        else:
            assert total <= chosen.budget

    def test_seeds_are_genomes_of_distinct_recipes(self, name):
        chosen = SPACES[name]
        genomes = seed_genomes(chosen, [{"name": "wanda"}, {"name": "ria"}, {"name": "magnitude"}])
        keys = [chosen.decode(genome).key for genome in genomes]
        assert len(set(keys)) == len(keys) > 0

    def test_gene_names_are_unique(self, name):
        names = [gene.name for gene in SPACES[name].genes]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("metric", ["wanda", "magnitude", "ria"])
def test_named_metrics_are_found_in_the_continuous_space(metric):
    chosen = SPACES["continuous metric"]
    genome = chosen.encode({"name": metric}, RULES["uniform"].wishes(0.6))
    assert chosen.decode(genome).metric == {"name": metric}


def test_the_paper_s_space_knows_wanda_and_magnitude_but_not_ria():
    chosen = SPACES["paper's metric"]
    wish = RULES["uniform"].wishes(0.6)
    for metric in ("wanda", "magnitude"):
        assert chosen.decode(chosen.encode({"name": metric}, wish)).metric == {"name": metric}
    assert chosen.encode({"name": "ria"}, wish) is None


def test_a_rule_s_profile_is_encoded_block_by_block():
    chosen = SPACES["blocks"]
    recipe = chosen.decode(chosen.encode({"name": "wanda"}, RULES["owl"].wishes(0.6)))
    for index, name in enumerate(NAMES):
        want = 0.6 + 0.02 * (index // 2 - 1)
        assert recipe.drop[name] / LAYOUT.sizes[name] == pytest.approx(want, abs=0.01)


def test_a_curve_that_is_a_straight_line_is_encoded_exactly():
    chosen = SPACES["curve without a budget"]
    wishes = {
        x.name: 0.5 + 0.1 * (x.block - 1) + 0.05 * (x.role != "attn.q") for x in LAYOUT.layers
    }
    recipe = chosen.decode(chosen.encode({"name": "wanda"}, wishes))
    for name, wish in wishes.items():
        assert recipe.drop[name] == pytest.approx(wish * LAYOUT.sizes[name], abs=1)


def test_genomes_that_differ_only_in_idle_genes_are_one_recipe():
    chosen = SPACES["two metrics"]
    genome = np.array([g.low for g in chosen.genes])
    assert genome[0] == 0.0  # magnitude: the genes of `power` lie idle
    other = genome.copy()
    other[1] = 1.7
    assert chosen.decode(genome).key == chosen.decode(other).key


def test_the_size_of_a_space_of_choices_is_known():
    assert SPACES["paper's metric"].size == 2401
    assert SPACES["options"].size == 3**3
    assert SPACES["curve"].size is None


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"sparsity": {"by": "block", "low": -0.1}}, r"sparsity.low: -0.1 is not in [0, 1)"),
        ({"sparsity": {"budget": 60}}, "Did you mean 0.6?"),
        ({"sparsity": {"low": 0.5, "high": 0.4}}, "is above sparsity.high"),
        ({"sparsity": {"high": 0.5, "budget": 0.6}}, "Widen low and high"),
        ({"sparsity": {"options": [0.5], "by": "curve"}}, "needs sparsity.by"),
        ({"pattern": "2:4", "sparsity": {"by": "block"}}, "fixes every layer's N"),
        ({"pattern": "2:4", "sparsity": {"budget": 0.6}}, "has a sparsity of 0.5"),
        ({"pattern": "rows"}, "There are: row, layer, and N:M"),
        ({"metric": [{"alpha": 1}]}, "metric.0: has no name"),
        ({"metric": [{"name": "power", "alpha": {"range": [0, 1]}}]}, "a gene is one of"),
        ({"metric": [{"name": "power", "alpha": {"real": [2, 1]}}]}, "low < high"),
        ({"metric": [{"name": "power", "alpha": {"integer": [0.5, 2]}}]}, "integer needs"),
        ({"metric": [{"name": "meta", "x": {"choice": ["a", "a"]}}]}, "lists an option twice"),
        ({"metric": []}, "at least one is needed"),
    ],
)
def test_a_space_that_cannot_be_is_a_sentence(data, sentence):
    with pytest.raises(ConfigError) as raised:
        SpaceSpec.model_validate(data)
    assert sentence in str(raised.value)


def test_a_space_of_one_recipe_is_refused():
    with pytest.raises(ConfigError, match="holds one recipe only"):
        space(by="uniform", budget=0.6)


def test_an_n_of_m_space_that_does_not_divide_a_layer_names_it():
    with pytest.raises(ConfigError, match=r"inputs cannot be divided into groups of 5"):
        space(pattern="n:5", by="layer")
