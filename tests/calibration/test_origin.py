"""What files say of where a recipe was found: read back as it was written, or a sentence."""

import json
from dataclasses import asdict, fields, replace

import pytest

from optishear.calibration.origin import (
    BYTES,
    Around,
    ImportedFrom,
    Origin,
    TransferredFrom,
    read_recipe,
    write_recipe,
)
from optishear.errors import ConfigError
from optishear.recipe.recipe import Recipe
from optishear.text.sources import TextSpec


TEXT = TextSpec("sotu", "train", 8, 64, "words", 3, "window", (24, 91))
SAID = json.loads(json.dumps(asdict(TEXT)))
AROUND = Around(Recipe.of({"name": "ria"}, {"layer": 4}, order="site"), 4)
WHOLE = Origin(
    "tiny", "abc", "bfloat16", "cpu", TEXT, "ccc", 512, 2, 4, "one-shot", AROUND, "levels 2", "rrr",
    TransferredFrom("run", "key", "big", "ddd"),
    ImportedFrom("levels.txt", "evopress"),
    "stored",
    Origin("big", "ddd"),
    "0123", "4567",
)  # fmt: skip
RECIPE = Recipe.of({"name": "wanda"}, {"layer": 3})


def test_what_is_written_is_read_back(tmp_path):
    assert None not in [getattr(WHOLE, field.name) for field in fields(Origin)]
    for origin in (WHOLE, Origin()):
        write_recipe(tmp_path / "recipe.json", RECIPE, origin)
        assert read_recipe(tmp_path / "recipe.json") == (RECIPE, origin)


def test_what_nobody_knows_is_not_in_the_file():
    assert Origin("tiny", calibration=TEXT).to_json().keys() == {"model", "calibration"}


@pytest.mark.parametrize(
    ("model", "commit", "pinned"),
    [
        ("org/tiny", "abc", "org/tiny@abc"),
        ("org/tiny@v1", "abc", "org/tiny@abc"),
        ("org/tiny", None, "org/tiny"),
        ("embedded", None, "embedded"),
        ("/a/snapshots/abc", "abc", "/a/snapshots/abc"),
        (None, None, None),
    ],
)
def test_a_model_of_the_hub_is_had_again_at_its_commit(model, commit, pinned):
    assert Origin(model, model_commit=commit).pinned_model == pinned


def test_a_file_of_an_older_version_says_less():
    """Fronts had these keys alone, and a text without a field, in which there was no BOS."""
    text = {"source": "sotu", "split": "train", "sequences": 8, "seq_len": 64, "seed": 3}
    old = {"model": "tiny", "model_hash": "abc", "dtype": "float32", "calibration": text}
    found = Origin.from_json({**old, "calibration_hash": "ccc", "run": "rrr"}, "x")
    assert found.lacks("model", "calibration", *BYTES) == [
        "device", "save_dtype", "batch_tokens", "calibration_parts", "gradient_sequences", "mode",
        "around", "code",
    ]  # fmt: skip
    assert found.calibration == replace(TEXT, field="text", bos="none", after=())


@pytest.mark.parametrize("name", BYTES)
def test_another_value_of_what_the_bytes_depend_on_differs_and_one_that_is_unknown_does_not(name):
    value = getattr(WHOLE, name)
    changed = replace(AROUND, gradient_sequences=3) if name == "around" else value + value
    other, without = (replace(WHOLE, **{name: said}) for said in (changed, None))
    assert WHOLE.differs(other, *BYTES) == other.differs(WHOLE, *BYTES) == [name]
    assert WHOLE.differs(without, *BYTES) == ([name] if name == "around" else [])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"model": "moved/tiny", "dtype": "float32"}, None),
        ({"model_hash": None, "calibration_hash": None}, None),
        (
            {"model": "big", "model_hash": "ddd"},
            "the recipe was found on tiny with the hash abc, and is applied to big with ddd",
        ),
        (
            {"calibration": replace(TEXT, seed=0), "calibration_hash": "eee"},
            "the recipe was found with the calibration tokens ccc (sotu/train, 8 x 64, seed 3), "
            "and is applied with eee (sotu/train, 8 x 64, seed 0)",
        ),
    ],
)
def test_a_recipe_that_goes_elsewhere_is_told_in_one_line(changes, said):
    assert WHOLE.elsewhere(replace(WHOLE, **changes)) == said


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ([], "made_with: is list, not an object"),
        ({"modell": "tiny"}, "unknown key 'modell'. Did you mean 'model'?"),
        ({"model": 3}, "made_with.model: is 3, not str"),
        ({"batch_tokens": True}, "made_with.batch_tokens: is True, not int"),
        ({"calibration": {"source": "sotu"}}, "made_with.calibration: does not say split"),
        ({"calibration": {**SAID, "split": "trian"}}, "Did you mean 'train'?"),
        ({"calibration": {**SAID, "bos": "first"}}, "No place of a BOS is called 'first'"),
        ({"calibration": {**SAID, "after": 24}}, "made_with.calibration.after: is 24, not a list"),
        ({"calibration": {**SAID, "after": [2.5]}}, "calibration.after: is 2.5, not int"),
        (
            {"around": {"recipe": {"format": "x"}}},
            "made_with.around.recipe: format is 'x', this version reads",
        ),
        ({"found_with": {"model": []}}, "made_with.found_with.model: is [], not str"),
    ],
)
def test_what_is_no_origin_is_one_sentence_with_the_file(tmp_path, said, sentence):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({**RECIPE.to_json(), "made_with": said}))
    with pytest.raises(ConfigError) as raised:
        read_recipe(path)
    assert str(raised.value).startswith(f"{path}: made_with")
    assert sentence in str(raised.value)
