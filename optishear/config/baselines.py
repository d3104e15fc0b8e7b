"""Baselines: a fixed method by name, pattern and rule: `wanda`, `wanda:layer`, `wanda@owl`."""

from dataclasses import dataclass

from optishear.allocation import READS_INPUTS, UNIFORM
from optishear.calibration.statistics import InputSq, Need
from optishear.recipe.lookup import lookup
from optishear.recipe.pattern import Pattern, parse_pattern
from optishear.recipe.patterns import Asked, Patterns
from optishear.recipe.quadratic import MOONSHOT
from optishear.recipe.rule_settings import parse_rule
from optishear.solvers.methods import METHODS, Method, needs_of_parts


@dataclass(frozen=True)
class Baseline:
    """What a found recipe is put beside: `method` with layer sparsities by the published `rule`.

    `pattern`: the one that was asked for; None is the method's own.
    """

    name: str
    method: Method
    rule: str = UNIFORM
    pattern: Pattern | None = None

    def patterns_beside(self, found: Patterns) -> Patterns:
        """The patterns on which it stands beside a recipe that was found on those.

        The published method has its own. Only N:M is no choice of a method's, but what hardware
        asks for: beside it every method keeps N of M, in the layers that do there.
        """
        if self.pattern is not None:
            return Patterns.over(self.pattern)
        own = Asked(parse_pattern(self.method.pattern))

        def beside(asked: Asked) -> Asked:
            return own if asked.pattern.levels is None else asked

        roles = tuple((match, beside(asked)) for match, asked in found.roles)
        default = beside(found.default)
        return Patterns(default, roles if any(asked != default for _, asked in roles) else ())

    @property
    def needs(self) -> frozenset[Need]:
        """The statistics that it reads."""
        reads = parse_rule(self.rule, self.name).name in READS_INPUTS
        rule = frozenset({InputSq}) if reads else frozenset()
        method = self.method
        return needs_of_parts(method.parts, method.quadratic == MOONSHOT) | rule


def parse_baseline(name: str) -> Baseline:
    """Of METHOD[:PATTERN][@RULE]. Raises a `ConfigError` for names that there are not."""
    rest, _, rule = name.partition("@")
    method, _, pattern = rest.partition(":")
    chosen = parse_rule(rule or UNIFORM, f"baseline {name}")
    known = lookup(METHODS, method, kind="method")
    return Baseline(name, known, chosen.text, parse_pattern(pattern) if pattern else None)
