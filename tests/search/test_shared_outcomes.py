"""What other processes wrote into a shared study: read, or refused in a sentence."""

import json

import pytest
from optuna.storages import InMemoryStorage

from optishear.errors import ConfigError
from optishear.search.shared_study import OUTCOME, SharedStudy


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON"),
        (json.dumps([1]), "is list"),
        (json.dumps({"reason": "", "seconds": 1.0, "recipe": {}}), "values is missing"),
        ('{"values": {"kl": NaN}, "reason": "", "seconds": 1.0, "recipe": {}}', "NaN"),
    ],
)
def test_an_outcome_that_is_none_names_its_recipe_and_the_study(text, sentence):
    shared = SharedStudy(InMemoryStorage(), "mine", 1, {"model": "abc"}, 4)
    shared.study.set_user_attr(f"{OUTCOME}64 0123", text)
    with pytest.raises(ConfigError, match=rf"recipe 0123 of the shared study: .*{sentence}"):
        len(shared)
