"""The sections of a search space's YAML file, strictly read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_serializer,
    model_validator,
)

from optishear.errors import ConfigError
from optishear.recipe.profile import Bounds, check_sparsity
from optishear.recipe.rule_settings import parse_rule
from optishear.search.gene_file import parse_setting


class Strict(BaseModel):
    """Unknown keys are mistakes. Dumps have the keys that files have.

    `later`: fields that a dump leaves out at their defaults, so that what was written, and hashed,
    before there were such fields stays as it is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _as_files_have_it(self, dump: Any) -> dict[str, Any]:
        fields = type(self).model_fields
        return {
            fields[key].alias or key: value
            for key, value in dump(self).items()
            if key not in self.later
            or getattr(self, key) != fields[key].get_default(call_default_factory=True)
        }


class SparsitySpec(Strict):
    """`by`: block, layer, curve, or a rule: uniform, owl, alphapruning, with settings if need be.

    `steps`: every layer drops a multiple of 1/steps of itself, so that there are few levels, which
    solvers need to solve only once.
    """

    later = frozenset({"steps"})

    by: str = "uniform"
    low: float = 0.0
    high: float = 0.95
    options: tuple[float, ...] | None = None
    budget: float | None = None
    width: float = Field(default=0.3, gt=0, le=1)
    steps: int | None = None

    @field_validator("by", mode="before")
    @classmethod
    def _rule_as_text(cls, data: Any) -> Any:
        told = isinstance(data, Mapping) or (isinstance(data, str) and ":" in data)
        return parse_rule(data, "sparsity.by").text if told else data

    @model_validator(mode="after")
    def _possible(self) -> "SparsitySpec":
        for name, value in (("low", self.low), ("high", self.high)):
            check_sparsity(value, f"sparsity.{name}")
        for value in self.options or ():
            check_sparsity(value, "sparsity.options")
        if self.low > self.high:
            raise ConfigError(f"sparsity.low {self.low:g} is above sparsity.high {self.high:g}.")
        if self.budget is not None:
            check_sparsity(self.budget, "sparsity.budget")
            if not self.low <= self.budget <= self.high:
                raise ConfigError(
                    f"sparsity.budget {self.budget:g} lies outside [{self.low:g}, {self.high:g}], "
                    f"the bounds of every layer. Widen low and high."
                )
        if self.options is not None and self.by not in ("block", "layer"):
            raise ConfigError("sparsity.options needs sparsity.by to be 'block' or 'layer'.")
        if self.steps is not None:
            self._check_steps(self.steps)
        return self

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.low, self.high, self.steps)

    def _check_steps(self, steps: int) -> None:
        if self.options is not None:
            raise ConfigError(
                f"sparsity.steps {steps} and sparsity.options both say which sparsities there are. "
                f"Leave one of them out."
            )
        low, high = (count / steps for count in self.bounds.of(steps))
        if self.budget is not None and not low <= self.budget <= high:
            raise ConfigError(
                f"sparsity.budget {self.budget:g} lies outside [{low:g}, {high:g}], the levels of "
                f"{steps} steps within low and high. Widen these, or use more steps."
            )


def _one_is_a_list_of_one(data: Any) -> Any:
    return [data] if isinstance(data, dict) else data


Templates = Annotated[tuple[dict[str, Any], ...], BeforeValidator(_one_is_a_list_of_one)]


# Of the quadratic what can be searched: a value, or a gene of such values.
SETTINGS = ("damping", "target_shift")
Setting = float | str | dict[str, Any]


class RoleSpec(Strict):
    """What the layers of some roles have otherwise; what is left out is as in all layers."""

    pattern: str | None = None
    metric: Templates | None = None
    solver: Templates | None = None
    damping: Setting | None = None
    target_shift: Setting | None = None

    later = frozenset({"pattern", "metric", "solver", *SETTINGS})

    def quadratic(self, where: str) -> dict[str, Any]:
        """The settings that it says, with genes called by `where`."""
        said = {key: getattr(self, key) for key in SETTINGS}
        return {k: parse_setting(where, k, v) for k, v in said.items() if v is not None}

    @model_validator(mode="after")
    def _says_something(self) -> "RoleSpec":
        if not any((self.pattern, self.metric, self.solver, self.quadratic("roles."))):
            raise ConfigError(
                f"roles: an entry says nothing. Give it any of pattern, metric, solver, "
                f"{', '.join(SETTINGS)}, or leave it out."
            )
        return self


@dataclass(frozen=True)
class PartSpec:
    """What a space says of the layers that follow one entry, or none.

    - `where`: what sentences begin with, `roles.mlp.*.`, empty for the layers of no entry.
    - `metrics`, `solvers`: templates, which may be those of all layers.
    - `own_metric`: whether the metrics are said here.
    - `quadratic`: all settings, `own_quadratic`: those that the entry says; with genes in them.
    """

    where: str
    pattern: str
    metrics: tuple[dict[str, Any], ...]
    solvers: tuple[dict[str, Any], ...]
    own_metric: bool
    quadratic: dict[str, Any]
    own_quadratic: dict[str, Any]


class MoonshotSpec(Strict):
    """`by`: one λ for all mixed layers, for each of their roles or each block; or a fixed one.

    `roles` says which layers are mixed: attention, all, or roles by name. `options` are the only λ
    there are, so that solvers need to solve each layer only a few times.
    """

    later = frozenset({"options"})

    by: Literal["global", "role", "block"] = "global"
    low: float = Field(default=0.0, ge=0, le=1)
    high: float = Field(default=1.0, ge=0, le=1)
    roles: tuple[str, ...] = ("attention",)
    fixed: float | None = Field(default=None, ge=0, le=1, alias="lambda")
    options: tuple[float, ...] | None = None

    @field_validator("roles", mode="before")
    @classmethod
    def _one_role(cls, data: Any) -> Any:
        return (data,) if isinstance(data, str) else data

    @model_validator(mode="after")
    def _possible(self) -> "MoonshotSpec":
        if not self.roles or (len(self.roles) > 1 and {"attention", "all"} & set(self.roles)):
            raise ConfigError(
                f"moonshot.roles is {list(self.roles)}: write attention, all, or a list of the "
                f"model's own roles."
            )
        if self.options is not None:
            self._check_options(self.options)
        elif self.fixed is None:
            if self.low >= self.high:
                raise ConfigError(
                    f"moonshot.low {self.low:g} is not below moonshot.high {self.high:g}. Write "
                    f"lambda: {self.low:g} for a fixed one."
                )
        elif self.fixed == 1:
            raise ConfigError(
                "moonshot.lambda 1 is plain reconstruction. Leave moonshot out, or lower it."
            )
        elif (self.by, self.low, self.high) != ("global", 0, 1):
            raise ConfigError(
                f"moonshot.lambda {self.fixed:g} is fixed, so there is nothing to search. Leave "
                f"out either lambda, or by, low and high."
            )
        return self

    def _check_options(self, options: tuple[float, ...]) -> None:
        if self.fixed is not None or (self.low, self.high) != (0, 1):
            raise ConfigError(
                "moonshot.options already says which λ there are. Leave out lambda, low and high."
            )
        if len(set(options)) < 2 or not all(0 <= option <= 1 for option in options):
            raise ConfigError(
                f"moonshot.options {list(options)}: give two or more different numbers in [0, 1], "
                f"or write lambda for a fixed one."
            )
