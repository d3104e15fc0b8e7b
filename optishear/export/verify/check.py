"""`Check`: a question about a checkpoint, and its answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field


OK, FAILED, INFO, UNCHECKED = "ok", "failed", "info", "not checked"


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    - `status`: ok, failed, info (there was nothing to hold it against) or not checked.
    - `found`: one sentence. `details`: one a layer or tensor, the worst first.
    - `layers`: where the answer is a number a layer, these numbers.
    """

    name: str
    status: str
    found: str
    details: tuple[str, ...] = ()
    layers: Mapping[str, float] = field(default_factory=dict)


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"
