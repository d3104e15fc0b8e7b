"""Published rules for layer sparsities: HOW MUCH each layer may lose. Searched ones: `search`.

To add a rule: write a function of the layers and its settings that returns a `Rule`, add one line
here, and one with its settings, if any, to `recipe.rule_settings`.
"""

from optishear.allocation.alpha import alphapruning
from optishear.allocation.base import LayerView as LayerView
from optishear.allocation.base import RuleFunction, uniform
from optishear.allocation.owl import owl


RULES: dict[str, RuleFunction] = {
    "uniform": uniform,
    "owl": owl,
    "alphapruning": alphapruning,
}
UNIFORM = "uniform"
READS_INPUTS = frozenset({"owl"})  # those that need calibration


def rules_for(by: str) -> list[str]:
    """What a search looks at, with sparsities by `by`: every rule with its usual settings, and that
    one if it is a rule with others."""
    own = [by] if by.partition(":")[0] in RULES and by not in RULES else []
    return [*RULES, *own]
