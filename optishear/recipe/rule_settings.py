"""Published rules for layer sparsities with their settings, as files and command lines name them.

In a search space `{name: owl, lambda: 0.05}`, as solvers have it; as text `owl:lambda=0.05:m=7`. A
setting at its usual value is left out of the text, so that it changes no key.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optishear.errors import ConfigError
from optishear.recipe.lookup import did_you_mean, lookup
from optishear.recipe.solver_settings import Setting


RULE_SETTINGS: dict[str, dict[str, Setting]] = {
    "uniform": {},
    "owl": {
        "lambda": Setting(0.08, 0.0, 0.5, "how far densities may lie from their middle"),
        "m": Setting(5.0, 0.0, 1e6, "so many times the mean is an outlying score"),
    },
    "alphapruning": {
        "epsilon": Setting(0.3, 0.0, 1.0, "sparsities lie within 1 - epsilon and 1 + epsilon"),
    },
}


@dataclass(frozen=True)
class RuleChoice:
    """A rule by name with those of its settings that are not as usual."""

    name: str
    settings: Mapping[str, float]

    @property
    def text(self) -> str:
        return ":".join([self.name, *(f"{key}={value!r}" for key, value in self.settings.items())])

    @property
    def values(self) -> dict[str, float]:
        """All settings."""
        return usual_of(self.name) | dict(self.settings)


def usual_of(name: str) -> dict[str, float]:
    """What a rule goes by if it is told nothing: its paper's constants."""
    return {key: float(setting.usual) for key, setting in RULE_SETTINGS[name].items()}


def parse_rule(data: Any, where: str) -> RuleChoice:
    """Of a text or a mapping. Raises a `ConfigError` for what no rule is called or can be told."""
    if isinstance(data, Mapping):
        given = {str(key): value for key, value in data.items()}
        name = str(given.pop("name", ""))
    else:
        name, *words = str(data).split(":")
        given = dict(_setting(word, where) for word in words)
        if len(given) < len(words):
            raise ConfigError(f"{where}: {data!r} says a setting twice. Leave one of them out.")
    known = lookup(RULE_SETTINGS, name, kind="rule of layer sparsities")
    for key, value in given.items():
        if key not in known:
            raise ConfigError(
                f"{where}: rule {name!r} has no setting {key!r}.{did_you_mean(key, known)} "
                f"It has: {', '.join(known) or 'none'}."
            )
        known[key].check(value, f"{where}: {key} of rule {name!r}")
    told = {key: float(given[key]) for key in known if key in given}
    return RuleChoice(name, {k: v for k, v in told.items() if v != known[k].usual})


def _setting(word: str, where: str) -> tuple[str, float]:
    key, _, value = word.partition("=")
    try:
        return key, float(value)
    except ValueError:
        raise ConfigError(
            f"{where}: {word!r} is no setting. Write it as NAME=NUMBER, such as lambda=0.05."
        ) from None
