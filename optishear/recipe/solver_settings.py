"""The settings of solvers, as recipes and search spaces may name them: numbers within bounds.

A setting at its usual value is left out of a recipe's canonical form, so that it changes no key.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optishear.errors import ConfigError
from optishear.recipe.lookup import did_you_mean


@dataclass(frozen=True)
class Setting:
    """A number in [low, high], whole where `usual` is."""

    usual: int | float
    low: int | float
    high: int | float
    about: str

    def check(self, value: Any, where: str) -> None:
        """Raises a `ConfigError` for anything else."""
        whole = isinstance(self.usual, int)
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high:  # nan is within no bounds
            raise ConfigError(
                f"{where} is {value!r}, expected a {'whole ' if whole else ''}number in "
                f"[{self.low:g}, {self.high:g}]: {self.about} ({self.usual:g} usually)."
            )


TOLERANCE = Setting(
    1e-4, 1e-7, 1.0, "how far above the least cost, relatively, the best weights may stop"
)
SETTINGS: dict[str, dict[str, Setting]] = {
    "mask": {},
    "sparsegpt": {
        "block": Setting(
            128, 1, 65_536, "columns that are chosen and updated together, where groups reach wider"
        )
    },
    "alps": {
        "iterations": Setting(300, 1, 100_000, "after so many ADMM stops, if not sooner"),
        "tolerance": TOLERANCE,
    },
    "refit": {"tolerance": TOLERANCE},
}


def settings_known(solver: Mapping[str, Any]) -> dict[str, Setting]:
    """All that this solver and the one that it follows can be told."""
    of = solver.get("of", "mask") if solver.get("name") == "refit" else None
    names = [str(name) for name in (of, solver.get("name")) if name is not None]
    return {key: setting for name in names for key, setting in SETTINGS.get(name, {}).items()}


def check_settings(solver: Mapping[str, Any], where: str) -> None:
    """Raises a `ConfigError` for an unknown setting, or a value that it cannot have."""
    name, known = solver.get("name"), settings_known(solver)
    words = ("name", "of") if name == "refit" else ("name",)
    of = f" of {solver.get('of', 'mask')!r}" if name == "refit" else ""
    for key, value in solver.items():
        if key in words:
            continue
        if key not in known:
            raise ConfigError(
                f"{where}: solver {name!r}{of} has no setting {key}.{did_you_mean(key, known)} "
                f"It has: {', '.join(known) or 'none'}."
            )
        known[key].check(value, f"{where}: {key} of solver {name!r}{of}")


def value_of(solver: Mapping[str, Any], key: str) -> Any:
    """What the recipe says of a setting, or its usual value."""
    return solver.get(key, settings_known(solver)[key].usual)


def without_usual(solver: Mapping[str, Any]) -> dict[str, Any]:
    """Without the settings that say what is so anyway."""
    known = settings_known(solver)
    return {k: v for k, v in solver.items() if k not in known or v != known[k].usual}
