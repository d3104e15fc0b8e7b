"""Damping and target shift as settings and genes of a space, for all layers and by role."""

import numpy as np
import pytest
from layouts import small_layout

from optishear.calibration.statistics import Cross, Gram
from optishear.config.reach import needs_of_space
from optishear.errors import ConfigError
from optishear.recipe.layer_keys import layer_key, layer_keys
from optishear.recipe.profile import Rule
from optishear.recipe.reconstruction import ReconstructionSettings
from optishear.search.levels import levels_of
from optishear.search.space_file import SpaceSpec, build_space


LAYOUT = small_layout(blocks=2, scale=4)
RULES = {"uniform": Rule(dict.fromkeys(LAYOUT.sizes, 1.0), dict.fromkeys(LAYOUT.sizes, 0.0))}
REFIT = {"name": "refit"}
HALF = {"by": "uniform", "budget": 0.5}


def spec(**said):
    return SpaceSpec.model_validate({"solver": REFIT, "sparsity": HALF, **said})


def space(**said):
    return build_space(spec(**said), LAYOUT, RULES)


def settings_of(chosen, **codes):
    codes = {name.replace("__", "."): code for name, code in codes.items()}
    genome = np.array([codes.get(gene.name, gene.low) for gene in chosen.genes])
    recipe = chosen.decode(genome)
    return {layer.role: recipe.at(layer).quadratic.unusual for layer in LAYOUT.layers}


def test_genes_and_settings_for_all_layers():
    chosen = space(target_shift={"real": [0, 1]}, damping={"choice": [0.01, 0.1]})
    assert [gene.name for gene in chosen.genes] == ["damping", "target_shift"]
    plain = settings_of(chosen)
    assert plain == {"attn.q": {}, "mlp.down": {}}
    found = settings_of(chosen, target_shift=0.1234567, damping=1)
    assert found["mlp.down"] == {"damping": 0.1, "target_shift": 0.123457}
    assert space(target_shift=0.5, damping={"real": [0.01, 0.1]}).genes[0].name == "damping"


def test_every_candidate_is_reconstructed_as_the_space_says():
    genes = {"target_shift": {"real": [0, 1]}}
    assert space(**genes).decode(np.zeros(1)).reconstruct is None
    for said in ("half:epochs=2", {"name": "half", "epochs": 2}):
        chosen = space(**genes, reconstruct=said)
        expected = ReconstructionSettings("half", epochs=2)
        assert chosen.decode(np.zeros(1)).reconstruct == expected
        made = spec(**genes, reconstruct=said)
        assert made.only_by_block(around=False) == ["target_shift", "reconstruct"]
        assert made.model_dump()["reconstruct"] == {"name": "half", "epochs": 2}
    with pytest.raises(ConfigError, match=r"reconstruct: no window is called 'blok'. Did you mean"):
        spec(reconstruct="blok")
    with pytest.raises(ConfigError, match="reconstruct: there is no setting epoch"):
        spec(reconstruct={"name": "block", "epoch": 2})


def test_a_role_has_its_own_or_the_others():
    chosen = space(
        target_shift={"real": [0.25, 1]},
        roles={"mlp.*": {"target_shift": {"choice": [0, 0.5]}, "damping": 0.2}},
    )
    name = "roles.mlp.*.target_shift"
    assert [gene.name for gene in chosen.genes] == ["target_shift", name]
    found = settings_of(chosen, target_shift=0.75, **{name: 1})
    assert found == {
        "attn.q": {"target_shift": 0.75},
        "mlp.down": {"target_shift": 0.5, "damping": 0.2},
    }
    followers = dict(zip([g.name for g in chosen.genes], chosen.gene_layers, strict=True))
    assert {layer.role for layer in followers[name]} == {"mlp.down"}


def test_the_order_is_that_of_every_recipe():
    chosen = space(order="site", damping={"real": [0.01, 0.1]})
    assert chosen.decode(np.array([0.02])).order == "site"


def test_every_layer_of_every_recipe_is_one_of_the_levels():
    chosen = space(
        damping={"choice": [0.01, 0.1]}, sparsity={"by": "layer", "budget": 0.5, "steps": 4}
    )
    keys = {layer_key(recipe, layer) for layer, recipe in levels_of(chosen)}
    generator = np.random.default_rng(0)
    for _ in range(20):
        low, high = (np.array([getattr(g, end) for g in chosen.genes]) for end in ("low", "high"))
        recipe = chosen.decode(low + generator.random(len(low)) * (high - low))
        assert set(layer_keys(recipe, LAYOUT.layers).values()) <= keys
    assert levels_of(space(damping={"real": [0.01, 0.1]})) is None


def test_what_only_block_by_block_knows_and_what_is_read():
    assert spec().only_by_block(around=False) == []
    assert spec(target_shift={"choice": [0, 0.5]}).only_by_block(around=False) == ["target_shift"]
    assert spec(order="site", target_shift=0.5).only_by_block(around=False) == [
        "target_shift",
        "order: site",
    ]
    assert spec(roles={"mlp.*": {"target_shift": 1}}).only_by_block(around=False) == [
        "target_shift"
    ]
    assert Cross not in needs_of_space(spec())
    assert {Cross, Gram} <= needs_of_space(spec(target_shift={"choice": [0, 0.5]}))


def test_what_is_usual_is_written_as_it_was():
    assert (
        not {"damping", "target_shift", "order"}
        & spec(target_shift=0, damping=0.01).model_dump().keys()
    )
    said = {"target_shift": {"real": [0, 1]}, "order": "site"}
    written = spec(**said).model_dump(mode="json")
    assert {key: written[key] for key in said} == said
    assert SpaceSpec.model_validate(written) == spec(**said)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"target_shift": 1.5}, r"target_shift is 1\.5, expected a share"),
        ({"damping": {"real": [0.1, 2]}}, r"damping is 2(\.0)?, expected"),
        ({"target_shift": {"choice": ["auto", 0.1]}}, "target_shift is .auto., expected"),
        ({"target_shift": {"reel": [0, 1]}}, "target_shift: a gene is one of"),
        ({"roles": {"mlp.*": {"target_shift": -1}}}, r"target_shift is -1(\.0)?, expected"),
        ({"solver": {"name": "mask"}, "damping": {"real": [0, 1]}}, "changes nothing"),
        (
            {"solver": {"name": "mask"}, "metric": {"name": "magnitude"}, "order": "site"},
            "order site changes nothing",
        ),
    ],
)
def test_bad_values_are_a_sentence(said, sentence):
    with pytest.raises(ConfigError, match=sentence):
        spec(**said)


def test_a_shifted_mask_reads_the_damping():
    assert space(solver={"name": "mask"}, target_shift=0.5, damping={"real": [0, 1]}).genes
