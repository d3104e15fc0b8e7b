"""JSON as it should be, with one thing in it that is not: what a damaged or edited file holds."""

import copy
import json
import re

from hypothesis import strategies as st


NUMBERS = st.sampled_from([0, -1, 3, 0.5, 1e300, 10**30, 10**400, True])
CONSTANTS = st.sampled_from(["@NaN", "@Infinity", "@1e999", "@" + "9" * 5000, "@[[["])
WORDS = st.sampled_from(["", "x", "sparsity", "name", "block", "nsga2", "finished", "\ud800"])
VALUES = st.recursive(
    st.one_of(st.none(), NUMBERS, WORDS, CONSTANTS),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=4,
)


def places(data, here=()):
    """The path to every value inside; lists by their first two, which are like the others."""
    yield here
    if isinstance(data, dict):
        inner = list(data.items())
    elif isinstance(data, list):
        inner = list(enumerate(data))[:2]
    else:
        inner = []
    for key, value in inner:
        yield from places(value, (*here, key))


@st.composite
def mutated(draw, data):
    """The text of `data` with one value replaced, left out or doubled."""
    data = copy.deepcopy(data)
    path = draw(st.sampled_from(list(places(data))))
    if not path:
        return text_of(draw(VALUES))
    inside = data
    for key in path[:-1]:
        inside = inside[key]
    what = draw(st.sampled_from(["replace", "replace", "drop", "double"]))
    if what == "replace":
        inside[path[-1]] = draw(VALUES)
    elif what == "drop":
        del inside[path[-1]]
    elif isinstance(inside, list):
        inside.append(inside[path[-1]])
    else:
        inside[f"{path[-1]} "] = inside[path[-1]]
    return text_of(data)


def text_of(data):
    """As JSON; a word that begins with @ is written without quotes, as it is."""
    return re.sub(r'"@([^"]*)"', r"\1", json.dumps(data))
