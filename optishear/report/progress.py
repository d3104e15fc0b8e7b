"""Progress of a search in numbers, from its evaluations alone, live or out of a journal."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from optishear.errors import ConfigError
from optishear.records.run_directory import MEND
from optishear.search.drivers import make_ladder
from optishear.search.front import Points, hypervolume, knee
from optishear.search.ladder import Ladder


RECENT = 32  # measured evaluations that the rate, and a rung's seconds, are averaged over


@dataclass(frozen=True)
class Goal:
    """What a search set out to do: enough to say what is left of it.

    - `objectives`: {name: whether it is maximised}.
    - `prefer`: the quantity whose lowest value is the best; None: the knee of the front.
    - `most`: recipes that will be asked for, at most.
    - `rungs`: search tokens, ascending; the last is all of them. None where the experiment does not
      tell, since it takes a whole text.
    """

    objectives: Mapping[str, bool]
    prefer: str | None
    most: int
    population: int
    driver: str
    rungs: tuple[int, ...] | None
    promoted: float

    def on(self, rungs: Iterable[int]) -> "Goal":
        """The same with the rungs that there are in fact."""
        return replace(self, rungs=tuple(rungs))

    def of(self, most: int) -> "Goal":
        """The same for a search that asked for so many recipes."""
        return replace(self, most=most)


def goal_of(experiment: Mapping[str, Any]) -> Goal:
    """The goal of an experiment as manifests have it."""
    from optishear.objectives import make_objective

    search, text, pick = experiment["search"], experiment["text"]["search"], experiment["pick"]
    tokens = text["sequences"] * text["seq_len"]
    return Goal(
        {name: make_objective(name).maximise for name in experiment["objectives"]},
        pick.removeprefix("lowest:").strip() if pick.startswith("lowest:") else None,
        search["evaluations"],
        search["population"],
        search["driver"],
        (*search.get("rungs", ()), tokens) if tokens else None,
        search.get("keep", Ladder.promoted),  # files leave out what is as usual
    )


@dataclass(frozen=True)
class State:
    """A search at one moment.

    - `asked`: distinct recipes so far, of at most `most`; `failed` and `remembered` (known from
      other runs) are among them.
    - `rungs`: {search tokens: evaluations on them}; `expected`: how many there will be, an estimate
      from the shares that go on and fail.
    - `front`: keys of the non-dominated recipes on `front_rung`, which is the highest rung that has
      a success so far. Fronts of different rungs cannot be compared.
    - `best`: the recipe of it that is lowest in `goal.prefer`, or its knee; its `values`.
    - `hypervolume`: what the front dominates, in units of a box. The box is spanned by the best and
      the worst value of each objective among the first `population` evaluations on `front_rung`
      (failures have none), and bounded by `reference`, the worst ones, from which the volume is
      measured. It never shrinks on one rung, and is comparable within one run and one rung only.
      None with one objective, and until that many were made.
    - `per_second`: over the last `RECENT` evaluations that were measured; time in between them, as
      for asking the driver, does not count. None before the first.
    - `seconds_left`: of the search, each rung at its own recent cost. A rung not yet measured on is
      taken to cost as its tokens do. None before anything was measured.
    - `share`: of the tokens that all expected evaluations read, what has been read.
    """

    objectives: tuple[str, ...]
    asked: int
    most: int
    failed: int
    remembered: int
    rungs: Mapping[int, int]
    expected: Mapping[int, int]
    front_rung: int
    front: tuple[str, ...]
    best: str | None
    values: Mapping[str, float]
    hypervolume: float | None
    reference: Mapping[str, float] | None
    per_second: float | None
    seconds_left: float | None
    share: float

    def to_json(self) -> dict[str, Any]:
        """The same as plain data, the front by its size."""
        return {
            **{name: getattr(self, name) for name in ("asked", "most", "failed", "remembered")},
            "rungs": [
                {"tokens": rung, "evaluations": made, "expected": self.expected[rung]}
                for rung, made in self.rungs.items()
            ],
            "front": len(self.front),
            "front_rung": self.front_rung,
            "best": self.best,
            "values": dict(self.values),
            "hypervolume": self.hypervolume,
            "reference": self.reference and dict(self.reference),
            "per_second": self.per_second and round(self.per_second, 4),
            "seconds_left": None if self.seconds_left is None else round(self.seconds_left, 1),
            "share": round(self.share, 4),
        }


@dataclass
class _Rung:
    """What was seen of one rung. All points are minimised."""

    front: Points
    keys: list[str] = field(default_factory=list)
    values: list[Mapping[str, float]] = field(default_factory=list)
    made: int = 0
    failed: int = 0
    alive: int = 0  # of those that climb together: the whole search, or one generation
    climbed: int = 0  # the same, how many came up from the rung below
    first: list[Float[np.ndarray, " objectives"]] = field(default_factory=list)
    lowest: tuple[float, str, Mapping[str, float]] | None = None
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    def enter(self, point: Float[np.ndarray, " objectives"], key: str, values: Any) -> bool:
        """Whether the point is on the front now; of equal points the first is."""
        if (self.front <= point).all(axis=1).any():
            return False
        beaten = (point <= self.front).all(axis=1)
        if beaten.any():
            stay = np.flatnonzero(~beaten).tolist()
            self.keys = [self.keys[index] for index in stay]
            self.values = [self.values[index] for index in stay]
        self.front = np.vstack([self.front[~beaten], point])
        self.keys.append(key)
        self.values.append(values)
        return True


class Progress:
    """The numbers of a search, told its evaluations one after the other, in the order made.

    `add` takes well below a millisecond whatever the number of evaluations. `state` computes a
    hypervolume, unless the front has not moved, and is for when somebody looks.
    """

    def __init__(self, goal: Goal):
        assert goal.rungs is not None, "say first what rungs there are"
        self.goal = goal
        self.ladder = make_ladder(goal.driver, goal.rungs, goal.promoted, goal.population)
        self.failed = self.remembered = 0
        self._signs = np.array([-1.0 if up else 1.0 for up in goal.objectives.values()])
        empty = np.empty((0, len(self._signs)))
        self._rungs = {rung: _Rung(empty) for rung in self.ladder.rungs}
        self._order = list(self._rungs.values())
        self._last = 0  # index of the rung that the last evaluation was on
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._volumes: dict[int, tuple[Points, float]] = {}

    def add(self, entry: Mapping[str, Any]) -> bool:
        """Counts one evaluation, given as a journal's entry; False if it is none of the search.

        When a search is over, its run measures the baselines, which a journal has as well. They
        are told by there being no room left on their rung.
        """
        self._refuse_others(entry)
        rung = self._rungs[entry["rung"]]
        index = self.ladder.rungs.index(entry["rung"])
        if self.ladder.by_generation and index == 0 and self._last > 0:
            for each in self._order:
                each.alive = each.climbed = 0
        if not self._has_room(index):
            return False
        self._last = index
        rung.made += 1
        rung.climbed += 1
        if entry.get("memo", False):
            self.remembered += 1
        else:
            rung.seconds.append(entry["seconds"])
            self._recent.append(entry["seconds"])
        if entry["values"] is None:
            rung.failed += 1
            self.failed += 1
        else:
            rung.alive += 1
            self._succeeded(rung, entry["key"], entry["values"])
        return True

    def _refuse_others(self, entry: Mapping[str, Any]) -> None:
        if entry["rung"] not in self._rungs:
            raise ConfigError(
                f"The journal has an evaluation on {entry['rung']} search tokens, the manifest "
                f"rungs of {', '.join(map(str, self._rungs))}: they are not of one run. {MEND}"
            )
        values = entry["values"]
        missing = [
            name for name in self.goal.objectives if values is not None and name not in values
        ]
        if missing:
            raise ConfigError(
                f"The journal has an evaluation without {missing[0]!r}, an objective by the "
                f"manifest: they are not of one run. {MEND}"
            )

    def _has_room(self, index: int) -> bool:
        if index == 0:
            return self._order[0].made < self.goal.most
        return self._order[index].climbed < self.ladder.places(self._order[index - 1].alive)

    def _succeeded(self, rung: _Rung, key: str, values: Mapping[str, float]) -> None:
        point = self._signs * [values[name] for name in self.goal.objectives]
        rung.enter(point, key, values)
        if rung.made <= self.goal.population or not rung.first:
            rung.first.append(point)
        lowest = values.get(self.goal.prefer) if self.goal.prefer is not None else None
        if lowest is not None and (rung.lowest is None or lowest < rung.lowest[0]):
            rung.lowest = lowest, key, values

    @property
    def front_rung(self) -> int:
        """The highest rung that has a success; the lowest while there is none."""
        found = [tokens for tokens, rung in self._rungs.items() if rung.keys]
        return max(found, default=self.ladder.rungs[0])

    @property
    def front_size(self) -> int:
        return len(self._rungs[self.front_rung].keys)

    def on_front(self, key: str) -> bool:
        return key in self._rungs[self.front_rung].keys

    def state(self, *, over: bool = False) -> State:
        """The numbers now; `over`: the search has ended, and nothing more is expected."""
        tokens = self.front_rung
        at = self._rungs[tokens]
        key, values = self._best(at)
        made = {t: rung.made for t, rung in self._rungs.items()}
        expected = made if over else dict(zip(made, self._expected(), strict=True))
        volume, reference = self._hypervolume(tokens)
        read = sum(t * made[t] for t in made)
        return State(
            objectives=tuple(self.goal.objectives),
            asked=self._order[0].made,
            most=self._order[0].made if over else self.goal.most,
            failed=self.failed,
            remembered=self.remembered,
            rungs=made,
            expected=expected,
            front_rung=tokens,
            front=tuple(at.keys),
            best=key,
            values=values,
            hypervolume=volume,
            reference=reference,
            per_second=self._per_second(),
            seconds_left=self._seconds_left(made, expected),
            share=read / (sum(t * expected[t] for t in made) or 1),
        )

    def _best(self, at: _Rung) -> tuple[str | None, Mapping[str, float]]:
        if at.lowest is not None:
            return at.lowest[1:]
        if not at.keys:
            return None, {}
        index = knee(at.front)
        return at.keys[index], at.values[index]

    def _hypervolume(self, tokens: int) -> tuple[float | None, dict[str, float] | None]:
        at = self._rungs[tokens]
        if len(self._signs) < 2 or at.made < self.goal.population or not at.first:
            return None, None
        first = np.array(at.first)
        worst, extent = first.max(axis=0), np.ptp(first, axis=0)
        known, volume = self._volumes.get(tokens, (None, 0.0))
        if known is not at.front:
            box = float(np.prod(np.where(extent > 0, extent, 1.0)))
            volume = hypervolume(at.front, worst) / box
            self._volumes[tokens] = at.front, volume
        reference = (self._signs * worst).tolist()
        return volume, dict(zip(self.goal.objectives, reference, strict=True))

    def _per_second(self) -> float | None:
        spent = sum(self._recent)
        return len(self._recent) / spent if spent else None

    def _expected(self) -> list[int]:
        """Evaluations on each rung when the search is over, if shares stay as they are."""
        if self.ladder.by_generation:
            whole, rest = divmod(self.goal.most, self.goal.population)
            groups = [(self.goal.population, whole), (rest, min(rest, 1))]
        else:
            groups = [(self.goal.most, 1)]
        expected = [0] * len(self._order)
        for size, times in groups:
            for index, rung in enumerate(self._order):
                if not self.ladder.by_generation and self._last > index:
                    size = rung.made  # nothing comes to a rung that is climbed from
                expected[index] += size * times
                failing = rung.failed / rung.made if rung.made else 0.0
                size = self.ladder.places(round(size * (1 - failing)))
        return [max(some, rung.made) for some, rung in zip(expected, self._order, strict=True)]

    def _seconds_left(self, made: Mapping[int, int], expected: Mapping[int, int]) -> float | None:
        left, cost, measured_on = 0.0, None, 0
        costs: dict[int, float | None] = {}
        for tokens, rung in self._rungs.items():
            if rung.seconds:
                cost, measured_on = sum(rung.seconds) / len(rung.seconds), tokens
            costs[tokens] = None if cost is None else cost * tokens / measured_on
        for tokens, each in costs.items():
            if missing := expected[tokens] - made[tokens]:
                if each is None:
                    return None
                left += missing * each
        return left
