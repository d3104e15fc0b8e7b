"""What is done to a layer, whatever its count: metric, pattern, solver, quadratic; and by role."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from optishear.errors import ConfigError
from optishear.recipe.lookup import did_you_mean
from optishear.recipe.pattern import Pattern, parse_pattern
from optishear.recipe.quadratic import QUADRATIC_KEYS, USUAL, QuadraticSettings


T = TypeVar("T")
MOST = 2**63 - 1  # of anything counted
ROLE_KEYS = ("metric", "pattern", "solver", *QUADRATIC_KEYS)  # what an entry for roles may say

Value = bool | int | float | str


class Part(Mapping[str, Any]):
    """The name and settings of a metric or a solver; read like the mapping that files hold.

    It is never written to and can be hashed; a setting that has settings is a `Part` itself.
    """

    __slots__ = ("_said",)

    def __init__(self, said: Mapping[str, Any], where: str = "part") -> None:
        """Raises a `ConfigError` unless there is a name, and settings are texts and numbers."""
        if not isinstance(said.get("name"), str):
            raise ConfigError(f"{where}: name is missing or no text.")
        self._said = {key: _setting(value, f"{where}.{key}") for key, value in said.items()}

    @property
    def name(self) -> str:
        return str(self._said["name"])

    def __getitem__(self, key: str) -> Any:
        return self._said[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._said)

    def __len__(self) -> int:
        return len(self._said)

    def __hash__(self) -> int:
        return hash(frozenset(self._said.items()))

    def __repr__(self) -> str:
        return repr(self._said)

    def to_json(self) -> dict[str, Any]:
        return {k: v.to_json() if isinstance(v, Part) else v for k, v in self._said.items()}


def _setting(value: Any, where: str) -> "Value | Part":
    if isinstance(value, Part):
        return value
    if isinstance(value, Mapping):
        return Part(value, where)
    number = isinstance(value, int | float)
    if not (number or isinstance(value, str)) or (number and not -MOST <= value <= MOST):
        raise ConfigError(f"{where} is {value!r}, which is no setting.")
    return value


@dataclass(frozen=True)
class Parts:
    """How the layers of a role are pruned.

    - `metric`: e.g. {"name": "power", "alpha": 1.0, ...}; `own` where the solver chooses by itself.
    - `pattern`: where a layer's count applies: `row`, `layer`, `block:B` or `n:M`.
    - `solver`: what the kept weights become; `mask` leaves them as they are.
    - `quadratic`: how the cost of a change is made, beside λ, which goes by layer.
    """

    metric: Part
    pattern: Pattern
    solver: Part
    quadratic: QuadraticSettings = USUAL

    @classmethod
    def of(
        cls,
        metric: Mapping[str, Any],
        pattern: Pattern | str = "row",
        solver: Mapping[str, Any] | None = None,
        quadratic: QuadraticSettings = USUAL,
    ) -> "Parts":
        """As files say it. Raises a `ConfigError` for what can be no metric, pattern or solver."""
        solver = {"name": "mask"} if solver is None else solver
        return cls(
            metric if isinstance(metric, Part) else Part(metric, "metric"),
            parse_pattern(pattern) if isinstance(pattern, str) else pattern,
            solver if isinstance(solver, Part) else Part(solver, "solver"),
            quadratic,
        )

    def but(self, said: Mapping[str, Any]) -> "Parts":
        """These, but for what an entry says otherwise: some of `ROLE_KEYS`."""
        return Parts.of(
            said.get("metric", self.metric),
            said.get("pattern", self.pattern),
            said.get("solver", self.solver),
            self.quadratic.but(said),
        )

    def beyond(self, default: "Parts") -> dict[str, Any]:
        """What they say otherwise than `default`, as files have it."""
        usual = default.to_json()
        return {key: value for key, value in self.to_json().items() if value != usual[key]}

    def to_json(self) -> dict[str, Any]:
        return {
            "metric": self.metric.to_json(),
            "pattern": self.pattern.text,
            "solver": self.solver.to_json(),
            **self.quadratic.to_json(),
        }

    def with_solver(self, solver: Mapping[str, Any]) -> "Parts":
        return replace(self, solver=Part(solver, "solver"))


def first_match(entries: Sequence[tuple[str, T]], role: str, default: T) -> T:
    """What the first entry says whose pattern of roles, such as `mlp.*`, matches this one."""
    return next((said for match, said in entries if matches(match, role)), default)


def matches(match: str, role: str) -> bool:
    """Shell-style: `*` is any text, `?` a character, `[ab]` one of these."""
    return match == role or fnmatchcase(role, match)


def check_roles(entries: Sequence[str], roles: Sequence[str], where: str) -> None:
    """Raises a `ConfigError` for an entry that says something of no role of the model: there is no
    such role, or an earlier entry matches all of them."""
    for index, match in enumerate(entries):
        found = [role for role in roles if matches(match, role)]
        if not found:
            raise ConfigError(
                f"{where}: {match!r} matches no role of the model.{did_you_mean(match, roles)} "
                f"There are: {', '.join(roles)}."
            )
        earlier = entries[:index]
        if all(any(matches(other, role) for other in earlier) for role in found):
            first = next(other for other in earlier if matches(other, found[0]))
            raise ConfigError(
                f"{where}: {match!r} says nothing, since earlier entries match all of its roles "
                f"({first!r} matches {found[0]}): the first that matches counts. Put it before "
                f"them, or leave it out."
            )


def simplest(default: Parts, entries: Sequence[tuple[str, Parts]]) -> tuple[tuple[str, Parts], ...]:
    """The same entries without those that change nothing whatever the roles; in order of their
    names where none of them overlap."""
    found = list(entries)
    if not any(set("*?[") & set(match) for match, _ in found):
        by_name = dict(reversed(found))  # the first of a name counts
        return tuple((m, by_name[m]) for m in sorted(by_name) if by_name[m] != default)
    while found and found[-1][1] == default:
        found.pop()
    return tuple(found)
