"""`--pick` finds what was meant or says why not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optishear.errors import ConfigError
from optishear.search.pick import parse_number, parse_pick


ROWS = [
    {"sparsity": 0.50, "perplexity": 10.0, "accuracy": 0.70, "bytes": 8e9},
    {"sparsity": 0.59999995, "perplexity": 12.0, "accuracy": 0.68, "bytes": 6e9},
    {"sparsity": 0.70, "perplexity": 24.0, "accuracy": 0.50, "bytes": 4.2e9},
    {"sparsity": 0.80, "perplexity": 90.0, "accuracy": 0.30, "bytes": 3e9},
]
MINIMISE = {"perplexity": True, "sparsity": False, "accuracy": False}


def chosen(text, rows=ROWS, prefer="perplexity", objectives=("perplexity", "sparsity")):
    return parse_pick(text).choose(rows, prefer, MINIMISE, objectives)


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("knee", 2),
        ("lowest:perplexity", 0),
        ("highest: perplexity", 3),
        ("lowest:accuracy", 3),
        ("sparsity>=0.6", 1),
        ("sparsity >= 60%", 1),
        ("sparsity>0.6", 2),
        ("sparsity>=0.6,perplexity<=25", 1),
        ("sparsity>0.6 , perplexity<=25", 2),
        ("bytes<=4.2GB", 2),
        ("bytes<4.2gb", 3),
        ("bytes<4GiB", 2),
        ("bytes>=1e9,bytes<=3.5e9", 3),
        ("sparsity=0.7", 2),
        ("sparsity==70%", 2),
        ("sparsity=0.6", 1),
        ("perplexity<=25,lowest:bytes", 2),
        ("highest:accuracy,sparsity>=0.6", 1),
        ("knee,perplexity<=12.5", 0),
        ("nearest:sparsity=0.72", 2),
        ("nearest: sparsity=61% perplexity = 13", 1),
        ("nearest:bytes=4GB,perplexity<=12", 1),
    ],
)
def test_a_pick_means_what_it_says(text, index):
    assert chosen(text) == index


def test_without_a_rule_the_best_in_what_is_preferred_wins():
    assert chosen("sparsity>=0.6", prefer="perplexity") == 1
    assert chosen("sparsity>=0.6", prefer="bytes") == 3
    assert chosen("perplexity<=25", prefer="accuracy") == 0  # maximised


def test_the_knee_follows_the_directions_of_the_objectives():
    rows = [{"up": up, "down": down} for up, down in ((0.0, 0.0), (0.9, 0.2), (1.0, 1.0))]
    pick = parse_pick("knee")
    assert pick.choose(rows, "down", {"up": False, "down": True}, ("up", "down")) == 1
    assert pick.choose(rows, "down", {"up": True, "down": True}, ("up", "down")) == 0


def test_nearest_counts_each_quantity_in_units_of_its_spread():
    rows = [{"x": 0.0, "y": 0.0, "z": 1.0}, {"x": 1.0, "y": 900.0, "z": 1.0},
            {"x": 0.1, "y": 1000.0, "z": 1.0}]  # fmt: skip
    assert chosen("nearest:x=1 y=1000", rows=rows, prefer="x", objectives=("x", "y")) == 1
    assert chosen("nearest:z=7 x=0.09", rows=rows, prefer="x", objectives=("x", "y")) == 2


@pytest.mark.parametrize("text", ["nearest:sparsity", "nearest:0.5", "nearest:", "nearest:x=1 y"])
def test_a_point_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="nearest:sparsity=60%"):
        parse_pick(text)


def test_a_point_in_what_was_not_recorded_is_refused():
    with pytest.raises(ConfigError, match="no quantity 'kl'"):
        chosen("nearest:kl=0.4")


def test_equal_means_within_a_thousandth():
    rows = [{"x": 2.0021, "perplexity": 1.0}, {"x": 1.9981, "perplexity": 2.0}]
    assert chosen("x=2", rows=rows) == 1
    assert chosen("x=0", rows=[{"x": 1e-5, "perplexity": 1.0}, {"x": 1e-7, "perplexity": 2.0}]) == 1


def test_ties_go_to_the_first():
    assert chosen("lowest:perplexity", rows=[ROWS[1], ROWS[0], ROWS[0]]) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.6", 0.6), (".5", 0.5), ("3.", 3.0), ("-2", -2.0), ("60%", 0.6), ("12.5 %", 0.125),
        ("1e9", 1e9), ("1E-3", 1e-3), ("4.2GB", 4.2e9), ("4.2 gb", 4.2e9), ("512MB", 5.12e8),
        ("10KB", 1e4), ("7B", 7.0), ("2TB", 2e12), ("1KiB", 1024.0), ("4GiB", 4 * 1024.0**3),
    ],
)  # fmt: skip
def test_numbers_are_read_with_their_units(text, value):
    assert parse_number(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "text", ["", "six", "nan", "inf", "1e999", "6GBs", "1_000", "0x3", "1e300TB"]
)
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ConfigError, match=r"not a number. Write one like"):
        parse_number(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("kneee", "'kneee' is not understood. Did you mean 'knee'"),
        ("", "'' is not understood. Write knee, lowest:NAME"),
        ("sparsity>=0.6,", "'' is not understood"),
        ("sparsity", "'sparsity' is not understood"),
        ("lowest:", "'lowest:' is not understood"),
        (">=0.6", "'>=0.6' is not understood"),
        ("0.5<sparsity<0.7", "is not understood"),
        ("sparsity=>0.6", "is not understood"),
        ("sparsity>=many", "'many' is not a number"),
        ("knee,lowest:bytes", "has 2 rules; one can choose"),
    ],
)
def test_what_is_not_understood_is_answered_with_how_to_write_it(text, sentence):
    with pytest.raises(ConfigError, match=sentence):
        parse_pick(text)


def test_an_unknown_quantity_is_answered_with_what_is_recorded():
    for text in ("lowest:perplexty", "perplexty<=3"):
        with pytest.raises(
            ConfigError,
            match=r"no quantity 'perplexty' was recorded. Did you mean 'perplexity'\? "
            "There are: accuracy, bytes, perplexity, sparsity",
        ):
            chosen(text)
    with pytest.raises(ConfigError, match="no quantity 'kl' was recorded"):
        chosen("knee", objectives=("perplexity", "kl"))
    with pytest.raises(ConfigError, match="no quantity 'kl' was recorded"):
        chosen("sparsity>0.1", prefer="kl")


def test_when_nothing_fits_the_hardest_part_and_the_nearest_entry_are_named():
    with pytest.raises(
        ConfigError,
        match=r"The hardest part is perplexity<=9: 0 of 4 entries meet it. "
        "The nearest entry has sparsity 0.6, perplexity 12",
    ):
        chosen("sparsity>=0.6,perplexity<=9")


def test_parts_that_exclude_each_other_are_reported_too():
    with pytest.raises(
        ConfigError,
        match=r"The hardest part is sparsity>0.7: 1 of 4 entries meet it. "
        "The nearest entry has perplexity 24, sparsity 0.7",
    ):
        chosen("perplexity<=25,sparsity>0.7")


def test_an_empty_front_is_no_crash():
    with pytest.raises(ConfigError, match="nothing to pick from"):
        chosen("knee", rows=[])


def test_entries_without_the_quantity_are_passed_over():
    rows = [{"perplexity": 5.0}, {"perplexity": float("nan"), "sparsity": 0.9}, *ROWS]
    assert chosen("sparsity>=0.1", rows=rows) == 2
    assert chosen("highest:sparsity", rows=rows) == 1
    assert chosen("knee", rows=rows) == 4
    with pytest.raises(ConfigError, match="allows has a value of sparsity"):
        chosen("perplexity<=6,highest:sparsity", rows=rows)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(1, 100)), min_size=1, max_size=10),
    st.floats(0, 1),
)
def test_whatever_is_chosen_meets_the_constraint_and_nothing_better_does(values, bound):
    rows = [{"sparsity": s, "perplexity": p} for s, p in values]
    meeting = [p for s, p in values if s >= bound - 1e-6 * bound]
    if meeting:
        index = chosen(f"sparsity>={bound!r}", rows=rows)
        assert rows[index]["perplexity"] == min(meeting)
    else:
        with pytest.raises(ConfigError, match="The nearest entry has sparsity"):
            chosen(f"sparsity>={bound!r}", rows=rows)


def test_all_quantities_that_are_mentioned_are_known_before_there_are_rows():
    assert parse_pick("a>=1,lowest:b,c<2").quantities == ("b", "a", "c")
    assert np.size(parse_pick("knee").quantities) == 0
