"""What reaches `prune_to`, the checkpoint's recipe file says: a field of `How` that is added and
has no expectation here fails."""

import json
from dataclasses import fields, replace

import pytest
from tiny_folders import tiny_folder

from optishear.calibration.origin import Origin
from optishear.recipe.reconstruction import ReconstructionSettings
from optishear.text.sources import TextSpec
from optishear.tools.named import NamedMethod
from optishear.tools.prune import How, prune_to


METHOD = NamedMethod("moonshot-wanda", 0.5)
HOW = How(TextSpec("embedded", "train", 3, 16), gradient_sequences=2)
CHANGES = {
    "calibration": TextSpec("embedded", "train", 3, 16, seed=1),
    "dtype": "bfloat16",
    "save_dtype": "bfloat16",
    "sequential": False,
    "gradient_sequences": 3,
    "batch_tokens": 16,
    "calibration_parts": 2,
    "found_with": Origin(model="elsewhere"),
}
ELSEWHERE = {
    "device": "stands in the file; there is one here",
    "beyond": "is of the recipe, which says it",
    "workers": "changes no bit, and where it would there is nothing to be asked of it",
}


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return tiny_folder("llama", tmp_path_factory.mktemp("dense") / "llama")


def written(dense, folder, how, method=METHOD):
    prune_to(str(dense), method.on, folder, how)
    return json.loads((folder / "optishear_recipe.json").read_text())


@pytest.fixture(scope="module")
def base(dense, tmp_path_factory):
    return written(dense, tmp_path_factory.mktemp("base") / "pruned", HOW)


def test_every_field_has_an_expectation():
    assert {field.name for field in fields(How)} == {*CHANGES, *ELSEWHERE}


def test_the_device_stands_in_the_file(base):
    assert base["made_with"]["device"] == "cpu"


def test_what_goes_beyond_a_recipe_stands_in_it(dense, base, tmp_path):
    settings = ReconstructionSettings("block", epochs=1)
    found = written(dense, tmp_path / "pruned", replace(HOW, beyond={"reconstruct": settings}))
    assert {**found, "reconstruct": None} == {**base, "reconstruct": None}
    assert found["reconstruct"] == {"name": "block", "epochs": 1}


@pytest.mark.parametrize("field", CHANGES)
def test_what_is_asked_for_stands_in_the_file(field, dense, base, tmp_path):
    changes = {field: CHANGES[field]}
    if field == "calibration_parts":  # are of statistics that are not taken block by block
        changes["sequential"] = False
    found = written(dense, tmp_path / "pruned", replace(HOW, **changes))
    assert found["made_with"] != base["made_with"]
    if field not in ("calibration", "sequential"):
        told = found["made_with"][field]
        assert told == (CHANGES[field] if field != "found_with" else {"model": "elsewhere"})


@pytest.mark.parametrize(
    "change",
    [{"sparsity": 0.6}, {"pattern": "layer"}, {"profile": "owl"}, {"refit": True},
     {"moonshot_lambda": 0.4}, {"moonshot_roles": "all"}, {"quadratic": {"damping": 0.1}},
     {"quadratic": {"target_shift": 0.5}}, {"order": "site"}, {"method": "wanda"}],
    ids=str,
)  # fmt: skip
def test_what_a_method_is_asked_for_stands_in_its_recipe(change, dense, base, tmp_path):
    found = written(dense, tmp_path / "pruned", HOW, replace(METHOD, **change))
    assert {**found, "made_with": None} != {**base, "made_with": None}


def test_gradients_of_more_sequences_than_there_are_are_not_claimed(dense, tmp_path):
    found = written(dense, tmp_path / "pruned", replace(HOW, gradient_sequences=16))
    assert found["made_with"]["gradient_sequences"] == 3
