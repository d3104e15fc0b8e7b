"""A baseline's name: which method, on which pattern, at which profile."""

import pytest

from optishear.config.baselines import parse_baseline
from optishear.errors import ConfigError
from optishear.recipe.patterns import Patterns
from optishear.solvers.methods import METHODS


@pytest.mark.parametrize(
    ("name", "searched", "pattern"),
    [
        ("wanda", "layer", "row"),
        ("wanda", "row", "row"),
        ("magnitude", "row", "layer"),
        ("sparsegpt@owl", "layer", "block:128"),
        ("wanda:layer", "row", "layer"),
        ("wanda:layer@owl", "block:64", "layer"),
        ("sparsegpt:block:64@alphapruning", "row", "block:64"),
        ("wanda", "n:4", "n:4"),  # what hardware asks for is no choice of a method's
        ("wanda:row", "n:4", "row"),
    ],
)
def test_a_name_is_the_published_method_unless_it_says_otherwise(name, searched, pattern):
    found = parse_baseline(name).patterns_beside(Patterns.over(searched))
    assert found.text == pattern


def test_the_parts_of_a_name_are_told_apart():
    found = parse_baseline("sparsegpt:block:64@owl")
    assert (found.method, found.rule) == (METHODS["sparsegpt"], "owl")
    assert parse_baseline("alps").rule == "uniform"
    assert parse_baseline("wanda:row@owl:m=7:lambda=0.08").rule == "owl:m=7.0"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("wnada:row", "Did you mean 'wanda'"),
        ("wanda:rows", "'rows' is unknown"),
        ("wanda:row@owk", "Did you mean 'owl'"),
        ("wanda@owl:n=7", "baseline wanda@owl:n=7: rule 'owl' has no setting 'n'"),
    ],
)
def test_a_wrong_part_is_refused(name, sentence):
    with pytest.raises(ConfigError, match=sentence):
        parse_baseline(name)
