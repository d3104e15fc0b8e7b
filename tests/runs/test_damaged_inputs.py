"""Files that commands are given, damaged or edited: read, or refused in one sentence."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import small_layout
from mutations import mutated
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from optishear.calibration.origin import Origin, read_recipe, write_recipe
from optishear.errors import ConfigError
from optishear.export.checkpoint import RECIPE_FILE
from optishear.interchange.evopress import grid_file, read_grid
from optishear.interchange.masks import KEY, read_masks, write_masks
from optishear.models.folder import _config, _weight_files
from optishear.recipe.features import features
from optishear.recipe.recipe import Recipe
from optishear.text.sources import TextSpec
from optishear.tools.prune import holds


LAYOUT = small_layout()
QUADRATIC = {"name": "moonshot", "lambda": {LAYOUT.layers[0].name: 0.5}, "damping": 0.01}
METRIC = {"name": "power", "alpha": 1.0}
RECIPE = Recipe.of(METRIC, dict.fromkeys(LAYOUT.sizes, 2), "row", {"name": "mask"}, QUADRATIC)
ORIGIN = Origin(
    model="embedded",
    model_hash="abc",
    dtype="float32",
    calibration=TextSpec("sotu", "train", 4, 64),
    calibration_hash="c",
    mode="sequential",
)


def recipe_file(folder):
    write_recipe(folder / RECIPE_FILE, RECIPE, ORIGIN)
    return folder / RECIPE_FILE


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"\xff\xfe", b"null", b'{"format": "optishear-recipe/1"}', b"[" * 100_000],
)
def test_a_damaged_recipe_in_the_folder_to_write_to_is_one_sentence(content, tmp_path):
    path = recipe_file(tmp_path)
    path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        holds(tmp_path, RECIPE, ORIGIN)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_is_changed_in_a_recipe_is_read_or_refused(tmp_path_factory, data):
    path = recipe_file(tmp_path_factory.mktemp("r"))
    path.write_text(data.draw(mutated(json.loads(path.read_text()))))
    try:
        recipe, _ = read_recipe(path)
    except ConfigError as error:
        assert str(path) in str(error)  # noqa: PT017
        return
    try:
        recipe.check(LAYOUT)
    except ConfigError:
        return
    features(recipe, LAYOUT)
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))).key == recipe.key


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_is_changed_in_the_head_of_a_mask_file_is_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("m") / "masks.safetensors"
    masks = {x.name: torch.ones(x.out_features, x.in_features).bool() for x in LAYOUT.layers}
    write_masks(path, masks, ORIGIN, "key")
    with safe_open(path, framework="pt") as file:
        says = json.loads(file.metadata()[KEY])
    save_file(load_file(path), path, {KEY: data.draw(mutated(says))})
    try:
        read_masks(path, LAYOUT, "abc")
    except ConfigError as error:
        assert str(path) in str(error)  # noqa: PT017


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_is_changed_beside_evopress_levels_is_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("e") / "levels.txt"
    says = {"format": "optishear-evopress/1", "sparsity": 0.5, "weights_diff": 4, "num_levels": 8}
    grid_file(path).write_text(data.draw(mutated(says)))
    try:
        read_grid(path, None, None)
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("read", [_config, _weight_files])
@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "null",
        '{"model_type": 3}',
        "[" * 100_000,
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": "../other/model.safetensors"}}',
        '{"weight_map": []}',
    ],
)
def test_a_damaged_configuration_or_index_of_a_model_is_one_sentence(read, content, tmp_path):
    name = "config.json" if read is _config else "model.safetensors.index.json"
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")) as raised:
        read(tmp_path)
    assert "\n" not in str(raised.value)
