"""A fixed method by name, at a fixed profile: `wanda`, or `wanda@owl`."""

from dataclasses import dataclass

from optishear.allocation import READS_INPUTS, RULES, UNIFORM
from optishear.calibration.statistics import Need
from optishear.recipe.lookup import lookup
from optishear.recipe.recipe import Recipe
from optishear.solvers.methods import METHODS, Method, needs_of


@dataclass(frozen=True)
class Baseline:
    """What a found recipe is put beside: `method` with layer sparsities by the published `rule`."""

    name: str
    method: Method
    rule: str = UNIFORM

    @property
    def method_name(self) -> str:
        return self.name.partition("@")[0]

    @property
    def needs(self) -> frozenset[Need]:
        """The statistics that it reads."""
        method = self.method
        plan = Recipe(method.metric, {}, method.pattern, method.solver, {"name": method.quadratic})
        rule = {Need.INPUT_SQ} if self.rule in READS_INPUTS else frozenset()
        return needs_of(plan) | rule


def parse_baseline(name: str) -> Baseline:
    """Of METHOD or METHOD@RULE. Raises a `ConfigError` for names that there are not."""
    method, _, rule = name.partition("@")
    rule = rule or UNIFORM
    lookup(RULES, rule, kind="rule of layer sparsities")
    return Baseline(name, lookup(METHODS, method, kind="method"), rule)
