"""Rules with settings as files and command lines write them: read alike, or refused where read."""

import pytest

from optishear.errors import ConfigError
from optishear.recipe.rule_settings import parse_rule
from optishear.search.space_parts import SparsitySpec


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("owl", "owl"),
        ({"name": "owl"}, "owl"),
        ("owl:m=7:lambda=0.05", "owl:lambda=0.05:m=7.0"),
        ({"name": "owl", "m": 7, "lambda": 0.05}, "owl:lambda=0.05:m=7.0"),
        ("owl:lambda=0.08", "owl"),  # as usual, so the same key
        ("alphapruning:epsilon=0.25", "alphapruning:epsilon=0.25"),
    ],
)
def test_text_and_mapping_are_one_rule_and_usual_values_are_none(data, text):
    found = parse_rule(data, "here")
    assert found.text == text
    assert parse_rule(found.text, "here") == found
    assert SparsitySpec(by=data).by == text


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"name": "owk"}, "Did you mean 'owl'"),
        ({"name": "owl", "lamda": 0.1}, "rule 'owl' has no setting 'lamda'. Did you mean 'lambda'"),
        ("uniform:m=3", "rule 'uniform' has no setting 'm'. It has: none"),
        ("owl:lambda=0.8", r"lambda of rule 'owl' is 0.8, expected a number in \[0, 0.5\]"),
        ("alphapruning:epsilon=nan", "epsilon of rule 'alphapruning' is nan"),
        ({"name": "owl", "m": True}, "m of rule 'owl' is True"),
        ("owl:7", "'7' is no setting. Write it as NAME=NUMBER"),
        ("owl:m=1:m=2", "says a setting twice"),
    ],
)
def test_what_a_rule_cannot_be_told_is_refused_by_every_reader(data, sentence):
    for read in (lambda: parse_rule(data, "here"), lambda: SparsitySpec(by=data)):
        with pytest.raises(ConfigError, match=sentence):
            read()
