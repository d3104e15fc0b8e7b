"""A search space as its YAML file says it, and the `SearchSpace` that becomes of it on a model."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from optishear.errors import ConfigError
from optishear.recipe.canonical import MASK, chooser_of, metric_under
from optishear.recipe.layout import ModelLayout
from optishear.recipe.metric_forms import NAMED_POINTS, OWN, reads_inputs
from optishear.recipe.parts import check_roles, matches
from optishear.recipe.patterns import Patterns
from optishear.recipe.profile import Rule, check_grid
from optishear.recipe.quadratic import AUTO, USUAL_DAMPING
from optishear.recipe.recipe import BY_BLOCK
from optishear.recipe.reconstruction import ReconstructionSettings
from optishear.search.gene_file import parse_setting, parse_templates
from optishear.search.genes import values_of
from optishear.search.quadratic_genes import quadratic_genes
from optishear.search.space import RoleGenes, SearchSpace
from optishear.search.space_parts import (
    SETTINGS,
    MoonshotSpec,
    PartSpec,
    RoleSpec,
    Setting,
    SparsitySpec,
    Templates,
)
from optishear.search.space_parts import Strict as Strict
from optishear.search.sparsity_genes import GROUPINGS, SparsityGenes
from optishear.search.template_genes import TemplateGenes, variants_of


class SpaceSpec(Strict):
    """What varies: metrics and their settings, layer sparsities, solvers, MOONSHOT's λ; on one
    pattern. `roles` says what layers of some roles have otherwise: the first entry counts whose
    pattern of roles, such as `mlp.*`, matches."""

    later = frozenset(
        {"solver", "moonshot", "damping", "target_shift", "order", "reconstruct", "roles"}
    )

    pattern: str = "row"
    metric: Templates = ({"name": "wanda"},)
    sparsity: SparsitySpec = SparsitySpec()
    solver: Templates = (MASK,)
    moonshot: MoonshotSpec | None = None
    damping: Setting = USUAL_DAMPING
    target_shift: Setting = 0.0
    order: Literal["block", "site"] = BY_BLOCK
    reconstruct: dict[str, Any] | None = None
    objectives: tuple[str, ...] | None = None
    roles: dict[str, RoleSpec] = Field(default_factory=dict)

    @field_validator("reconstruct", mode="before")
    @classmethod
    def _as_recipes_say_it(cls, said: Any) -> Any:
        """However it is written, one setting has one hash."""
        if isinstance(said, str):
            return ReconstructionSettings.parsed(said, "reconstruct").to_json()
        if isinstance(said, Mapping):
            return ReconstructionSettings.of(said).to_json()
        return said

    @model_validator(mode="after")
    def _sound(self) -> "SpaceSpec":
        patterns, sparsity = self.patterns, self.sparsity
        shares = {asked.fixed for asked in patterns.every}
        if None not in shares and sparsity.by != "uniform":
            raise ConfigError(
                f"pattern {self.pattern!r} fixes every layer's N, so there is nothing to search by "
                f"{sparsity.by!r}. Use pattern {patterns.default.pattern.text!r} or sparsity.by "
                f"'uniform'."
            )
        [fixed] = shares if len(shares) == 1 else [None]
        if fixed is not None and sparsity.budget not in (None, fixed):
            raise ConfigError(
                f"pattern {self.pattern!r} has a sparsity of {fixed:g}, but sparsity.budget is "
                f"{sparsity.budget}. Leave one of them out."
            )
        for asked in patterns.every:
            if sparsity.steps is not None and (levels := asked.pattern.levels) is not None:
                raise ConfigError(
                    f"sparsity.steps {sparsity.steps}: the pattern {asked.text!r} has steps of "
                    f"its own, {levels} a layer. Leave steps out."
                )
        self._refuse_what_nothing_reads()
        return self

    def _refuse_what_nothing_reads(self) -> None:
        """Settings that no recipe of the space depends on are mistakes too."""
        heard, damped = False, False
        for spec in self.every:
            solvers = [solver for template in spec.solvers for solver in variants_of(template)]
            metrics = [metric for template in spec.metrics for metric in variants_of(template)]
            itself = [metric_under(solver, MASK)["name"] == OWN for solver in solvers]
            moves = any(solver != MASK for solver in solvers) or _shifts(spec.quadratic)
            heard = heard or moves or any(map(reads_inputs, metrics))
            damped = damped or (moves and "damping" not in spec.own_quadratic)
            if all(itself) and spec.own_metric and TemplateGenes("metric", spec.metrics).genes:
                raise ConfigError(
                    f"{spec.where}metric: its genes change nothing, since {chooser_of(solvers[0])} "
                    f"chooses by itself. Leave metric out, or add a solver that reads it, such as "
                    f"mask."
                )
            if not moves and "damping" in spec.own_quadratic:
                raise self._idle_damping(f"{spec.where}damping {spec.own_quadratic['damping']}")
        if not damped and self.damping != USUAL_DAMPING:
            raise self._idle_damping(f"damping {self.damping}")
        if self.moonshot is not None and any(
            AUTO in values_of(spec.quadratic["damping"]) for spec in self.every
        ):
            raise ConfigError(
                f"damping {AUTO!r} is chosen by the reconstruction error, and moonshot mixes the "
                f"Taylor loss in. Give numbers for damping, or leave moonshot out."
            )
        if self.order != BY_BLOCK and not heard:
            raise ConfigError(
                f"order {self.order} changes nothing, since nothing reads inputs. Leave it out."
            )
        if self.moonshot is not None and not heard:
            raise ConfigError(
                f"moonshot changes nothing, since mask moves no weights and the metric "
                f"{self.metrics[0]['name']!r} reads no inputs. Use wanda, or a solver that moves "
                f"them."
            )

    @staticmethod
    def _idle_damping(what: str) -> ConfigError:
        return ConfigError(
            f"{what} changes nothing, since mask moves no weights. Leave it out, or add a solver "
            f"that does."
        )

    @property
    def every(self) -> Iterator[PartSpec]:
        """What each entry comes to, and what the layers have that none of them names."""
        quadratic = self.quadratic
        yield PartSpec("", self.pattern, self.metrics, self.solvers, True, quadratic, {})
        for match, role in self.roles.items():
            where = f"roles.{match}."
            own = role.quadratic(where)
            yield PartSpec(
                where,
                role.pattern or self.pattern,
                parse_templates(f"{where}metric", role.metric) if role.metric else self.metrics,
                parse_templates(f"{where}solver", role.solver) if role.solver else self.solvers,
                role.metric is not None,
                {**quadratic, **own},
                own,
            )

    @property
    def quadratic(self) -> dict[str, Any]:
        """The settings of the quadratic, each a value or a gene."""
        return {key: parse_setting("", key, getattr(self, key)) for key in SETTINGS}

    def only_by_block(self, around: bool) -> list[str]:
        """What of it has no meaning where all layers of a candidate are pruned at once; `around`:
        with statistics of a model that is pruned already (`Recipe.only_by_block`)."""
        said: list[str] = []
        if not around:
            shifted = any(_shifts(spec.quadratic) for spec in self.every)
            said += ["target_shift"] * shifted + [f"order: {self.order}"] * (self.order != BY_BLOCK)
        return said + ["reconstruct"] * (self.reconstruct is not None)

    @property
    def reconstruction(self) -> ReconstructionSettings | None:
        """What moves the kept weights of every candidate."""
        return None if self.reconstruct is None else ReconstructionSettings.of(self.reconstruct)

    @property
    def patterns(self) -> Patterns:
        return Patterns.asked(self.pattern, {k: role.pattern for k, role in self.roles.items()})

    @property
    def resolved_budget(self) -> float | None:
        """Of all weights; where every layer has the same N of M, what follows from that."""
        shares = {asked.fixed for asked in self.patterns.every}
        return self.sparsity.budget if len(shares) > 1 or None in shares else shares.pop()

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
    patterns, by = spec.patterns, spec.sparsity.by
    if by not in (*GROUPINGS, *rules):
        raise ConfigError(
            f"sparsity.by {by!r} is unknown. There are: {', '.join([*GROUPINGS, *rules])}."
        )
    check_entries(spec, layout)
    check_grid(layout, patterns, spec.sparsity.bounds)
    layers = SparsityGenes(
        layout,
        patterns,
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
        quadratic_genes(spec.moonshot, spec.quadratic, layout),
        tuple(_role_genes(match, role) for match, role in spec.roles.items()),
        spec.order,
        spec.reconstruction,
    )
    if not space.genes:
        raise ConfigError(
            "The search space holds one recipe only: give a metric setting, the solver, moonshot "
            "or the sparsity a gene (for instance sparsity.by: block), or use `optishear prune`."
        )
    return space


def _shifts(quadratic: Mapping[str, Any]) -> bool:
    """Whether any recipe has a target shift."""
    return quadratic["target_shift"] != 0


def _role_genes(match: str, role: RoleSpec) -> RoleGenes:
    def genes(part: str, said: Templates | None, points: Mapping[str, Any]) -> TemplateGenes | None:
        name = f"roles.{match}.{part}"
        return None if said is None else TemplateGenes(name, parse_templates(name, said), points)

    metric, solver = genes("metric", role.metric, NAMED_POINTS), genes("solver", role.solver, {})
    return RoleGenes(match, metric, solver, role.quadratic(f"roles.{match}."))


def check_entries(spec: SpaceSpec, layout: ModelLayout) -> None:
    """Raises a `ConfigError` for entries of roles, or genes of the other layers, that are about no
    layer of this model."""
    check_roles(list(spec.roles), layout.roles, "roles")
    left = [role for role in layout.roles if not any(matches(m, role) for m in spec.roles)]
    for part in ("metric", "solver"):
        if left or any(getattr(role, part) is None for role in spec.roles.values()):
            continue
        if TemplateGenes(part, parse_templates(part, getattr(spec, part))).genes:
            raise ConfigError(
                f"{part}: its genes change nothing, since every role has a {part} of its own. "
                f"Leave {part} out, or leave it to some roles."
            )
