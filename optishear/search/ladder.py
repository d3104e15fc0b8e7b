"""A ladder of fidelities: every candidate is measured on few tokens, the promising ones on more."""

from dataclasses import dataclass

import numpy as np

from optishear.errors import ConfigError
from optishear.search.front import Points, hypervolume, non_dominated


REFERENCE = 1.1  # in every objective, once they are scaled to [0, 1]


@dataclass(frozen=True)
class Ladder:
    """The rungs that candidates climb, and who goes on from one to the next.

    Rung t is the first t search tokens, so all candidates on it see the same ones (common random
    numbers), and one that goes on pays for its further tokens only. A value is compared with
    values of its own rung and with no others.

    - `rungs`: search tokens, ascending; the last rung is all of them.
    - `promoted`: the share of the candidates on one rung that goes on to the next.
    - `least`: so many go on (if there are) where the share is smaller.
    - `by_generation`: the driver is told the values of the lowest rung, which all candidates have,
      and they climb when the search is over. With this, each generation climbs at once, and the
      driver is told the values of the top, where those who did not reach it count as failed.
    """

    rungs: tuple[int, ...]
    promoted: float = 0.25
    least: int = 1
    by_generation: bool = False

    def __post_init__(self) -> None:
        if not self.rungs or list(self.rungs) != sorted(set(self.rungs)) or self.rungs[0] < 1:
            raise ConfigError(
                f"The rungs {list(self.rungs)} do not ascend to all search tokens. List numbers of "
                f"tokens below their total, each once, the smallest first."
            )

    @property
    def told(self) -> int:
        """The rung whose values the driver is told."""
        return self.rungs[-1 if self.by_generation else 0]

    def going_on(self, values: Points) -> list[int]:
        """Which of the candidates with these values on one rung, all minimised, go on."""
        return promising(values, self.places(len(values)))

    def places(self, candidates: int) -> int:
        """How many of so many successful candidates on one rung go on to the next."""
        return min(candidates, max(self.least, round(self.promoted * candidates)))


def promising(values: Points, most: int) -> list[int]:
    """The indices, ascending, of the `most` best points (or all): front after front.

    Of the first front for which there is no room, one by one the point that adds most hypervolume
    to those already taken of it, objectives scaled to [0, 1] over this front; a tie goes to the
    lowest index. (Crowding distance would take the corners first, which are seldom wanted.)
    """
    left, chosen = np.arange(len(values)), []
    while len(left) and len(chosen) < most:
        front = non_dominated(values[left])
        chosen += left[front][spread(values[left[front]], most - len(chosen))].tolist()
        left = np.delete(left, front)
    return sorted(chosen)


def spread(front: Points, most: int) -> list[int]:
    """The at most `most` points of a front that dominate much, taken greedily.

    A point never adds more later than it would add now: what it added when it was last looked at
    is a bound, and only the point with the highest bound is looked at again.
    """
    if len(front) <= most:
        return list(range(len(front)))
    extent = np.ptp(front, axis=0)
    scaled = (front - front.min(axis=0)) / np.where(extent > 0, extent, 1.0)
    reference = np.full(front.shape[1], REFERENCE)
    chosen: list[int] = []
    bounds, looked_at = np.full(len(front), np.inf), np.full(len(front), -1)
    volume = 0.0
    while len(chosen) < most:
        best = int(np.argmax(bounds))
        if looked_at[best] == len(chosen):
            volume += bounds[best]
            bounds[best] = -np.inf
            chosen.append(best)
        else:
            bounds[best] = hypervolume(scaled[[*chosen, best]], reference) - volume
            looked_at[best] = len(chosen)
    return chosen
