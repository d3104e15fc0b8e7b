"""Exchange of sparsity between genes: whole steps that together drop no weight more or fewer."""

import math
from collections import deque
from collections.abc import Sequence
from functools import cache


@cache
def fewest_steps(weights: Sequence[int], down: int, up: int) -> tuple[int, ...]:
    """How many steps each kind of gene takes, up or (negative) down, so that all weigh zero.

    `weights`: of a step of each kind. At least one step down of the kind `down` and one up of the
    kind `up`, and of all such exchanges one with the fewest steps: one and one where both weigh the
    same (then the sum for that kind is zero), eight small ones for a step eight times as heavy, or
    fewer where other kinds make up the difference.
    """
    unit = math.gcd(*weights)
    own = [weight // unit for weight in weights]
    most = max(own)
    start = own[down] - own[up]  # what was taken less what was given
    # Every exchange can be put into an order in which the balance stays within the heaviest step.
    came: dict[int, tuple[int, int, int]] = {start: (start, down, 0)}
    waiting = deque([start])
    while 0 not in came:
        balance = waiting.popleft()
        for kind, weight in enumerate(own):
            for side in (-1, 1):
                there = balance - side * weight
                backwards = kind == (down if side > 0 else up)
                if not backwards and abs(there) <= most and there not in came:
                    came[there] = (balance, kind, side)
                    waiting.append(there)
    counts = [0] * len(own)
    counts[down] -= 1
    counts[up] += 1
    balance, kind, side = came[0]
    while side:
        counts[kind] += side
        balance, kind, side = came[balance]
    return tuple(counts)
