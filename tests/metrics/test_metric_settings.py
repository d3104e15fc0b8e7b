"""What a recipe's file may say of metrics is what their classes take."""

from dataclasses import fields

import pytest

from optishear.errors import ConfigError
from optishear.metrics import METRICS, make_metric
from optishear.recipe.metric_settings import METRIC_SETTINGS
from optishear.recipe.recipe import Recipe


def test_settings_and_their_usual_values_are_those_of_the_classes():
    assert {
        name: {field.name: field.default for field in fields(METRICS[name])}
        for name in METRIC_SETTINGS
    } == {
        name: {key: setting.usual for key, setting in known.items()}
        for name, known in METRIC_SETTINGS.items()
    }


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        ({"name": "wanda", "alpha": 1}, "metric 'wanda' has no setting 'alpha'. It has: none"),
        ({"name": "power", "aplha": 1}, "no setting 'aplha'. Did you mean 'alpha'?"),
        ({"name": "power", "alpha": "big"}, "alpha of metric 'power' is 'big', expected a number"),
        (
            {"name": "power", "mix": 1.5},
            "mix of metric 'power' is 1.5, expected a number in",
        ),
        (
            {"name": "random", "seed": 0.5},
            "seed of metric 'random' is 0.5, expected a whole",
        ),
        ({"name": "meta", "input_transform": "cube"}, "is 'cube'. There are: no_op, sqrt"),
        ({"name": "meta", "input_coefficient": []}, "is []. There are: no_coe"),
        ({"name": "tree", "formula": "mul(W)"}, "mul takes 2 arguments, not 1"),
        ({"name": "tree", "formula": 3}, "formula of metric 'tree' is 3, expected a text"),
    ],
)
def test_a_setting_that_cannot_be_is_told_where_the_file_is_read(metric, sentence):
    said = Recipe.of({"name": "wanda"}, {"a": 1}).to_json()
    with pytest.raises(ConfigError) as raised:
        Recipe.from_json({**said, "metric": metric}, "r.json")
    assert str(raised.value).startswith("r.json: metric: ")
    assert sentence in str(raised.value)
    with pytest.raises(ConfigError):
        make_metric(metric)


def test_a_metric_of_one_s_own_is_left_to_its_class():
    said = Recipe.of({"name": "loudness", "alpha": 2}, {"a": 1}).to_json()
    assert Recipe.from_json(said).default.metric == {"name": "loudness", "alpha": 2}
