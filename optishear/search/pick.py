"""Picks, as `--pick` writes them: knee, lowest:perplexity, sparsity>=60%,perplexity<=25.

The language: parts separated by commas. Any number of constraints NAME OPERATOR NUMBER, and at most
one rule, which chooses among the entries that meet them: `knee`, `lowest:NAME`, `highest:NAME` or
`nearest:NAME=NUMBER NAME=NUMBER …`. Without a rule it is the best in what the caller prefers.

Numbers: 0.6, 60%, 1e9, 4.2GB (bytes: B, KB, MB, GB, TB are powers of 1000, KiB … TiB of 1024).
Operators: `>` and `<` are strict. `>=` and `<=` forgive a millionth of the number, because a
sparsity of 60 % is a whole count of weights and may be 0.5999999. `=` means within a thousandth.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, nan

import numpy as np

from optishear.errors import ConfigError
from optishear.recipe.lookup import did_you_mean
from optishear.search.front import knee


Row = Mapping[str, float]

GRAMMAR = (
    "Write knee, lowest:NAME, highest:NAME, nearest:sparsity=60% kl=0.4, or constraints such as "
    "sparsity>=60%,perplexity<=25."
)
UNITS = {"": 1.0, "%": 0.01, "b": 1.0}
UNITS |= {f"{letter}b": 1000.0**power for power, letter in enumerate("kmgt", start=1)}
UNITS |= {f"{letter}ib": 1024.0**power for power, letter in enumerate("kmgt", start=1)}
SLACK = 1e-6  # of `>=` and `<=`, relative
EQUAL = 1e-3  # of `=`, relative; a thousandth of nothing is `SLACK`


@dataclass(frozen=True)
class Constraint:
    """One quantity held against one number. `text` is how the user wrote it."""

    name: str
    operator: str
    bound: float
    text: str

    def met(self, row: Row) -> bool:
        value = row.get(self.name, nan)  # what was not recorded meets nothing
        if self.operator == ">":
            return value > self.bound
        if self.operator == "<":
            return value < self.bound
        return self.excess(row) <= 0.0

    def excess(self, row: Row) -> float:
        """How far the row is beyond what is allowed, in the quantity's unit."""
        value, size = row.get(self.name, nan), abs(self.bound)
        if not isfinite(value):
            return inf
        if self.operator == "=":
            return abs(value - self.bound) - max(EQUAL * size, SLACK)
        slack = SLACK * size if self.operator in (">=", "<=") else 0.0
        beyond = self.bound - value if self.operator.startswith(">") else value - self.bound
        return beyond - slack


@dataclass(frozen=True)
class Pick:
    """A parsed `--pick`.

    - `rule`: knee, lowest, highest, nearest or, where none was given, prefer.
    - `name`: of the quantity that is to be lowest or highest.
    - `point`: (name, value) of the point that is to be nearest.
    """

    text: str
    rule: str
    name: str
    constraints: tuple[Constraint, ...]
    point: tuple[tuple[str, float], ...] = ()

    @property
    def quantities(self) -> tuple[str, ...]:
        """The names it mentions."""
        named = (self.name,) if self.name else tuple(name for name, _ in self.point)
        return (*named, *(constraint.name for constraint in self.constraints))

    def choose(
        self,
        rows: Sequence[Row],
        prefer: str,
        minimise: Mapping[str, bool],
        objectives: Sequence[str],
    ) -> int:
        """The index of the chosen row; ties go to the first.

        Without a rule it is the row lowest in `prefer` (highest, if `minimise` says that this
        quantity is maximised). The knee is that of `objectives` in their directions, over the rows
        which meet the constraints. What is nearest is told by Euclid, each quantity in units of its
        spread over all rows; one in which they all agree counts nothing.
        """
        if not rows:
            raise ConfigError("There is nothing to pick from: no recipe was measured successfully.")
        self._check_names(rows, prefer, objectives)
        if not any(map(self._met, rows)):
            raise ConfigError(self._nothing_meets(rows))
        needed = self.goes_by(prefer, objectives)
        usable = [i for i, row in enumerate(rows) if self._met(row) and _has(row, needed)]
        if not usable:
            raise ConfigError(
                f"No entry that --pick {self.text!r} allows has a value of {', '.join(needed)}."
            )
        if self.rule == "nearest":
            return usable[int(np.argmin([self._distance(rows[i], rows) for i in usable]))]
        down = {"lowest": True, "highest": False}.get(self.rule)
        ways = [minimise.get(name, True) if down is None else down for name in needed]
        values = np.array([[rows[i][name] for name in needed] for i in usable], dtype=np.float64)
        values = np.where(ways, values, -values)
        return usable[knee(values) if self.rule == "knee" else int(np.argmin(values[:, 0]))]

    def in_turn(
        self,
        rows: Sequence[Row],
        prefer: str,
        minimise: Mapping[str, bool],
        objectives: Sequence[str],
        most: int,
    ) -> list[int]:
        """The indices of the rows that it chooses one after the other, each where those before are
        gone: `most`, or fewer where no other row is allowed."""
        needed = self.goes_by(prefer, objectives)
        allowed = {i for i, row in enumerate(rows) if self._met(row) and _has(row, needed)}
        left, chosen = list(range(len(rows))), []
        while allowed and len(chosen) < most:
            place = self.choose([rows[i] for i in left], prefer, minimise, objectives)
            chosen.append(left.pop(place))
            allowed.remove(chosen[-1])
        return chosen

    def goes_by(self, prefer: str, objectives: Sequence[str]) -> tuple[str, ...]:
        """The quantities that it chooses by among rows that meet the constraints."""
        if self.rule == "knee":
            return tuple(objectives)
        return tuple(name for name, _ in self.point) or (self.name or prefer,)

    def _met(self, row: Row) -> bool:
        return all(constraint.met(row) for constraint in self.constraints)

    def _distance(self, row: Row, rows: Sequence[Row]) -> float:
        total = 0.0
        for name, wanted in self.point:
            values = [v for r in rows if isfinite(v := r.get(name, inf))]
            spread = max(values) - min(values)
            total += ((row[name] - wanted) / spread) ** 2 if spread else 0.0
        return total

    def _check_names(self, rows: Sequence[Row], prefer: str, objectives: Sequence[str]) -> None:
        recorded = sorted({name for row in rows for name in row})
        implied = {"knee": objectives, "prefer": (prefer,)}.get(self.rule, ())
        for name in (*self.quantities, *implied):
            if name not in recorded:
                raise ConfigError(
                    f"--pick {self.text!r}: no quantity {name!r} was recorded."
                    f"{did_you_mean(name, recorded)} There are: {', '.join(recorded)}."
                )

    def _nothing_meets(self, rows: Sequence[Row]) -> str:
        """Which constraint is met by the fewest entries, and what the nearest entry has."""
        counts = [sum(constraint.met(row) for row in rows) for constraint in self.constraints]
        hardest = self.constraints[counts.index(min(counts))]
        nearest = min(rows, key=lambda row: sum(_share(c, row, rows) for c in self.constraints))
        names = dict.fromkeys(constraint.name for constraint in self.constraints)
        has = ", ".join(f"{name} {nearest.get(name, float('nan')):.6g}" for name in names)
        return (
            f"No entry meets --pick {self.text!r}. The hardest part is {hardest.text}: "
            f"{min(counts)} of {len(rows)} entries meet it. The nearest entry has {has}. "
            "Loosen a constraint."
        )


def parse_pick(text: str) -> Pick:
    """The meaning of the text, or a `ConfigError` which says how to write it."""
    constraints: list[Constraint] = []
    rules: list[tuple[str, str]] = []
    point: list[tuple[str, float]] = []
    for part in (part.strip() for part in text.split(",")):
        ranked = re.fullmatch(r"(lowest|highest)\s*:\s*(\S.*)", part)
        near = re.fullmatch(r"nearest\s*:\s*(\S.*)", part)
        compared = re.fullmatch(r"([^<>=]+?)\s*(>=|<=|==|>|<|=)\s*([^<>=]+)", part)
        if part == "knee":
            rules.append(("knee", ""))
        elif ranked:
            rules.append((ranked[1], ranked[2]))
        elif near:
            rules.append(("nearest", ""))
            point += _point(text, near[1])
        elif compared:
            name, operator, number = compared.groups()
            operator = "=" if operator == "==" else operator
            constraints.append(Constraint(name, operator, parse_number(number), part))
        else:
            hint = did_you_mean(part, ["knee"])
            raise ConfigError(f"--pick {text!r}: {part!r} is not understood.{hint} {GRAMMAR}")
    if len(rules) > 1:
        raise ConfigError(f"--pick {text!r} has {len(rules)} rules; one can choose. {GRAMMAR}")
    rule, name = rules[0] if rules else ("prefer", "")
    return Pick(text, rule, name, tuple(constraints), tuple(point))


def _point(text: str, words: str) -> list[tuple[str, float]]:
    """`sparsity=60% kl=0.4` as names and numbers."""
    point = []
    for word in re.sub(r"\s*=\s*", "=", words).split():
        name, equals, number = word.partition("=")
        if not (name and equals):
            raise ConfigError(f"--pick {text!r}: {word!r} is no NAME=NUMBER. {GRAMMAR}")
        point.append((name, parse_number(number)))
    return point


def parse_number(text: str) -> float:
    """`0.6`, `60%`, `1e9` or `4.2GB` as a number."""
    match = re.fullmatch(
        r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z%]*)", text.strip()
    )
    number = nan if match is None else float(match[1]) * UNITS.get(match[2].lower(), nan)
    if not isfinite(number):
        raise ConfigError(
            f"{text.strip()!r} is not a number. Write one like 0.6, 60%, 1e9 or 4.2GB."
        )
    return number


def _has(row: Row, names: Sequence[str]) -> bool:
    return all(isfinite(row.get(name, inf)) for name in names)


def _share(constraint: Constraint, row: Row, rows: Sequence[Row]) -> float:
    """The excess in units of the quantity's spread over all rows, so that they can be added."""
    values = [v for r in rows if isfinite(v := r.get(constraint.name, inf))]
    spread = max([abs(v - constraint.bound) for v in values], default=1.0) or 1.0
    return max(constraint.excess(row), 0.0) / spread
