"""HOW MUCH each layer may lose, by published rules. Searched profiles come from `search`.

To add a rule: write a function of the layers that returns a `Rule`, add one line here.
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
