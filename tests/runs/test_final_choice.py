"""Which recipes become finalists, and which of them is picked."""

import pytest
from layouts import small_layout

from optishear.calibration.origin import Origin
from optishear.errors import ConfigError
from optishear.recipe.recipe import Recipe
from optishear.runs.final_choice import compared_in, finalists_of, picked_of
from optishear.runs.results import Entry, Front
from optishear.search.finalists import Finalist


LAYOUT = small_layout()
QUANTITIES = ("sparsity", "kl", "perplexity")


def entry(number, **values):
    drop = dict.fromkeys(LAYOUT.sizes, number + 1)
    return Entry(Recipe.of({"name": "wanda"}, drop, "layer"), values)


def front(objectives, pick, entries):
    return Front("x", objectives, pick, LAYOUT, tuple(entries), Origin("none"))


ONE = [entry(n, kl=kl) for n, kl in enumerate([0.5, 0.2, 0.4, 0.3])]
BOTH = {"sparsity": True, "kl": False}
TWO = [  # the first four are the front, from sparse to like the dense model
    entry(0, sparsity=0.8, kl=1.0),
    entry(1, sparsity=0.6, kl=0.3),
    entry(2, sparsity=0.5, kl=0.2),
    entry(3, sparsity=0.2, kl=0.1),
    entry(4, sparsity=0.5, kl=0.25),
    entry(5, sparsity=0.2, kl=0.6),
]


def indices(chosen, entries):
    return [entries.index(one) for one in chosen]


def test_of_one_objective_they_are_the_best_of_all():
    """The front is a single recipe."""
    found = front({"kl": False}, "lowest:kl", [ONE[1]])
    assert indices(finalists_of(found, ONE, 3), ONE) == [1, 3, 2]
    assert indices(finalists_of(found, ONE, 9), ONE) == [1, 3, 2, 0]


@pytest.mark.parametrize(
    ("pick", "most", "chosen"),
    [
        ("knee", 2, [1, 2]),
        ("knee", 4, [1, 2, 0, 3]),
        ("knee", 5, [1, 2, 0, 3, 4]),
        ("lowest:kl", 2, [3, 2]),
        ("lowest:kl", 6, [3, 2, 1, 0, 4, 5]),
        ("sparsity>=0.5", 3, [2, 1, 0]),
        ("sparsity>=0.5", 9, [2, 1, 0, 4]),
        ("sparsity>=0.6", 9, [1, 0]),
        ("nearest:sparsity=0.55 kl=0.2", 2, [2, 1]),
    ],
)
def test_of_several_they_are_what_the_pick_takes_of_the_front_and_then_of_the_rest(
    pick, most, chosen
):
    found = front(BOTH, pick, TWO[:4])
    assert indices(finalists_of(found, TWO, most), TWO) == chosen
    assert finalists_of(found, TWO, most)[0] == found.pick()


def test_where_the_pick_allows_none_it_says_so():
    with pytest.raises(ConfigError, match=r"No entry meets --pick 'kl<=0\.01'"):
        finalists_of(front(BOTH, "kl<=0.01", TWO[:4]), TWO, 3)


def measured(entries, **kl):
    return [
        Finalist(e.recipe, e.values, {**e.values, "kl": kl[name]} if kl[name] else None, "why")
        for e, name in zip(entries, kl, strict=True)
    ]


def test_the_pick_goes_by_the_values_block_by_block():
    found = front({"kl": False}, "lowest:kl", [ONE[1]])
    told = measured(ONE[:3], a=0.3, b=0.4, c=None)
    assert picked_of(found, told, "kl").picked == ONE[0].recipe.key
    limited = front(BOTH, "kl<=0.5,highest:sparsity", TWO[:4])
    told = measured(TWO[1:4], a=0.6, b=0.45, c=0.2)
    assert picked_of(limited, told, "kl").picked == TWO[2].recipe.key


def test_where_no_finalist_is_left_it_says_why():
    found = front(BOTH, "kl<=0.5", TWO[:4])
    with pytest.raises(ConfigError, match="Of 2 finalists, measured block by block: No entry"):
        picked_of(found, measured(TWO[1:3], a=0.6, b=0.7), "kl")
    with pytest.raises(ConfigError, match=r"None of the 2 finalists .* The first failure: why"):
        picked_of(found, measured(TWO[1:3], a=None, b=None), "kl")


@pytest.mark.parametrize(
    ("pick", "name"),
    [
        ("lowest:perplexity", "perplexity"),
        ("knee", "kl"),  # sparsity, the first objective, is the same in both modes
        ("sparsity>=0.5", "kl"),
        ("nearest:sparsity=0.5 perplexity=30", "perplexity"),
        ("lowest:bytes_2:4", "kl"),
    ],
)
def test_modes_are_compared_in_what_the_pick_goes_by(pick, name):
    assert compared_in(front(BOTH, pick, TWO[:4]), QUANTITIES) == name


def test_a_front_with_finalists_picks_theirs_unless_it_is_asked_for_another():
    found = front({"kl": False}, "lowest:kl", [ONE[1]])
    told = picked_of(found, measured(ONE[:3], a=0.1, b=0.4, c=None), "kl")
    final = Front(**{**vars(found), "finalists": told})
    assert final.pick() == ONE[0]
    assert final.pick("lowest:kl") is final.entries[0]
    assert not final.to_frame().picked.any()
