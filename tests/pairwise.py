"""Few cases in which every two values of different factors come together at least once.

Faults that depend on one or two parts of a case are found as by the whole product; those that need
three at once have tests of their own. Deterministic: the same factors, the same cases.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any


def pairwise(*factors: Sequence[Any]) -> list[tuple[Any, ...]]:
    """A covering array of strength 2, built greedily: each case takes, factor by factor, the value
    that meets most of the pairs that no case has had so far."""
    places = list(combinations(range(len(factors)), 2))
    missing = {
        (a, i, b, j)
        for a, b in places
        for i in range(len(factors[a]))
        for j in range(len(factors[b]))
    }
    cases = []
    while missing:
        chosen = dict(zip(*[iter(min(missing))] * 2))
        rest = (factor for factor in range(len(factors)) if factor not in chosen)
        for factor in sorted(rest, key=lambda factor: -len(factors[factor])):
            new = [
                sum((*one, *two) in missing for one, two in _pairs((factor, value), chosen))
                for value in range(len(factors[factor]))
            ]
            chosen[factor] = new.index(max(new))
        ordered = sorted(chosen.items())
        missing -= {(*one, *two) for one, two in combinations(ordered, 2)}
        cases.append(tuple(factors[factor][value] for factor, value in ordered))
    return cases


def _pairs(one: tuple[int, int], others: dict[int, int]) -> list[list[tuple[int, int]]]:
    return [sorted([one, other]) for other in others.items()]
