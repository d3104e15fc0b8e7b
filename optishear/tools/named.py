"""Recipes from words: a named method with its options, or the mask of another checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxtyping import Bool
from torch import Tensor, nn

from optishear.allocation import UNIFORM
from optishear.calibration.statistics import Need
from optishear.errors import ConfigError
from optishear.interchange.masks import masks_hash, read_masks
from optishear.models.discover import layout_of
from optishear.models.load import load
from optishear.models.weights import read
from optishear.reading.yaml_data import yaml_of
from optishear.recipe.canonical import MASK, metric_under
from optishear.recipe.layout import ModelLayout
from optishear.recipe.lookup import did_you_mean, lookup
from optishear.recipe.metric_forms import GIVEN
from optishear.recipe.parts import ROLE_KEYS, Part, Parts, check_roles, simplest
from optishear.recipe.patterns import Patterns
from optishear.recipe.profile import check_sparsity
from optishear.recipe.quadratic import QuadraticSettings
from optishear.recipe.recipe import Recipe, checked_order
from optishear.runs.prepare import Prepared
from optishear.solvers.methods import METHODS, needs_of_parts, refitted, solver_of
from optishear.tools.profiles import Profile


MASK_SUFFIX = ".safetensors"
RoleParts = Mapping[str, Any]  # some of `ROLE_KEYS`


@dataclass(frozen=True)
class NamedMethod:
    """A method of the table, uniform over layers and counted as its own code counts, or with
    layer sparsities by a published rule or of a recipe.

    - `sparsity`: None where the pattern or the profile's recipe says it.
    - `profile`: a rule, such as `owl` or `owl:m=7`, or a run, pruned folder or recipe file, whose
      layer sparsities are taken; the sparsity is then met exactly.
    - `pattern`: None is the method's own; under N:M the sparsity follows from it.
    - `refit`: afterwards, the best weights for the mask.
    - `moonshot_lambda`: weight of the reconstruction against the Taylor loss; None is the method's
      own. `moonshot_roles`: attention, all, or names with commas.
    - `roles`: what the layers of some roles have otherwise; the first entry that matches counts.
    - `quadratic`: settings of the quadratic that are not the method's own.
    - `order`: in which a block's layers are solved; None is the method's own.
    """

    method: str
    sparsity: float | None = None
    pattern: str | None = None
    refit: bool = False
    moonshot_lambda: float | None = None
    moonshot_roles: str = "attention"
    quadratic: Mapping[str, Any] = field(default_factory=dict)
    profile: str = UNIFORM
    roles: tuple[tuple[str, RoleParts], ...] = ()
    order: str | None = None

    def __post_init__(self) -> None:
        """What can be checked before a model is loaded."""
        lookup(METHODS, self.method, kind="method")
        _ = self.layer_sparsities
        patterns, _ = self._where()
        for match, parts in self._entries(patterns):
            try:
                solver_of(parts)
            except ConfigError as error:
                raise ConfigError(f"--roles: {match}: {error}") from None
        if self.profile != UNIFORM and all(asked.fixed is not None for asked in patterns.every):
            raise ConfigError(
                f"--pattern {self.pattern} fixes every layer's N, so --profile {self.profile} has "
                f"nothing to say. Leave one of them out, or use --pattern "
                f"{patterns.default.pattern.text}."
            )
        lam = self.moonshot_lambda
        if lam is not None and not 0 <= lam <= 1:
            raise ConfigError(f"--moonshot-lambda {lam:g}: it must lie in [0, 1]; 1 is plain.")
        for key, value in self.quadratic.items():
            QuadraticSettings.check({key: value}, f"--{key.replace('_', '-')}")
        if self.order is not None:
            checked_order(self.order, "--order")

    @cached_property
    def layer_sparsities(self) -> Profile:
        return Profile.named(self.profile)

    @property
    def plain(self) -> bool:
        """Whether no Taylor loss is mixed in."""
        own = METHODS[self.method].moonshot_lambda
        return (own if self.moonshot_lambda is None else self.moonshot_lambda) == 1

    @property
    def refits_already(self) -> bool:
        """Whether its solver ends in the best weights for its mask, also without `refit`."""
        solver = METHODS[self.method].solver
        return refitted(solver) == solver

    @property
    def solves(self) -> bool:
        """Whether it reads the Hessian, which is damped."""
        moves = any(said.get("solver", MASK) != MASK for _, said in self.roles)
        own = METHODS[self.method].solver["name"] != "mask"
        return self.refit or not self.plain or own or moves or bool(self.settings.target_shift)

    @property
    def settings(self) -> QuadraticSettings:
        """Of the quadratic of layers that no role names."""
        return METHODS[self.method].settings.but(self.quadratic)

    @property
    def needs(self) -> frozenset[Need]:
        """What calibration collects for it."""
        patterns, _ = self._where()
        every = [self._default(patterns), *(parts for _, parts in self._entries(patterns))]
        return frozenset().union(*(needs_of_parts(parts, not self.plain) for parts in every))

    def _default(self, patterns: Patterns) -> Parts:
        method = METHODS[self.method]
        solver = refitted(method.solver) if self.refit else method.solver
        return Parts.of(method.metric, patterns.default.pattern, solver, self.settings)

    def _entries(self, patterns: Patterns) -> list[tuple[str, Parts]]:
        """The parts of the roles that are named; where a solver chooses by itself, with no metric
        but its own."""
        default, found = self._default(patterns), []
        for (match, said), (_, asked) in zip(self.roles, patterns.roles, strict=True):
            parts = default.but({**said, "pattern": asked.pattern})
            if "metric" not in said:
                parts = parts.but({"metric": metric_under(parts.solver, parts.metric)})
            found.append((match, parts))
        return found

    def recipe(self, layout: ModelLayout, prepared: Prepared | None = None) -> Recipe:
        """On a model with these layers; a published rule needs it `prepared`."""
        patterns, sparsity = self._where()
        check_roles([match for match, _ in self.roles], layout.roles, "--roles")
        for layer in layout.layers:
            patterns.at(layer).check(layer)
        drop = self.layer_sparsities.drop(layout, patterns, sparsity, prepared)
        roles = self.moonshot_roles
        recipe = METHODS[self.method].recipe(
            layout,
            drop,
            patterns,
            refit=self.refit,
            moonshot_lambda=self.moonshot_lambda,
            moonshot_roles=roles.split(",") if "," in roles else roles,
            settings=self.settings,
            order=self.order,
        )
        return replace(recipe, roles=simplest(recipe.default, self._entries(patterns)))

    def on(self, prepared: Prepared) -> Recipe:
        """On this model; a profile other than uniform is that of its weights and calibration."""
        return self.recipe(prepared.layout, prepared)

    def _where(self) -> tuple[Patterns, float | None]:
        """The patterns, and the sparsity of the whole that goes with them; None is that of the
        profile's recipe."""
        own = self.pattern or METHODS[self.method].pattern
        patterns = Patterns.asked(own, {match: said.get("pattern") for match, said in self.roles})
        shares = {asked.fixed for asked in patterns.every}
        implied = shares.pop() if len(shares) == 1 else None
        if implied is None:
            if self.sparsity is None and self.layer_sparsities.found is not None:
                return patterns, None
            if self.sparsity is None:
                raise ConfigError(f"--method {self.method} needs --sparsity, for instance 0.5.")
            return patterns, check_sparsity(self.sparsity, "--sparsity")
        if self.sparsity is not None and abs(self.sparsity - implied) > 1e-9:
            raise ConfigError(
                f"--pattern {self.pattern} has a sparsity of {implied:g}, but --sparsity says "
                f"{self.sparsity:g}. Leave --sparsity out."
            )
        return patterns, implied


def roles_asked(text: str) -> tuple[tuple[str, RoleParts], ...]:
    """`{mlp.*: {pattern: 2:4}}` -> what roles have otherwise, as a space's `roles` say it: pattern,
    metric, solver, settings of the quadratic; one of each, without genes."""
    data = yaml_of(text, "--roles")
    if not isinstance(data, dict) or not data:
        raise ConfigError(
            f"--roles {text}: write it as a mapping of roles, such as "
            "'{mlp.*: {pattern: 2:4}}'."
        )
    found = []
    for match, said in data.items():
        where = f"--roles: {match}"
        if not isinstance(said, dict) or not said:
            raise ConfigError(f"{where}: says nothing. Give it any of {', '.join(ROLE_KEYS)}.")
        for key, value in said.items():
            if key not in ROLE_KEYS:
                raise ConfigError(
                    f"{where}: unknown key {key!r}.{did_you_mean(str(key), ROLE_KEYS)} There are: "
                    f"{', '.join(ROLE_KEYS)}."
                )
            if key in ("metric", "solver"):
                if not isinstance(value, dict):
                    raise ConfigError(f"{where}: {key} is {value!r}, expected {{name: ...}}.")
                said[key] = Part(value, f"{where}: {key}")
        if "pattern" in said and not isinstance(said["pattern"], str):
            raise ConfigError(f"{where}: pattern is {said['pattern']!r}, expected such as 2:4.")
        QuadraticSettings.check(said, where)
        found.append((str(match), said))
    return tuple(found)


def masks_of(
    place: str, layout: ModelLayout, model_hash: str, any_model: bool = False
) -> dict[str, Bool[Tensor, "out in"]]:
    """What another checkpoint of the same architecture, or a mask file, keeps; by layer.

    A mask file says for which model it is; `any_model` takes it for another one all the same.
    """
    if place.endswith(MASK_SUFFIX) and not Path(place).is_dir():
        return read_masks(Path(place), layout, model_hash, any_model)
    other = load(place)
    if layout_of(other.model) != layout:
        raise ConfigError(f"--mask-from {place}: its layers are not those of the model to prune.")
    return nonzero_masks(other.model, layout, f"--mask-from {place}")


def nonzero_masks(
    model: nn.Module, layout: ModelLayout, where: str
) -> dict[str, Bool[Tensor, "out in"]]:
    """Where a pruned model's weights are not zero; a `ConfigError` for a dense one."""
    masks = {layer.name: read(model, layer) != 0 for layer in layout.layers}
    if all(bool(mask.all()) for mask in masks.values()):
        raise ConfigError(f"{where}: none of its weights is zero, it is not pruned.")
    return masks


def recipe_of_masks(masks: dict[str, Bool[Tensor, "out in"]], refit: bool) -> Recipe:
    """The recipe that keeps what these masks keep; it names them by a hash of their content."""
    metric = {"name": GIVEN, "hash": masks_hash(masks)}
    drop = {name: int((~mask).sum()) for name, mask in masks.items()}
    solver = {"name": "mask"}
    return Recipe.of(metric, drop, "layer", refitted(solver) if refit else solver)
