"""Baselines: a fixed method by name, pattern and rule: `wanda`, `wanda:layer`, `wanda@owl`."""

from dataclasses import dataclass

from optishear.allocation import READS_INPUTS, UNIFORM
from optishear.calibration.statistics import InputSq, Need
from optishear.recipe.lookup import lookup
from optishear.recipe.pattern import Pattern, parse_pattern
from optishear.recipe.recipe import Recipe
from optishear.recipe.rule_settings import parse_rule
from optishear.solvers.methods import METHODS, Method, needs_of


@dataclass(frozen=True)
class Baseline:
    """What a found recipe is put beside: `method` with layer sparsities by the published `rule`.

    `pattern`: the one that was asked for; None is the method's own.
    """

    name: str
    method: Method
    rule: str = UNIFORM
    pattern: Pattern | None = None

    def pattern_beside(self, found: Pattern) -> Pattern:
        """The pattern on which it stands beside a recipe that was found on that one.

        The published method has its own. Only N:M is no choice of a method's, but what hardware
        asks for: beside it every method keeps N of M.
        """
        if self.pattern is not None:
            return self.pattern
        return found if found.levels is not None else parse_pattern(self.method.pattern)

    @property
    def needs(self) -> frozenset[Need]:
        """The statistics that it reads."""
        method = self.method
        plan = Recipe(method.metric, {}, method.pattern, method.solver, {"name": method.quadratic})
        reads = parse_rule(self.rule, self.name).name in READS_INPUTS
        rule = frozenset({InputSq}) if reads else frozenset()
        return needs_of(plan) | rule


def parse_baseline(name: str) -> Baseline:
    """Of METHOD[:PATTERN][@RULE]. Raises a `ConfigError` for names that there are not."""
    rest, _, rule = name.partition("@")
    method, _, pattern = rest.partition(":")
    chosen = parse_rule(rule or UNIFORM, f"baseline {name}")
    known = lookup(METHODS, method, kind="method")
    return Baseline(name, known, chosen.text, parse_pattern(pattern) if pattern else None)
