"""A search space as its YAML file says it, and the `SearchSpace` that becomes of it on a model."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from optishear.errors import ConfigError
from optishear.recipe.layout import ModelLayout
from optishear.recipe.pattern import NofM, Pattern, parse_n_of_m, parse_pattern
from optishear.recipe.profile import Bounds, Rule, check_sparsity
from optishear.search.genes import Choice, Gene, Integer, Real
from optishear.search.metric_genes import MetricGenes
from optishear.search.space import SearchSpace
from optishear.search.sparsity_genes import GROUPINGS, SparsityGenes


class Strict(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SparsitySpec(Strict):
    """`by`: block, layer, curve, or a rule: uniform, owl, alphapruning."""

    by: str = "uniform"
    low: float = 0.0
    high: float = 0.95
    options: tuple[float, ...] | None = None
    budget: float | None = None
    width: float = Field(default=0.3, gt=0, le=1)

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
        return self


class SpaceSpec(Strict):
    """What varies: settings of one or several metrics, layer sparsities, on one pattern."""

    pattern: str = "row"
    metric: tuple[dict[str, Any], ...] = ({"name": "wanda"},)
    sparsity: SparsitySpec = SparsitySpec()
    objectives: tuple[str, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_metric(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("metric"), dict):
            data = {**data, "metric": [data["metric"]]}
        return data

    @model_validator(mode="after")
    def _sound(self) -> "SpaceSpec":
        fixed = parse_n_of_m(self.pattern)
        if fixed is None:
            parse_pattern(self.pattern)
        elif self.sparsity.by != "uniform":
            raise ConfigError(
                f"pattern {self.pattern!r} fixes every layer's N, so there is nothing to search by "
                f"{self.sparsity.by!r}. Use pattern 'n:{fixed[1].m}' or sparsity.by 'uniform'."
            )
        elif self.sparsity.budget not in (None, 1 - fixed[0] / fixed[1].m):
            raise ConfigError(
                f"pattern {self.pattern!r} has a sparsity of {1 - fixed[0] / fixed[1].m:g}, but "
                f"sparsity.budget is {self.sparsity.budget}. Leave one of them out."
            )
        if not self.metric:
            raise ConfigError("metric: at least one is needed.")
        for index, template in enumerate(self.metric):
            if not isinstance(template.get("name"), str):
                raise ConfigError(f"metric.{index}: has no name.")
            _template(index, template)
        return self

    @property
    def resolved_pattern(self) -> Pattern:
        fixed = parse_n_of_m(self.pattern)
        return fixed[1] if fixed else parse_pattern(self.pattern)

    @property
    def resolved_budget(self) -> float | None:
        fixed = parse_n_of_m(self.pattern)
        return 1 - fixed[0] / fixed[1].m if fixed else self.sparsity.budget

    def templates(self) -> tuple[dict[str, Any], ...]:
        """The metrics with each `{choice: ...}`, `{real: ...}`, `{integer: ...}` made a gene."""
        return tuple(_template(index, template) for index, template in enumerate(self.metric))


def build_space(spec: SpaceSpec, layout: ModelLayout, rules: Mapping[str, Rule]) -> SearchSpace:
    """The space on one model: its layers become genes. Raises `ConfigError` where they cannot."""
    pattern, by = spec.resolved_pattern, spec.sparsity.by
    if by not in (*GROUPINGS, *rules):
        raise ConfigError(
            f"sparsity.by {by!r} is unknown. There are: {', '.join([*GROUPINGS, *rules])}."
        )
    if isinstance(pattern, NofM):
        for layer in layout.layers:
            pattern.check(layer)
    layers = SparsityGenes(
        layout,
        pattern,
        by,
        Bounds(spec.sparsity.low, spec.sparsity.high),
        level=spec.resolved_budget is None,
        options=spec.sparsity.options,
        width=spec.sparsity.width,
        rules=rules,
    )
    space = SearchSpace(MetricGenes(spec.templates()), layers, spec.resolved_budget)
    if not space.genes:
        raise ConfigError(
            "The search space holds one recipe only: give a metric setting or the sparsity a gene "
            "(for instance sparsity.by: block), or use `optishear prune`."
        )
    return space


def _template(index: int, data: Mapping[str, Any]) -> dict[str, Any]:
    prefix = f"metric.{index}.{data['name']}"
    return {
        key: _gene(f"{prefix}.{key}", value) if isinstance(value, dict) else value
        for key, value in data.items()
    }


def _gene(name: str, data: Mapping[str, Any]) -> Gene:
    kinds: tuple[Literal["choice", "real", "integer"], ...] = ("choice", "real", "integer")
    if len(data) != 1 or next(iter(data)) not in kinds:
        raise ConfigError(
            f"{name}: a gene is one of {{choice: [a, b, ...]}}, {{real: [low, high]}}, "
            f"{{integer: [low, high]}}; found {dict(data)}."
        )
    kind, values = next(iter(data.items()))
    if not isinstance(values, list | tuple) or len(values) < 1:
        raise ConfigError(f"{name}: {kind} needs a list of values, found {values!r}.")
    if kind == "choice":
        if len(set(map(str, values))) < len(values):
            raise ConfigError(f"{name}: choice lists an option twice.")
        return Choice(name, tuple(values))
    numbers = isinstance(values, list | tuple) and all(
        isinstance(v, int if kind == "integer" else int | float) and not isinstance(v, bool)
        for v in values
    )
    if len(values) != 2 or not numbers or not values[0] < values[1]:
        raise ConfigError(f"{name}: {kind} needs [low, high] with low < high, found {values!r}.")
    return Integer(name, *values) if kind == "integer" else Real(name, *map(float, values))
