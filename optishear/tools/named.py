"""Recipes from words: a named method with its options, or the mask of another checkpoint."""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Bool
from torch import Tensor, nn

from optishear.allocation import UNIFORM
from optishear.calibration.statistics import Need
from optishear.errors import ConfigError
from optishear.interchange.masks import masks_hash, read_masks
from optishear.models.discover import layout_of
from optishear.models.load import load
from optishear.models.weights import read
from optishear.recipe.layout import ModelLayout
from optishear.recipe.lookup import lookup
from optishear.recipe.metric_forms import GIVEN
from optishear.recipe.pattern import Pattern, parse_asked
from optishear.recipe.profile import Bounds, Rule, check_sparsity, project, uniform
from optishear.recipe.quadratic import RECONSTRUCTION, USUAL_DAMPING, check_quadratic
from optishear.recipe.recipe import Recipe
from optishear.recipe.rule_settings import parse_rule
from optishear.runs.prepare import Prepared, rule_of
from optishear.solvers.methods import METHODS, needs_of_parts, refitted


MASK_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class NamedMethod:
    """A method of the table, uniform over layers and counted as its own code counts, or with
    layer sparsities by a published rule.

    - `profile`: a rule, such as `owl` or `owl:m=7`; the sparsity is then met exactly.
    - `pattern`: None is the method's own; under N:M the sparsity follows from it.
    - `refit`: afterwards, the best weights for the mask.
    - `moonshot_lambda`: weight of the reconstruction against the Taylor loss; None is the method's
      own. `moonshot_roles`: attention, all, or names with commas.
    - `damping`: relative to the mean diagonal; None is the usual one.
    """

    method: str
    sparsity: float | None = None
    pattern: str | None = None
    refit: bool = False
    moonshot_lambda: float | None = None
    moonshot_roles: str = "attention"
    damping: float | None = None
    profile: str = UNIFORM

    def __post_init__(self) -> None:
        """What can be checked before a model is loaded."""
        lookup(METHODS, self.method, kind="method")
        parse_rule(self.profile, "--profile")
        where, _ = self._where()
        if self.profile != UNIFORM and self.pattern and parse_asked(self.pattern)[1] is not None:
            raise ConfigError(
                f"--pattern {self.pattern} fixes every layer's N, so --profile {self.profile} has "
                f"nothing to say. Leave one of them out, or use --pattern {where.text}."
            )
        lam = self.moonshot_lambda
        if lam is not None and not 0 <= lam <= 1:
            raise ConfigError(f"--moonshot-lambda {lam:g}: it must lie in [0, 1]; 1 is plain.")
        if self.damping is not None:
            check_quadratic({"name": RECONSTRUCTION, "damping": self.damping}, "--damping")

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
        return self.refit or not self.plain or METHODS[self.method].solver["name"] != "mask"

    @property
    def needs(self) -> frozenset[Need]:
        """What calibration collects for it."""
        method = METHODS[self.method]
        solver = refitted(method.solver) if self.refit else method.solver
        return needs_of_parts(method.parts.with_solver(solver), not self.plain)

    def recipe(self, layout: ModelLayout, rule: Rule | None = None) -> Recipe:
        """On a model with these layers; `rule` is the profile's there, None the uniform one."""
        where, sparsity = self._where()
        for layer in layout.layers:
            where.check(layer)
        if rule is None:
            drop = uniform(layout, where, sparsity)
        else:
            budget = round(sparsity * layout.total)
            drop = project(rule.targets(sparsity), layout, where, Bounds(), budget)
        roles = self.moonshot_roles
        return METHODS[self.method].recipe(
            layout,
            drop,
            where.text,
            refit=self.refit,
            moonshot_lambda=self.moonshot_lambda,
            moonshot_roles=roles.split(",") if "," in roles else roles,
            damping=USUAL_DAMPING if self.damping is None else self.damping,
        )

    def on(self, prepared: Prepared) -> Recipe:
        """On this model; a profile other than uniform is that of its weights and calibration."""
        rule = None if self.profile == UNIFORM else rule_of(prepared, self.profile)
        return self.recipe(prepared.layout, rule)

    def _where(self) -> tuple[Pattern, float]:
        """The pattern, and the sparsity that goes with it."""
        where, implied = parse_asked(self.pattern or METHODS[self.method].pattern)
        if implied is None:
            if self.sparsity is None:
                raise ConfigError(f"--method {self.method} needs --sparsity, for instance 0.5.")
            return where, check_sparsity(self.sparsity, "--sparsity")
        if self.sparsity is not None and abs(self.sparsity - implied) > 1e-9:
            raise ConfigError(
                f"--pattern {self.pattern} has a sparsity of {implied:g}, but --sparsity says "
                f"{self.sparsity:g}. Leave --sparsity out."
            )
        return where, implied


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
