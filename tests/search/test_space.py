import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import small_layout

from optishear.errors import ConfigError
from optishear.recipe.metric_forms import COEFFICIENTS, META_GENES, TRANSFORMS
from optishear.recipe.profile import Rule, step_of
from optishear.recipe.recipe import Recipe
from optishear.search.seeds import seed_genomes
from optishear.search.space_file import SpaceSpec, build_space
from optishear.solvers.methods import solver_of


LAYOUT = small_layout(blocks=3, scale=4)
NAMES, LAYERS = list(LAYOUT.sizes), LAYOUT.layers
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


REFIT = {"name": "refit", "of": {"choice": ["mask", "sparsegpt", "alps"]}}
ALL_SOLVERS = ({"name": "mask"}, REFIT, {"name": "sparsegpt"}, {"name": "alps"})
WANDA, MASK = {"name": "wanda"}, {"name": "mask"}
MOONSHOT = {"by": "block", "roles": "all"}
METRICS = [{"name": name} for name in ("wanda", "ria", "magnitude")]


def space(metric=(WANDA,), pattern="row", solver=MASK, moonshot=None, **sparsity):
    spec = {"pattern": pattern, "metric": metric, "sparsity": sparsity, "solver": solver}
    return build_space(SpaceSpec.model_validate(spec | {"moonshot": moonshot}), LAYOUT, RULES)


def drawn_genome(chosen, data):
    low = np.array([g.low for g in chosen.genes])
    high = np.array([g.high for g in chosen.genes])
    shares = data.draw(st.lists(st.floats(0, 1), min_size=len(low), max_size=len(low)))
    return low + np.array(shares) * (high - low)


def genome_of(chosen, **codes):
    """All genes at their lower ends but these; `__` in a name stands for a dot."""
    given = {name.replace("__", "."): code for name, code in codes.items()}
    assert set(given) <= {gene.name for gene in chosen.genes}
    return np.array([given.get(gene.name, gene.low) for gene in chosen.genes])


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
    "blocks of columns": space([META], pattern="block:5", by="block", budget=0.5),
    "all solvers": space([POWER], solver=ALL_SOLVERS, by="uniform", budget=0.5),
    "sparsegpt": space(solver={"name": "sparsegpt"}, by="block", budget=0.5),
    "one lambda": space(moonshot={"high": 0.75}, by="uniform", budget=0.5),
    "a lambda a role": space([META], moonshot={"by": "role"}, by="uniform", budget=0.5),
    "solvers and lambdas": space(
        [{"name": "magnitude"}, POWER], "row", ALL_SOLVERS, MOONSHOT, by="block", low=0.3
    ),
    "solvers and lambdas on n of 4": space(
        pattern="n:4", solver=ALL_SOLVERS, moonshot=MOONSHOT, by="layer", high=0.75, budget=0.5
    ),
    "layers in steps": space(by="layer", steps=32, low=0.4, high=0.8, budget=0.6),
    "steps without a budget": space(pattern="layer", by="block", steps=12, low=0.3, high=0.8),
    "a curve in steps": space(by="curve", steps=16, low=0.1, high=0.95, budget=0.6),
    "a rule in steps": space([META], by="owl", steps=24, low=0.1, high=0.95, budget=0.6),
    "few lambdas": space(
        [META],
        solver=ALL_SOLVERS,
        moonshot={"by": "role", "options": [1, 1 / 3]},
        by="block",
        low=0.1,
    ),
    "a fixed lambda": space(moonshot={"lambda": 0.5}, by="block", budget=0.5),
}


@pytest.mark.parametrize("name", SPACES)
class TestEverySpace:
    @settings(deadline=None, max_examples=60)
    @given(st.data())
    def test_every_genome_is_a_legal_recipe_that_meets_the_budget(self, name, data):
        chosen = SPACES[name]
        recipe = chosen.decode(drawn_genome(chosen, data))
        recipe.check(LAYOUT)
        solver_of(recipe.default)
        assert Recipe.from_json(recipe.to_json()) == recipe
        total = sum(recipe.drop.values())
        if chosen.budget is None:
            assert 0.1 <= total / LAYOUT.total <= 0.95
        elif recipe.default.pattern.text.startswith("n:") or "steps" in name:
            smallest = min(step_of(x, chosen.layers.patterns, chosen.layers.bounds) for x in LAYERS)
            assert chosen.budget - smallest < total <= chosen.budget
        else:
            assert total == chosen.budget

    def test_seeds_are_genomes_of_distinct_recipes(self, name):
        chosen = SPACES[name]
        genomes = seed_genomes(chosen, METRICS)
        keys = [chosen.decode(genome).key for genome in genomes]
        assert len(set(keys)) == len(keys) > 0

    def test_gene_names_are_unique(self, name):
        names = [gene.name for gene in SPACES[name].genes]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("metric", ["wanda", "magnitude", "ria"])
def test_named_metrics_are_found_in_the_continuous_space(metric):
    chosen = SPACES["continuous metric"]
    genome = chosen.encode({"name": metric}, RULES["uniform"].targets(0.6))
    assert chosen.decode(genome).default.metric == {"name": metric}


def test_the_paper_s_space_knows_wanda_and_magnitude_but_not_ria():
    chosen = SPACES["paper's metric"]
    targets = RULES["uniform"].targets(0.6)
    for metric in ("wanda", "magnitude"):
        assert chosen.decode(chosen.encode({"name": metric}, targets)).default.metric == {
            "name": metric
        }
    assert chosen.encode({"name": "ria"}, targets) is None


def test_a_rule_s_profile_is_encoded_block_by_block():
    chosen = SPACES["blocks"]
    recipe = chosen.decode(chosen.encode({"name": "wanda"}, RULES["owl"].targets(0.6)))
    for index, name in enumerate(NAMES):
        want = 0.6 + 0.02 * (index // 2 - 1)
        assert recipe.drop[name] / LAYOUT.sizes[name] == pytest.approx(want, abs=0.01)


def test_a_curve_that_is_a_straight_line_is_encoded_exactly():
    chosen = SPACES["curve without a budget"]
    targets = {
        x.name: 0.5 + 0.1 * (x.block - 1) + 0.05 * (x.role != "attn.q") for x in LAYOUT.layers
    }
    recipe = chosen.decode(chosen.encode({"name": "wanda"}, targets))
    for name, target in targets.items():
        assert recipe.drop[name] == pytest.approx(target * LAYOUT.sizes[name], abs=1)


def test_an_n_of_m_profile_is_encoded_as_the_number_that_is_kept():
    chosen = SPACES["n of 4 without a budget"]
    targets = {name: (0.25, 0.5, 0.75)[i % 3] for i, name in enumerate(NAMES)}
    recipe = chosen.decode(chosen.encode(WANDA, targets))
    assert {n: drop / LAYOUT.sizes[n] for n, drop in recipe.drop.items()} == targets


def test_a_gene_in_steps_is_how_many_of_them_are_dropped():
    chosen = SPACES["steps without a budget"]
    assert [(gene.low, gene.high) for gene in chosen.genes] == [(4, 9)] * 3
    recipe = chosen.decode(np.array([4.0, 6.0, 9.0]))
    shares = [recipe.drop[layer.name] / layer.size for layer in LAYERS]
    assert shares == [4 / 12, 4 / 12, 6 / 12, 6 / 12, 9 / 12, 9 / 12]
    targets = {layer.name: (0.1, 0.49, 0.99)[layer.block] for layer in LAYERS}
    assert chosen.encode(WANDA, targets).tolist() == [4, 6, 9]


def test_steps_that_do_not_divide_a_layer_name_it():
    with pytest.raises(ConfigError, match=r"blocks\.0\.attn\.q has 768 .* Choose 4 or 6"):
        space(by="block", steps=5)


def test_a_space_without_steps_is_written_as_before_there_were_any():
    written = SpaceSpec.model_validate({"sparsity": {"by": "block", "budget": 0.6}}).model_dump()
    assert "steps" not in written["sparsity"]
    again = SpaceSpec.model_validate({"sparsity": {"by": "block", "steps": 32}}).model_dump()
    assert again["sparsity"]["steps"] == 32


solver_specs = st.sampled_from(
    [MASK, {"name": "sparsegpt"}, {"name": "alps"}]
    + [{"name": "refit", "of": of} for of in ("mask", "sparsegpt")]
)


@settings(deadline=None, max_examples=40)
@given(solver_specs, st.floats(0, 1), st.floats(0.3, 0.9))
def test_a_solver_and_a_lambda_are_encoded_as_they_are(solver, lam, sparsity):
    chosen = SPACES["solvers and lambdas"]
    genome = chosen.encode(WANDA, RULES["uniform"].targets(sparsity), solver, lam)
    recipe = chosen.decode(genome)
    own = solver["name"] in ("sparsegpt", "alps") or solver.get("of") == "sparsegpt"
    assert recipe.default.solver == solver
    assert recipe.default.metric == ({"name": "own"} if own else WANDA)
    assert {recipe.lambda_of(layer) for layer in LAYERS} == {round(lam, 3)}
    for name in NAMES:
        assert recipe.drop[name] == pytest.approx(sparsity * LAYOUT.sizes[name], abs=1)


def test_what_a_space_lacks_is_encoded_as_the_nearest_that_it_has():
    uniform = RULES["uniform"].targets(0.5)
    updating = space(solver=[{"name": "sparsegpt"}, {"name": "alps"}], by="uniform")
    assert updating.decode(updating.encode(WANDA, uniform)).default.solver == {"name": "sparsegpt"}
    bounded = SPACES["one lambda"]
    assert bounded.decode(bounded.encode(WANDA, uniform)).lambdas == _attention(0.75)


def _attention(value):
    return {layer.name: value for layer in LAYOUT.layers if layer.role == "attn.q"}


def test_lambda_is_one_gene_or_one_for_each_mixed_role_or_block():
    def lambda_genes(**moonshot):
        return [gene.name for gene in space(moonshot=moonshot, by="uniform", budget=0.5).genes]

    assert lambda_genes(by="global", roles="all") == ["moonshot.lambda"]
    assert lambda_genes(by="role") == ["moonshot.lambda.attn.q"]
    assert lambda_genes(by="role", roles="all") == [
        "moonshot.lambda.attn.q",
        "moonshot.lambda.mlp.down",
    ]
    assert lambda_genes(by="block") == [f"moonshot.lambda.block.{i}" for i in range(3)]


def test_a_lambda_gene_reaches_its_own_layers_only():
    chosen = space(moonshot={"by": "block"}, by="uniform", budget=0.5)
    recipe = chosen.decode(np.array([1.0, 0.25, 0.0]))
    assert recipe.lambdas == {"blocks.1.attn.q": 0.25, "blocks.2.attn.q": 0.0}


def test_a_searched_lambda_is_rounded_and_stays_within_its_bounds():
    chosen = space(moonshot={"low": 0.1004, "high": 0.7506}, by="uniform", budget=0.5)
    for code, want in ((0.12345, 0.123), (0.1004, 0.1004), (0.7506, 0.7506)):
        assert chosen.decode(np.array([code])).lambdas == _attention(want)


def test_lambda_may_be_one_of_few():
    chosen = space(moonshot={"options": [1, 1 / 3, 0.5]}, by="uniform", budget=0.5)
    [gene] = chosen.genes
    assert gene.options == (1 / 3, 0.5, 1)
    assert chosen.decode(np.array([1.0])).lambdas == _attention(0.5)
    assert chosen.decode(np.array([2.0])).lambdas == {}
    assert chosen.encode(WANDA, RULES["uniform"].targets(0.5), lam=0.45)[0] == 1


def test_a_fixed_lambda_and_the_damping_have_no_gene():
    data = {"moonshot": {"lambda": 1 / 3}, "damping": 0.1, "solver": {"name": "sparsegpt"}}
    spec = SpaceSpec.model_validate(data | {"sparsity": {"by": "block", "budget": 0.5}})
    chosen = build_space(spec, LAYOUT, RULES)
    assert len(chosen.genes) == 3
    recipe = chosen.decode(genome_of(chosen))
    assert (recipe.lambdas, recipe.default.quadratic.damping) == (_attention(0.333333), 0.1)


def test_genomes_of_one_meaning_are_one_recipe():
    chosen = SPACES["solvers and lambdas"]

    def key(**codes):
        return chosen.decode(genome_of(chosen, **codes)).key

    # SparseGPT chooses by itself: the metric's genes lie idle.
    assert key(solver=2) == key(solver=2, metric=1, metric__1__power__alpha=1.7)
    # A refit of ALPS is ALPS.
    assert key(solver=3) == key(solver=1, solver__1__refit__of=2)
    # Magnitude's mask depends on no lambda, its refit does.
    assert key() == key(moonshot__lambda__block__0=0.7)
    assert key(solver=1) != key(solver=1, moonshot__lambda__block__0=0.7)
    # A lambda of one, and steps that are too fine to matter.
    assert key(solver=2, moonshot__lambda__block__0=0.4) == key(
        solver=2, moonshot__lambda__block__0=0.40001
    )
    ones = {f"moonshot__lambda__block__{i}": 1.0 for i in range(3)}
    assert "quadratic" not in chosen.decode(genome_of(chosen, **ones, solver=2)).to_json()


def test_seeds_try_every_solver_and_lambda_at_its_ends_and_middle():
    chosen = space([POWER], "row", ALL_SOLVERS, {}, by="uniform", budget=0.5)
    recipes = [chosen.decode(genome) for genome in seed_genomes(chosen, METRICS)]
    parts = [(r.default.metric.name, r.default.solver.name, r.lambdas) for r in recipes]
    assert parts == [
        ("wanda", "mask", {}),
        ("ria", "mask", {}),
        ("magnitude", "mask", {}),
        ("wanda", "refit", {}),
        ("own", "sparsegpt", {}),
        ("own", "alps", {}),
        ("wanda", "mask", _attention(0.5)),
        ("wanda", "mask", _attention(0.0)),
    ]


def test_roles_that_the_model_lacks_are_named():
    with pytest.raises(ConfigError, match=r"no 'attn\.k'\. Did you mean 'attn\.q'"):
        space(moonshot={"roles": ["attn.k"]}, by="uniform", budget=0.5)


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
        ({"sparsity": {"steps": 1}}, "sparsity.steps is 1: a layer has at least 2"),
        (
            {"sparsity": {"steps": 16, "low": 0.41, "high": 0.43}},
            "no multiple of 1/16 lies in [0.41, 0.43]",
        ),
        (
            {"sparsity": {"steps": 32, "low": 0.4, "high": 0.8, "budget": 0.79}},
            "sparsity.budget 0.79 lies outside [0.40625, 0.78125], the levels of 32 steps",
        ),
        (
            {"sparsity": {"steps": 32, "by": "block", "options": [0.5]}},
            "both say which sparsities there are",
        ),
        ({"sparsity": {"steps": 4}, "pattern": "n:4"}, "steps of its own, 4 a layer"),
        ({"sparsity": {"steps": 4}, "pattern": "2:4"}, "steps of its own, 4 a layer"),
        ({"pattern": "2:4", "sparsity": {"by": "block"}}, "fixes every layer's N"),
        ({"pattern": "2:4", "sparsity": {"budget": 0.6}}, "has a sparsity of 0.5"),
        ({"pattern": "rows"}, "There are: row, layer, block:128"),
        ({"metric": [{"alpha": 1}]}, "metric.0: has no name"),
        ({"metric": [{"name": "power", "alpha": {"range": [0, 1]}}]}, "a gene is one of"),
        ({"metric": [{"name": "power", "alpha": {"real": [2, 1]}}]}, "low < high"),
        ({"metric": [{"name": "power", "alpha": {"integer": [0.5, 2]}}]}, "integer needs"),
        ({"metric": [{"name": "meta", "x": {"choice": ["a", "a"]}}]}, "lists an option twice"),
        ({"metric": []}, "at least one is needed"),
        ({"solver": []}, "solver: at least one is needed"),
        ({"solver": {"of": "mask"}}, "solver.0: has no name"),
        ({"solver": {"name": "refit", "of": {"options": ["mask"]}}}, "a gene is one of"),
        ({"moonshot": {"low": 0.5, "high": 0.5}}, "Write lambda: 0.5 for a fixed one"),
        ({"moonshot": {"lambda": 1}}, "moonshot.lambda 1 is plain reconstruction"),
        ({"moonshot": {"lambda": 0.5, "by": "role"}}, "0.5 is fixed, so there is nothing"),
        ({"moonshot": {"lambda": 0.5, "high": 0.6}}, "0.5 is fixed, so there is nothing"),
        ({"moonshot": {"roles": []}}, "write attention, all, or a list of"),
        ({"moonshot": {"roles": ["attention", "mlp.up"]}}, "write attention, all, or a list of"),
        (
            {"moonshot": {}, "metric": {"name": "magnitude"}},
            "the metric 'magnitude' reads no inputs",
        ),
        ({"damping": 0.1}, "damping 0.1 changes nothing, since mask moves no weights"),
        (
            {"metric": [WANDA, {"name": "ria"}], "solver": {"name": "sparsegpt"}},
            "metric: its genes change nothing, since sparsegpt chooses by itself",
        ),
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
