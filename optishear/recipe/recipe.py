"""The recipe: what to do to a model, as plain data. A search candidate is one being tried."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from optishear.errors import ConfigError
from optishear.reading.json_data import json_in
from optishear.recipe.layout import ModelLayout
from optishear.recipe.lookup import did_you_mean
from optishear.recipe.pattern import Pattern, parse_pattern
from optishear.recipe.quadratic import RECONSTRUCTION, check_quadratic
from optishear.recipe.solver_settings import SETTINGS, check_settings, without_usual


MOST = 2**63 - 1  # of anything counted
FORMAT = "optishear-recipe/1"
MADE_WITH = "made_with"  # beside a recipe in its file, no part of it: on what it was found


@dataclass(frozen=True)
class Recipe:
    """Equal content, equal recipe, equal key; nothing in it depends on a machine or a run.

    - `metric`: name and settings of a metric, e.g. {"name": "power", "alpha": 1.0, ...}; `own`
      where the solver chooses by itself.
    - `drop`: weights to drop per layer name.
    - `pattern`: where those counts apply: `row`, `layer`, `block:B` or `n:M`.
    - `solver`: name and settings of what the kept weights become; `mask` leaves them as they are.
    - `quadratic`: what a change of the weights costs: plain reconstruction, or MOONSHOT's mix.
    """

    metric: Mapping[str, Any]
    drop: Mapping[str, int]
    pattern: str = "row"
    solver: Mapping[str, Any] = field(default_factory=lambda: {"name": "mask"})
    quadratic: Mapping[str, Any] = field(default_factory=lambda: {"name": RECONSTRUCTION})

    @cached_property
    def key(self) -> str:
        """Hash of the canonical JSON: the recipe's identity in journals and on the front."""
        text = json.dumps(self.to_json(), sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def pattern_object(self) -> Pattern:
        return parse_pattern(self.pattern)

    def to_json(self) -> dict[str, Any]:
        """As files hold it. The usual quadratic is left out, so that recipes made before there was
        another keep their keys."""
        data = {
            "format": FORMAT,
            "metric": dict(self.metric),
            "pattern": self.pattern,
            "solver": dict(self.solver),
            "quadratic": dict(self.quadratic),
            "drop": dict(self.drop),
        }
        if self.quadratic == {"name": RECONSTRUCTION}:
            del data["quadratic"]
        return data

    @classmethod
    def from_json(cls, data: Any, where: str = "recipe") -> "Recipe":
        """A checked recipe; `where` names the file in the sentence of a `ConfigError`."""
        fields = ("format", "metric", "pattern", "solver", "quadratic", "drop", MADE_WITH)
        if not isinstance(data, dict):
            raise ConfigError(f"{where}: a recipe is a JSON object, found {type(data).__name__}.")
        for key in data:
            if key not in fields:
                raise ConfigError(f"{where}: unknown key {key!r}.{did_you_mean(key, fields)}")
        if data.get("format") != FORMAT:
            raise ConfigError(
                f"{where}: format is {data.get('format')!r}, this version reads {FORMAT!r}."
            )
        quadratic = data.get("quadratic", {"name": RECONSTRUCTION})
        parts = {**data, "quadratic": quadratic}
        for key, kind in zip(fields[1:6], (dict, str, dict, dict, dict)):
            if not isinstance(parts.get(key), kind):
                raise ConfigError(f"{where}: {key!r} is missing or no {kind.__name__}.")
        for name, count in data["drop"].items():
            if type(count) is not int or not 0 <= count <= MOST:
                raise ConfigError(f"{where}: drop.{name} is {count!r}, not a count of weights.")
        for part in ("metric", "solver"):
            _check_settings(data[part], f"{where}: {part}")
        try:
            parse_pattern(data["pattern"])
            check_quadratic(quadratic, "quadratic")
            if data["solver"].get("name") in list(SETTINGS):
                check_settings(data["solver"], "solver")
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        solver = without_usual(data["solver"])
        return cls(data["metric"], data["drop"], data["pattern"], solver, quadratic)

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """The recipe in a JSON file."""
        return cls.read_with_origin(path)[0]

    @classmethod
    def read_with_origin(cls, path: Path) -> tuple["Recipe", dict[str, Any]]:
        """The recipe in a JSON file, and what stands beside it of where it was found."""
        try:
            data = json_in(path, "It is not a JSON recipe: write it anew.")
        except FileNotFoundError:
            raise ConfigError(f"{path}: there is no such recipe file.") from None
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None
        recipe = cls.from_json(data, where=str(path))
        return recipe, data.get(MADE_WITH, {})

    def check(self, layout: ModelLayout) -> None:
        """Raises a `ConfigError` unless every count fits the layer that it names."""
        pattern = self.pattern_object
        if missing := [name for name in layout.sizes if name not in self.drop]:
            raise ConfigError(
                f"The recipe says nothing of {len(missing)} of the model's {len(layout.layers)} "
                f"layers, first {missing[0]!r}. Was it made for another model?"
            )
        check_quadratic(self.quadratic, "recipe.quadratic", layout.by_name)
        for name, drop in self.drop.items():
            if name not in layout.by_name:
                raise ConfigError(
                    f"The recipe names a layer {name!r} that the model lacks."
                    f"{did_you_mean(name, layout.by_name)} Was it made for another model?"
                )
            layer = layout.by_name[name]
            pattern.check(layer)
            if drop > pattern.most(layer) or drop % pattern.step(layer):
                raise ConfigError(
                    f"{name}: {drop} of {layer.size} weights cannot be dropped under the pattern "
                    f"{self.pattern!r}. Was the recipe made for another model?"
                )


def _check_settings(spec: Mapping[str, Any], where: str) -> None:
    """Raises a `ConfigError` unless a metric or solver has a name, as has every part of it that has
    settings of its own, and numbers that a computer can count with."""
    if not isinstance(spec.get("name"), str):
        raise ConfigError(f"{where}: name is missing or no text.")
    for key, value in spec.items():
        if isinstance(value, Mapping):
            _check_settings(value, f"{where}.{key}")
        elif isinstance(value, int | float) and not -MOST <= value <= MOST:
            raise ConfigError(f"{where}.{key} is {value!r}, which is no setting.")
