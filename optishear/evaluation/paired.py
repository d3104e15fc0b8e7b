"""Standard errors of means, and of differences between two models on the very same items."""

import math
from collections.abc import Sequence


def standard_error(values: Sequence[float]) -> float:
    """sqrt(sum (x - mean)^2 / (n - 1) / n); NaN for a single value, which tells of no spread."""
    n = len(values)
    if n < 2:
        return math.nan
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)


def paired_difference(own: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """The mean of own - other, item by item, and its standard error.

    What makes an item hard for both cancels, so it is far surer than the two errors suggest.
    """
    differences = [a - b for a, b in zip(own, other, strict=True)]
    return math.fsum(differences) / len(differences), standard_error(differences)
