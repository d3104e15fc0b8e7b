"""What a recipe may say of a local reconstruction, and what it need not."""

import re
from dataclasses import replace

import pytest

from optishear.errors import ConfigError
from optishear.recipe.canonical import canonical_recipe
from optishear.recipe.features import features, in_one_table
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.recipe.reconstruction import ReconstructionSettings
from optishear.recipe.transfer import transfer


def test_what_is_usual_is_not_said():
    usual = ReconstructionSettings()
    assert usual.to_json() == {"name": "block"}
    assert ReconstructionSettings.of({"name": "block", "epochs": usual.epochs}) == usual
    assert ReconstructionSettings.of({"name": "half"}).window == "half"


def test_what_is_said_is_read_again():
    said = {
        "name": "half",
        "epochs": 4,
        "learning_rate": 1e-3,
        "batch": 2,
        "held_back": 0.3,
        "inputs": "dense",
        "norms": True,
        "seed": 7,
    }
    settings = ReconstructionSettings.of(said)
    assert settings.to_json() == said
    assert ReconstructionSettings.of(settings.to_json()) == settings


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"name": "blok"}, "no window is called 'blok'. Did you mean 'block'?"),
        ({}, "no window is called None"),
        ({"name": "block", "epoch": 3}, "no setting epoch. Did you mean 'epochs'?"),
        ({"name": "block", "epochs": 0}, "epochs is 0, expected a whole number in [1"),
        ({"name": "block", "epochs": 2.5}, "epochs is 2.5, expected a whole number"),
        ({"name": "block", "learning_rate": float("nan")}, "learning_rate is nan"),
        ({"name": "block", "learning_rate": 0}, "learning_rate is 0"),
        ({"name": "block", "learning_rate": 10**400}, "learning_rate is 1000"),
        ({"name": "block", "held_back": 1.0}, "held_back is 1.0"),
        ({"name": "block", "held_back": True}, "held_back is True"),
        ({"name": "block", "inputs": "both"}, "inputs is 'both'. There are: pruned, dense."),
        ({"name": "block", "norms": 1}, "norms is 1, expected true or false"),
        ({"name": "block", "seed": -1}, "seed is -1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(said, told):
    with pytest.raises(ConfigError) as error:
        ReconstructionSettings.of(said, "reconstruct")
    assert str(error.value).startswith("reconstruct: ")
    assert told in str(error.value)


def test_a_command_line_says_it_as_it_says_rules():
    settings = ReconstructionSettings.parsed("half:epochs=4:learning_rate=1e-3:norms=true", "-r")
    assert settings == ReconstructionSettings("half", 4, 1e-3, norms=True)
    assert ReconstructionSettings.parsed("block", "-r") == ReconstructionSettings()
    for text, told in {
        "block:epochs": "epochs is '', expected a whole number",
        "block:epochs=3:epochs=4": "says a setting twice",
        "block:epochs=many": "epochs is 'many'",
        "none:epochs=3": "no window is called 'none'",
    }.items():
        with pytest.raises(ConfigError, match=re.escape(told)):
            ReconstructionSettings.parsed(text, "--reconstruct")


PLAIN = Recipe.of({"name": "wanda"}, {"model.layers.0.q": 12, "model.layers.1.q": 6})
MOVED = replace(PLAIN, reconstruct=ReconstructionSettings(epochs=7))


def test_a_recipe_says_it_only_where_it_has_one():
    assert "reconstruct" not in PLAIN.to_json()
    assert MOVED.to_json() == {
        **PLAIN.to_json(),
        "reconstruct": {"name": "block", "epochs": 7},
    }
    assert Recipe.from_json(MOVED.to_json()) == MOVED
    keys = {PLAIN.key, MOVED.key, replace(PLAIN, reconstruct=ReconstructionSettings()).key}
    assert len(keys) == 3
    for said in ("block", {"epochs": 3}, {"name": "block", "epochs": -1}):
        with pytest.raises(ConfigError, match=r"a\.json: reconstruct"):
            Recipe.from_json({**PLAIN.to_json(), "reconstruct": said}, "a.json")


def test_what_is_done_to_recipes_leaves_it_there():
    layers = [Layer(name, int(name[13]), "q", 6, 4, name) for name in PLAIN.drop]
    layout = ModelLayout(tuple(layers))
    assert canonical_recipe(MOVED, layers) == MOVED
    assert transfer(MOVED, layout, layout).recipe == MOVED
    assert MOVED.only_by_block() == MOVED.only_by_block(around=True) == ["a local reconstruction"]
    rows = in_one_table([features(PLAIN, layout), features(MOVED, layout)], layout)
    assert [row["reconstruct"] for row in rows] == ["none", "block"]
    assert rows[1]["reconstruct.epochs"] == 7
