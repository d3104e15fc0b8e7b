"""Lists of ratios as other tools print them, and the trap of what a ratio means."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import small_layout

from optishear.errors import ConfigError
from optishear.interchange.ratios import parse_ratios, sparsities_of


LAYOUT = small_layout(3)
NAMES = list(LAYOUT.sizes)
SIX = [0.5, 0.6, 0.7, 0.8, 0.1, 0.0]


def read(text, meaning=None):
    return sparsities_of(parse_ratios(text, "x"), meaning, LAYOUT, "x")


@pytest.mark.parametrize(
    "text",
    ["[0.7, 0.3, 0.5]", "0.7\n0.3\n0.5\n", "0.7, 0.3,0.5", "[0.7 0.3\n 0.5]", "(0.7;0.3;5e-1)"],
)
def test_a_list_by_block_gives_all_layers_of_a_block_its_ratio(text):
    want = [0.7, 0.7, 0.3, 0.3, 0.5, 0.5]
    assert list(read(text, "drop").values()) == want
    assert list(read(text, "keep").values()) == [1 - value for value in want]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        (json.dumps(SIX), "drop"),
        (json.dumps(dict(zip(NAMES, SIX))), "drop"),
        ("\n".join(f"{n}: {v}" for n, v in zip(reversed(NAMES), reversed(SIX))), "drop"),
        (json.dumps({"sparsity": SIX}), None),
        (json.dumps({"sparsity": dict(zip(NAMES, SIX))}), None),
        (json.dumps([{"layer": n, "sparsity": v} for n, v in zip(NAMES, SIX)]), None),
        ("layer,block,sparsity\n" + "\n".join(f"{n},0,{v}" for n, v in zip(NAMES, SIX)), None),
        ("layer,density\n" + "\n".join(f"{n},{1 - v}" for n, v in zip(NAMES, SIX)), None),
        (json.dumps({"density": [1 - v for v in SIX]}), "keep"),
    ],
)
def test_every_form_of_a_file_means_the_same(text, meaning):
    got = read(text, meaning)
    assert list(got) == NAMES
    assert list(got.values()) == pytest.approx(SIX)


@given(st.lists(st.floats(0, 0.999), min_size=6, max_size=6))
def test_numbers_are_read_exactly(values):
    assert list(read(" ".join(map(repr, values)), "drop").values()) == values


@pytest.mark.parametrize("text", ["[0.7, 0.3, 0.5]", json.dumps(dict(zip(NAMES, SIX)))])
def test_a_list_that_does_not_say_what_it_means_is_asked_about(text):
    with pytest.raises(ConfigError, match=r"Add --meaning drop .* or --meaning keep"):
        read(text)


def test_the_user_may_not_say_the_opposite_of_the_file():
    with pytest.raises(ConfigError, match="are called keep there, but --meaning says drop"):
        read('{"density": [0.5, 0.5, 0.5]}', "drop")


@pytest.mark.parametrize(
    ("text", "meaning", "sentence"),
    [
        ("[0.7, 0.3]", "drop", "has 2 numbers, but the model has 3 blocks and 6 layers"),
        ("[70, 30, 50]", "drop", r"70 \(drop\).*Are they percentages"),
        ("[0, 0.5, 0.5]", "keep", r"0 \(keep\), but a layer drops a fraction"),
        ("[1, 0.5, 0.5]", "drop", r"1 \(drop\)"),
        ("[-0.1, 0.5, 0.5]", "drop", "a layer drops a fraction"),
        ("[0.5, nan, 0.5]", "drop", "number 2 is nan"),
        ("0.5 half 0.5", "drop", "number 2 is 'half'|columns are"),
        ("[0.5, 0.5, 0.5]", "dropp", "Did you mean 'drop'"),
        ('{"blocks.0.attn.q": "a"}', "drop", "ratio of blocks.0.attn.q is 'a'"),
        ('{"blocks.0.attn.q": 0.5}', "drop", "says nothing of 5"),
        ('{"blocks.0.attn.x": 0.5}', "drop", "Did you mean 'blocks.0.attn.q'"),
        ('[{"layer": "a", "ratio": 0.5}]', "drop", "its columns are layer, ratio"),
        ('[{"layer": "a", "sparsity": true}]', "drop", "is True, expected a number"),
        (f'[{{"layer": "a", "sparsity": 1{400 * "0"}}}]', "drop", "expected a number"),
        ('[{"layer": "a", "sparsity": 0.1}, 3]', "drop", "a row has no layer"),
        ("layer,sparsity,density\na,0.5,0.5", "drop", "its columns are"),
        ("layer,sparsity\na", "drop", "line 2 has not as many fields"),
        ("layer,sparsity\na,0.5\na,0.5", "drop", "names 'a' twice"),
        ("a: 0.5\na: 0.5", "drop", "line 2 names 'a' for the second time"),
        ('{"a": 0.5', "drop", "is no JSON"),
    ],
)
def test_what_cannot_be_is_one_sentence(text, meaning, sentence):
    with pytest.raises(ConfigError, match=sentence) as raised:
        read(text, meaning)
    assert "\n" not in str(raised.value)
