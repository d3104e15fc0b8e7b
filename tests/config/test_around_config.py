"""An experiment around a recipe: how it is given, what goes with it, and the rounds after it."""

import json
from pathlib import Path

import pytest
import yaml
from small_experiment import CHECKED

from optishear.calibration.statistics import Cross
from optishear.config import load_experiment
from optishear.errors import ConfigError
from optishear.recipe.recipe import Recipe
from optishear.runs.rounds import in_rounds, next_round


RECIPE = Recipe.of({"name": "wanda"}, {"a": 3, "b": 4}, "row", {"name": "refit", "of": "mask"})
HALF = {"name": "refit", "of": "mask"}
GUIDED = Recipe.of({"name": "wanda"}, {"a": 3}, "row", HALF, {"name": "guided", "groups": 1})
MIXED = Recipe.of(
    {"name": "wanda"}, {"a": 3}, "row", HALF, {"name": "moonshot", "lambda": {"a": 0.5}}
)
MASK = Recipe.of({"name": "given", "hash": "abc"}, {"a": 3}, "layer")
SPACE = {
    "metric": {"name": "wanda"},
    "solver": {"name": "refit", "of": "mask"},
    "sparsity": {"by": "block", "budget": 0.5, "steps": 8, "low": 0.25, "high": 0.75},
}


def experiment(folder, space=SPACE, settings=(), **changes):
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**CHECKED, "space": space, **changes}))
    return load_experiment(str(path), settings)


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "found" / "best.json"
    path.parent.mkdir()
    path.write_text(json.dumps(RECIPE.to_json()))
    return path


def test_a_path_beside_the_file_a_path_from_here_or_the_recipe_itself(recipe_file, tmp_path):
    ways = ("found/best.json", str(recipe_file), RECIPE.to_json())
    found = [experiment(tmp_path, around=way) for way in ways]
    found.append(experiment(tmp_path, settings=[f"around={json.dumps(RECIPE.to_json())}"]))
    assert {each.hash for each in found} == {found[0].hash}
    assert {each.around_recipe.key for each in found} == {RECIPE.key}
    plain = experiment(tmp_path)
    assert plain.around_recipe is None
    assert plain.hash != found[0].hash
    assert "around" not in plain.model_dump()


def test_another_recipe_is_another_experiment(tmp_path):
    keys = [
        experiment(tmp_path, around={**RECIPE.to_json(), "drop": {"a": n}}).hash for n in (1, 2)
    ]
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"around": "nowhere.json"},
            "mine.yaml: around: nowhere.json: there is no such recipe",
        ),
        ({"around": str(Path(__file__).parent)}, "is a folder, expected a recipe's file. Of a run"),
        ({"around": GUIDED.to_json()}, "around: the recipe is guided"),
        ({"around": MASK.to_json()}, "around: the recipe keeps what a mask keeps"),
        ({"around": MIXED.to_json()}, "gradient_sequences is 16, and text.calibration has 4"),
        ({"around": {"format": "x"}}, "around: format is 'x'"),
        ({"around": 3}, "around: is 3, expected the path of a recipe's file"),
        ({"mode": "sequential"}, "around is given, but mode is sequential"),
        ({"search": {"seeds": ["knapsack"]}}, "around is given, but seeds or driver knapsack"),
        ({"search": {"driver": "knapsack"}}, "go by curves of layers that are pruned alone"),
        ({"search": {"variation": "guided"}}, "go by curves of layers that are pruned alone"),
    ],
)
def test_what_cannot_be_is_a_sentence(changes, sentence, tmp_path):
    with pytest.raises(ConfigError) as error:
        experiment(tmp_path, **{"around": RECIPE.to_json(), **changes})
    assert sentence in str(error.value)


def test_around_a_recipe_nothing_would_change_where_nobody_reads_inputs(tmp_path):
    blind = {**SPACE, "metric": {"name": "magnitude"}, "solver": {"name": "mask"}}
    with pytest.raises(ConfigError, match=r"around is given, but nothing in the space goes by"):
        experiment(tmp_path, blind, around=RECIPE.to_json())
    experiment(tmp_path, {**blind, "solver": HALF}, around=RECIPE.to_json())


def test_around_a_recipe_a_shift_and_an_order_can_be_searched_and_no_reconstruction(tmp_path):
    shifted = {**SPACE, "target_shift": {"choice": [0, 0.5]}, "order": "site"}
    with pytest.raises(ConfigError, match=r"target_shift, order: site: of no meaning .* dense"):
        experiment(tmp_path, shifted)
    found = experiment(tmp_path, shifted, around=RECIPE.to_json())
    assert Cross in found.needs
    with pytest.raises(
        ConfigError, match=r"reconstruct: of no meaning .* at once.* take out around"
    ):
        experiment(tmp_path, {**SPACE, "reconstruct": {"name": "block"}}, around=RECIPE.to_json())


def test_baselines_with_a_shift_are_read_for_around_a_recipe(tmp_path):
    for around, reads in ((None, False), (RECIPE.to_json(), True)):
        more = {} if around is None else {"around": around}
        found = experiment(tmp_path, baselines=["optima-shifted"], **more)
        assert (Cross in found.needs) == reads


def test_the_next_round_is_around_the_pick_at_half_the_step(tmp_path):
    seeds = {"seeds": ["methods", "knapsack", "gradient"], "variation": "guided"}
    first = experiment(tmp_path, search=seeds)
    second = next_round(first, RECIPE)
    third = next_round(second, RECIPE.with_drop({"a": 4, "b": 3}))
    assert [each.space.sparsity.steps for each in (first, second, third)] == [8, 16, 32]
    assert second.search.seeds == ("methods", "gradient")
    assert second.search.variation == "free"
    assert second.around_recipe == RECIPE
    assert len({first.hash, second.hash, third.hash}) == 3
    assert (second.name, second.model, second.pick) == (first.name, first.model, first.pick)
    without = {**SPACE, "sparsity": {"by": "block", "budget": 0.5}}
    assert next_round(experiment(tmp_path, without), RECIPE).space.sparsity.steps is None


def test_what_has_no_next_round_is_said_before_the_first(tmp_path):
    def never(_experiment):
        raise AssertionError("was searched")

    for changes, shared, sentence in (
        ({"search": {"driver": "knapsack"}}, False, "--rounds: the driver knapsack goes by curves"),
        ({"mode": "sequential"}, False, "--rounds: mode is sequential"),
        ({}, True, "--rounds with --study: every process picks by itself"),
    ):
        found = experiment(tmp_path, **changes)
        with pytest.raises(ConfigError, match=sentence):
            next(in_rounds(found, 2, never, shared))
