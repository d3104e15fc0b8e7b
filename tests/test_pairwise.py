"""The cases of contract tests: every pair is among them, and they are few."""

from itertools import combinations, product

from pairwise import pairwise


def test_every_two_values_meet_in_some_case():
    factors = [list("abcdefg"), [1, 2, 3], [True, False], ["x", "y", "z", "w"]]
    cases = pairwise(*factors)
    for a, b in combinations(range(4), 2):
        met = {(case[a], case[b]) for case in cases}
        assert met == set(product(factors[a], factors[b]))
    assert len(cases) < 1.3 * 7 * 4 < 7 * 3 * 2 * 4
    assert cases == pairwise(*factors)
