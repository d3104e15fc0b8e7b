"""A search space as its YAML file says it, and the `SearchSpace` that becomes of it on a model."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from optishear.errors import ConfigError
from optishear.recipe.canonical import MASK, chooser_of, metric_under
from optishear.recipe.layout import ModelLayout
from optishear.recipe.metric_forms import NAMED_POINTS, OWN, reads_inputs
from optishear.recipe.pattern import Pattern, parse_asked
from optishear.recipe.profile import Rule, check_grid
from optishear.recipe.quadratic import USUAL_DAMPING
from optishear.search.gene_file import parse_templates
from optishear.search.quadratic_genes import quadratic_genes
from optishear.search.space import SearchSpace
from optishear.search.space_parts import MoonshotSpec, SparsitySpec
from optishear.search.space_parts import Strict as Strict
from optishear.search.sparsity_genes import GROUPINGS, SparsityGenes
from optishear.search.template_genes import TemplateGenes, variants_of


class SpaceSpec(Strict):
    """What varies: metrics and their settings, layer sparsities, solvers, MOONSHOT's λ; on one
    pattern."""

    later = frozenset({"solver", "moonshot", "damping"})

    pattern: str = "row"
    metric: tuple[dict[str, Any], ...] = ({"name": "wanda"},)
    sparsity: SparsitySpec = SparsitySpec()
    solver: tuple[dict[str, Any], ...] = (MASK,)
    moonshot: MoonshotSpec | None = None
    damping: float = Field(default=USUAL_DAMPING, ge=0, le=1)
    objectives: tuple[str, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, data: Any) -> Any:
        if isinstance(data, dict):
            alone = {k: [data[k]] for k in ("metric", "solver") if isinstance(data.get(k), dict)}
            data = {**data, **alone}
        return data

    @model_validator(mode="after")
    def _sound(self) -> "SpaceSpec":
        pattern, fixed = parse_asked(self.pattern)
        if fixed is not None and self.sparsity.by != "uniform":
            raise ConfigError(
                f"pattern {self.pattern!r} fixes every layer's N, so there is nothing to search by "
                f"{self.sparsity.by!r}. Use pattern {pattern.text!r} or sparsity.by 'uniform'."
            )
        if fixed is not None and self.sparsity.budget not in (None, fixed):
            raise ConfigError(
                f"pattern {self.pattern!r} has a sparsity of {fixed:g}, but sparsity.budget is "
                f"{self.sparsity.budget}. Leave one of them out."
            )
        if self.sparsity.steps is not None and pattern.levels is not None:
            raise ConfigError(
                f"sparsity.steps {self.sparsity.steps}: the pattern {self.pattern!r} has steps of "
                f"its own, {pattern.levels} a layer. Leave steps out."
            )
        self._refuse_what_nothing_reads()
        return self

    def _refuse_what_nothing_reads(self) -> None:
        """Settings that no recipe of the space depends on are mistakes too."""
        solvers = [solver for template in self.solvers for solver in variants_of(template)]
        metrics = [metric for template in self.metrics for metric in variants_of(template)]
        itself = [metric_under(solver, MASK)["name"] == OWN for solver in solvers]
        if all(itself) and TemplateGenes("metric", self.metrics).genes:
            raise ConfigError(
                f"metric: its genes change nothing, since {chooser_of(solvers[0])} chooses by "
                f"itself. Leave metric out, or add a solver that reads it, such as mask."
            )
        if any(solver != MASK for solver in solvers):
            return
        if self.damping != USUAL_DAMPING:
            raise ConfigError(
                f"damping {self.damping:g} changes nothing, since mask moves no weights. Leave it "
                f"out, or add a solver that does."
            )
        if self.moonshot is not None and not any(map(reads_inputs, metrics)):
            raise ConfigError(
                f"moonshot changes nothing, since mask moves no weights and the metric "
                f"{metrics[0]['name']!r} reads no inputs. Use wanda, or a solver that moves them."
            )

    @property
    def resolved_pattern(self) -> Pattern:
        return parse_asked(self.pattern)[0]

    @property
    def resolved_budget(self) -> float | None:
        _, fixed = parse_asked(self.pattern)
        return self.sparsity.budget if fixed is None else fixed

    @property
    def metrics(self) -> tuple[dict[str, Any], ...]:
        """The metrics with each `{choice: ...}`, `{real: ...}`, `{integer: ...}` made a gene."""
        return parse_templates("metric", self.metric)

    @property
    def solvers(self) -> tuple[dict[str, Any], ...]:
        """The solvers, likewise."""
        return parse_templates("solver", self.solver)


def build_space(spec: SpaceSpec, layout: ModelLayout, rules: Mapping[str, Rule]) -> SearchSpace:
    """The space on one model: its layers become genes. Raises `ConfigError` where they cannot."""
    pattern, by = spec.resolved_pattern, spec.sparsity.by
    if by not in (*GROUPINGS, *rules):
        raise ConfigError(
            f"sparsity.by {by!r} is unknown. There are: {', '.join([*GROUPINGS, *rules])}."
        )
    check_grid(layout, pattern, spec.sparsity.bounds)
    layers = SparsityGenes(
        layout,
        pattern,
        by,
        spec.sparsity.bounds,
        level=spec.resolved_budget is None,
        options=spec.sparsity.options,
        width=spec.sparsity.width,
        rules=rules,
    )
    space = SearchSpace(
        TemplateGenes("metric", spec.metrics, NAMED_POINTS),
        layers,
        spec.resolved_budget,
        TemplateGenes("solver", spec.solvers),
        quadratic_genes(spec.moonshot, spec.damping, layout),
    )
    if not space.genes:
        raise ConfigError(
            "The search space holds one recipe only: give a metric setting, the solver, moonshot "
            "or the sparsity a gene (for instance sparsity.by: block), or use `optishear prune`."
        )
    return space
