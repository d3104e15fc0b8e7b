"""What a recipe may say of a local reconstruction, and what it need not."""

import pytest

from optishear.errors import ConfigError
from optishear.recipe.reconstruction import ReconstructionSettings


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
    assert settings.norms
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
