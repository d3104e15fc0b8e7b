"""The recipe: what to do to a model, as plain data. A search candidate is one being tried."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from optishear.errors import ConfigError
from optishear.reading.json_data import json_in
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.lookup import did_you_mean
from optishear.recipe.metric_settings import check_metric
from optishear.recipe.parts import MOST, ROLE_KEYS, Parts, check_roles, first_match, simplest
from optishear.recipe.pattern import Pattern
from optishear.recipe.patterns import Asked, Patterns
from optishear.recipe.quadratic import (
    ONLY_CENTRED,
    ONLY_PLAIN,
    QUADRATIC_KEYS,
    RECONSTRUCTION,
    QuadraticSettings,
    check_quadratic,
    quadratic_spec,
)
from optishear.recipe.reconstruction import ReconstructionSettings
from optishear.recipe.solver_settings import SETTINGS, check_settings, without_usual


FORMAT, FORMAT_1 = "optishear-recipe/2", "optishear-recipe/1"
# All that a file says of a recipe beside its format and counts; journals have the same.
SAID = ("metric", "pattern", "solver", "quadratic", "roles", "order", "reconstruct")
BY_BLOCK, BY_SITE = ORDERS = ("block", "site")
MADE_WITH = "made_with"  # beside a recipe in its file, no part of it: on what it was found


@dataclass(frozen=True)
class Recipe:
    """Equal content, equal recipe, equal key; nothing in it depends on a machine or a run.

    - `default`: metric, pattern, solver and damping of the layers that no entry of `roles` names.
      Of a layer ask `at`, which knows.
    - `drop`: weights to drop per layer name.
    - `lambdas`: layer -> weight of its reconstruction against its Taylor loss (MOONSHOT), where it
      is not 1.
    - `roles`: patterns of roles, such as `mlp.*`, with the parts of these layers; the first that
      matches counts.
    - `order`: in which the layers of a block are solved: all at once, with what they read while it
      is dense (`block`), or in the order in which data flow through them (`site`), each with what
      it reads of those before it that are pruned.
    - `reconstruct`: how the kept weights of a block are moved once its layers are solved; None
      leaves them.
    """

    default: Parts
    drop: Mapping[str, int]
    lambdas: Mapping[str, float] = field(default_factory=dict)
    roles: tuple[tuple[str, Parts], ...] = ()
    order: str = BY_BLOCK
    reconstruct: ReconstructionSettings | None = None

    @classmethod
    def of(
        cls,
        metric: Mapping[str, Any],
        drop: Mapping[str, int],
        pattern: Pattern | str = "row",
        solver: Mapping[str, Any] | None = None,
        quadratic: Mapping[str, Any] | None = None,
        roles: Sequence[tuple[str, Mapping[str, Any]]] = (),
        order: str = BY_BLOCK,
        reconstruct: ReconstructionSettings | None = None,
    ) -> "Recipe":
        """As files say it: one metric, pattern, solver and quadratic for all layers, and what some
        `roles` have otherwise. A `ConfigError` for what can be none."""
        quadratic = {"name": RECONSTRUCTION} if quadratic is None else quadratic
        default = Parts.of(metric, pattern, solver, QuadraticSettings.of(quadratic))
        lambdas = {k: v for k, v in quadratic.get("lambda", {}).items() if v != 1}
        entries = [(match, default.but(said)) for match, said in roles]
        return cls(default, drop, lambdas, simplest(default, entries), order, reconstruct)

    def at(self, layer: Layer) -> Parts:
        """How this layer is pruned."""
        if not self.roles:
            return self.default
        if (found := self._by_role.get(layer.role)) is None:
            found = first_match(self.roles, layer.role, self.default)
            self._by_role[layer.role] = found
        return found

    @cached_property
    def _by_role(self) -> dict[str, Parts]:
        return {}

    @cached_property
    def every(self) -> tuple[Parts, ...]:
        """All parts that it has for layers of any role, each once."""
        return tuple(dict.fromkeys([self.default, *(parts for _, parts in self.roles)]))

    @property
    def same_everywhere(self) -> bool:
        """Whether `default` holds for every layer."""
        return not self.roles

    @property
    def patterns(self) -> Patterns:
        """The pattern of every layer."""
        roles = tuple((match, Asked(parts.pattern)) for match, parts in self.roles)
        return Patterns(Asked(self.default.pattern), roles)

    def lambda_of(self, layer: Layer) -> float:
        """The weight of the layer's reconstruction against its Taylor loss; 1 is plain."""
        return float(self.lambdas.get(layer.name, 1.0))

    @property
    def mixed(self) -> bool:
        """Whether the Taylor loss, which reads gradients, has a part in any layer."""
        return bool(self.lambdas)

    def row_groups(self, layers: Sequence[Layer]) -> dict[Layer, int]:
        """In how many row groups each of these layers is guided, those that are."""
        found = {layer: self.at(layer).quadratic.guided for layer in layers}
        return {layer: groups for layer, groups in found.items() if groups}

    def only_by_block(self, around: bool = False) -> list[str]:
        """What it says that has no meaning where all layers are pruned at once; so it is to be
        pruned block by block. `around`: with what they read of a model that is pruned already,
        beside the dense one; else of the dense one."""
        said: list[str] = []
        if not around:
            shifted = any(parts.quadratic.target_shift for parts in self.every)
            said += ["a target shift"] * shifted + ["an order by site"] * (self.order != BY_BLOCK)
        return said + ["a local reconstruction"] * (self.reconstruct is not None)

    def with_drop(self, drop: Mapping[str, int]) -> "Recipe":
        return replace(self, drop=drop)

    @cached_property
    def key(self) -> str:
        """Hash of the canonical JSON: the recipe's identity in journals and on the front.

        What format 1 could say is hashed as format 1 said it, so that it keeps its key.
        """
        said = self.to_json() if self.roles else self._said(FORMAT_1)
        text = json.dumps(said, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """As files hold it."""
        said = self._said(FORMAT)
        return said | {"roles": self.roles_to_json()} if self.roles else said

    def roles_to_json(self) -> list[dict[str, Any]]:
        """The entries in their order: the pattern of roles, and what is not as by default."""
        return [{"role": match, **parts.beyond(self.default)} for match, parts in self.roles]

    def _said(self, format_: str) -> dict[str, Any]:
        """All but roles. The usual quadratic is left out, so that recipes made before there was
        another keep their keys."""
        data = {
            "format": format_,
            "metric": self.default.metric.to_json(),
            "pattern": self.default.pattern.text,
            "solver": self.default.solver.to_json(),
            "quadratic": quadratic_spec(self.lambdas, self.default.quadratic),
            "drop": dict(self.drop),
        }
        if data["quadratic"] == {"name": RECONSTRUCTION}:
            del data["quadratic"]
        if self.order != BY_BLOCK:
            data["order"] = self.order
        if self.reconstruct is not None:
            data["reconstruct"] = self.reconstruct.to_json()
        return data

    @classmethod
    def from_json(cls, data: Any, where: str = "recipe") -> "Recipe":
        """A checked recipe; `where` names the file in the sentence of a `ConfigError`."""
        parts = ("metric", "pattern", "solver", "quadratic", "drop")
        fields = ("format", "drop", *SAID, MADE_WITH)
        if not isinstance(data, dict):
            raise ConfigError(f"{where}: a recipe is a JSON object, found {type(data).__name__}.")
        for key in data:
            if key not in fields:
                raise ConfigError(f"{where}: unknown key {key!r}.{did_you_mean(key, fields)}")
        if data.get("format") not in (FORMAT, FORMAT_1):
            raise ConfigError(
                f"{where}: format is {data.get('format')!r}, this version reads {FORMAT!r} and "
                f"{FORMAT_1!r}."
            )
        quadratic = data.get("quadratic", {"name": RECONSTRUCTION})
        said = {**data, "quadratic": quadratic}
        for key, kind in zip(parts, (dict, str, dict, dict, dict)):
            if not isinstance(said.get(key), kind):
                raise ConfigError(f"{where}: {key!r} is missing or no {kind.__name__}.")
        for name, count in data["drop"].items():
            if type(count) is not int or not 0 <= count <= MOST:
                raise ConfigError(f"{where}: drop.{name} is {count!r}, not a count of weights.")
        try:
            check_quadratic(quadratic, "quadratic")
            check_metric(data["metric"], "metric")
            return cls.of_parts(data, data["drop"])
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    @classmethod
    def of_parts(cls, said: Mapping[str, Any], drop: Mapping[str, int]) -> "Recipe":
        """With these counts, and the rest (`SAID`) as a file has it. A `ConfigError` for what can
        be no solver, role, order or reconstruction; metric and quadratic are not looked at."""
        return cls.of(
            said["metric"],
            drop,
            said["pattern"],
            checked_solver(said["solver"]),
            said.get("quadratic"),
            roles_of(said.get("roles", [])),
            checked_order(said.get("order", BY_BLOCK), "order"),
            reconstruction_of(said["reconstruct"]) if "reconstruct" in said else None,
        )

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """The recipe in a JSON file."""
        return cls.read_with_origin(path)[0]

    @classmethod
    def read_with_origin(cls, path: Path) -> tuple["Recipe", Any]:
        """The recipe in a JSON file, and what stands beside it of where it was found, as it stands
        there: a file may say anything."""
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
        if missing := [name for name in layout.sizes if name not in self.drop]:
            raise ConfigError(
                f"The recipe says nothing of {len(missing)} of the model's {len(layout.layers)} "
                f"layers, first {missing[0]!r}. Was it made for another model?"
            )
        check_roles([match for match, _ in self.roles], layout.roles, "recipe.roles")
        spec = quadratic_spec(self.lambdas, self.default.quadratic)
        check_quadratic(spec, "recipe.quadratic", layout.by_name)
        for layer in layout.layers:
            quadratic = self.at(layer).quadratic
            if quadratic.auto and (quadratic.guided or self.lambda_of(layer) != 1):
                raise ConfigError(f"{layer.name}: {ONLY_PLAIN}")
            others = quadratic.guided or quadratic.target_shift or quadratic.auto
            if quadratic.centred and (others or self.lambda_of(layer) != 1):
                raise ConfigError(f"{layer.name}: {ONLY_CENTRED}")
        for name, drop in self.drop.items():
            if name not in layout.by_name:
                raise ConfigError(
                    f"The recipe names a layer {name!r} that the model lacks."
                    f"{did_you_mean(name, layout.by_name)} Was it made for another model?"
                )
            layer = layout.by_name[name]
            if name in self.lambdas and self.at(layer).quadratic.guided:
                raise ConfigError(
                    f"{name}: is guided, and a lambda mixes its Taylor loss in as well: both are "
                    f"of the same gradients. Leave one of them out."
                )
            pattern = self.at(layer).pattern
            pattern.check(layer)
            if drop > pattern.most(layer) or drop % pattern.step(layer):
                raise ConfigError(
                    f"{name}: {drop} of {layer.size} weights cannot be dropped under the pattern "
                    f"{pattern.text!r}. Was the recipe made for another model?"
                )


def checked_order(order: Any, where: str) -> str:
    """`block` or `site`; a `ConfigError` for another."""
    if order not in ORDERS:
        raise ConfigError(f"{where}: is {order!r}, expected one of {', '.join(ORDERS)}.")
    return order


def reconstruction_of(said: Any) -> ReconstructionSettings:
    """As a recipe file has it, checked."""
    if not isinstance(said, dict):
        raise ConfigError(f"reconstruct: is {said!r}, expected an object with a name.")
    return ReconstructionSettings.of(said)


def checked_solver(said: Mapping[str, Any]) -> dict[str, Any]:
    """Without settings at their usual values; a `ConfigError` for one that a known solver lacks."""
    if said.get("name") in list(SETTINGS):
        check_settings(said, "solver")
    return without_usual(said)


def roles_of(data: Any) -> list[tuple[str, dict[str, Any]]]:
    """A recipe file's entries by role, checked."""
    if not isinstance(data, list):
        raise ConfigError(f"roles: a list of entries was expected, found {type(data).__name__}.")
    found = []
    for index, entry in enumerate(data):
        where = f"roles.{index}"
        if not isinstance(entry, dict) or not isinstance(entry.get("role"), str):
            raise ConfigError(f"{where}: role is missing or no text, such as 'mlp.*'.")
        for key, value in entry.items():
            if key not in (*ROLE_KEYS, "role"):
                raise ConfigError(f"{where}: unknown key {key!r}.{did_you_mean(key, ROLE_KEYS)}")
            kind = {"metric": dict, "solver": dict}.get(key, str)
            if key not in QUADRATIC_KEYS and not isinstance(value, kind):
                raise ConfigError(f"{where}: {key!r} is no {kind.__name__}.")
        said = {key: value for key, value in entry.items() if key != "role"}
        QuadraticSettings.check(said, where)
        check_metric(said.get("metric", {}), f"{where}.metric")
        if "solver" in said:
            said["solver"] = checked_solver(said["solver"])
        found.append((entry["role"], said))
    return found
