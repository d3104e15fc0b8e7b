"""Arithmetic of a plan: measured seconds of a few candidates -> seconds of a whole search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from optishear.search.ladder import Ladder


@dataclass(frozen=True)
class Step:
    """A stage of the search. `done`: the plan has paid for it, and left it in the cache."""

    what: str
    seconds: float
    rests_on: str
    done: bool = False


@dataclass(frozen=True)
class Line:
    """What a candidate costs: `fixed` seconds for its weights, `per_token` for what is run, and
    `own` once, for the objectives' own data."""

    fixed: float
    per_token: float
    own: float = 0.0

    def seconds(self, tokens: int) -> float:
        return self.fixed + self.per_token * tokens


@dataclass(frozen=True)
class Measured:
    """One candidate of a dry run. `kind` is what its cost hangs on, in practice its solver."""

    kind: str
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Price:
    """What the candidates of a search cost.

    - `line`: a steady one's, averaged over kinds by their shares.
    - `once`: more than that, paid by the first of each kind (the dense side, factors of Hessians).
    - `steady`: seconds on the lowest rung by kind, the median.
    """

    line: Line
    once: float
    steady: Mapping[str, float]


def price_of(
    lowest: Sequence[Measured],
    higher: Sequence[Measured],
    shares: Mapping[str, float],
    own: float = 0.0,
) -> Price:
    """From candidates on the lowest rung, the first of each kind being the one that warms up, and
    from some of one kind that ran a higher number of tokens.

    `own`: seconds of each of them that are for the objectives' own data.
    Where nothing ran on more tokens, or that came out cheaper, seconds are proportional to tokens.
    """
    by_kind: dict[str, list[float]] = {}
    for one in lowest:
        by_kind.setdefault(one.kind, []).append(one.seconds)
    steady = {kind: median(seconds[1:] or seconds) for kind, seconds in by_kind.items()}
    once = sum(max(0.0, seconds[0] - steady[kind]) for kind, seconds in by_kind.items())
    known = {kind: share for kind, share in shares.items() if kind in steady}
    whole = sum(known.values())
    mean = sum(share * steady[kind] for kind, share in known.items()) / whole
    own = min(own, mean)
    mean -= own
    tokens = lowest[0].tokens
    proportional = mean / tokens
    if not higher:
        return Price(Line(0.0, proportional, own), once, steady)
    slopes = [(h.seconds - steady[h.kind]) / (h.tokens - tokens) for h in higher]
    slope = median(slopes)
    per_token = slope if 0 < slope < proportional else proportional
    return Price(Line(mean - per_token * tokens, per_token, own), once, steady)


def visits(ladder: Ladder, recipes: int, generation: int) -> dict[int, int]:
    """How many of so many distinct recipes are measured on each rung, if none of them fails.

    A ladder climbed by generation is climbed by each `generation` of recipes on its own.
    """
    groups = [recipes]
    if ladder.by_generation:
        whole, rest = divmod(recipes, generation)
        groups = [generation] * whole + [rest] * (rest > 0)
    found = dict.fromkeys(ladder.rungs, 0)
    for count in groups:
        for rung in ladder.rungs:
            found[rung] += count
            count = ladder.places(count)
    return found


def tokens_paid(rungs: Sequence[int]) -> dict[int, int]:
    """The search tokens that a candidate runs on each rung; climbing, it goes on where it was."""
    return {rungs[0]: rungs[0]} | {high: high - low for low, high in pairwise(rungs)}


@dataclass(frozen=True)
class RungCost:
    """What a search will spend on one rung: `known` of its candidates are answered by a journal."""

    rung: int
    candidates: int
    known: int
    each: float

    @property
    def seconds(self) -> float:
        return (self.candidates - self.known) * self.each


def rung_costs(line: Line, wanted: Mapping[int, int], known: Mapping[int, int]) -> list[RungCost]:
    """A rung each, ascending. A candidate whose lower rungs a journal answered is charged as one
    that climbs, though it has to run them again: what it began is forgotten with its process."""
    paid = tokens_paid(list(wanted))
    own = {rung: line.own * (rung == min(wanted)) for rung in wanted}
    return [
        RungCost(rung, count, min(count, known.get(rung, 0)), line.seconds(paid[rung]) + own[rung])
        for rung, count in wanted.items()
    ]
