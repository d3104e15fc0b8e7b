"""Finalists in numbers: which one was picked, and whether the two modes rank them alike."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from optishear.recipe.recipe import Recipe
from optishear.report.finalists import finalists_text, ordinal
from optishear.search.finalists import Finalist, Finalists, rank_correlation


def finalists(one_shot, by_block, picked=0):
    recipes = [Recipe.of({"name": "wanda"}, {"a": n + 1}, "row") for n in range(len(one_shot))]
    entries = tuple(
        Finalist(recipe, {"kl": x}, None if y is None else {"kl": y}, "" if y else "singular")
        for recipe, x, y in zip(recipes, one_shot, by_block, strict=True)
    )
    return Finalists("kl", entries, recipes[picked].key)


@given(
    st.lists(
        st.tuples(st.integers(0, 5).map(float), st.floats(-1e6, 1e6)), min_size=3, max_size=9
    ).filter(lambda pairs: all(len(set(values)) > 1 for values in zip(*pairs)))
)
def test_the_correlation_is_spearmans(pairs):
    one, other = zip(*pairs)
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)


def test_there_is_no_correlation_of_two_nor_of_what_is_all_the_same():
    assert finalists([1.0, 2.0], [2.0, 1.0]).correlation is None
    assert finalists([1.0, 2.0, 3.0], [2.0, 1.0, None]).correlation is None
    assert finalists([1.0, 1.0, 1.0], [2.0, 1.0, 3.0]).correlation is None
    assert finalists([1.0, 2.0, 3.0], [2.0, 1.0, 3.0]).correlation == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (
            finalists([1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 3.0, 4.0], picked=1),
            "4 finalists re-measured block by block: rank correlation of kl 0.80; the pick was 2nd "
            "one-shot.",
        ),
        (
            finalists([1.0, 2.0, 3.0], [None, 3.0, 2.0], picked=2),
            "3 finalists re-measured block by block (1 failed): the pick was 3rd one-shot.",
        ),
        (
            finalists([1.0], [2.0]),
            "1 finalist re-measured block by block: the pick was 1st one-shot.",
        ),
    ],
)
def test_what_is_said_of_them(told, text):
    assert finalists_text(told) == text


def test_places_are_said_as_people_do():
    said = [ordinal(number) for number in (1, 2, 3, 4, 11, 12, 13, 21, 22, 111)]
    assert said == ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "111th"]


def test_a_file_gives_them_back():
    told = finalists([1.0, 2.0, 3.0], [None, 3.0, 2.0], picked=2)
    data = json.loads(json.dumps(told.to_json()))
    assert Finalists.from_json(data) == told
    assert (data["measured"], data["correlation"]) == (2, None)
    assert (told.place, told.final) == (3, told.entries[2])
