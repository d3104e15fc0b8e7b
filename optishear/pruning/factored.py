"""Quadratics that are factored already: few, since the factors of one input site are many times as
large as its layers.

Who prunes comes by site after site, in an order where now and then two take turns (a block whose
attention and MLP read one input). Who searches comes by all of them once a candidate, and has
`memory.factors` for that. No result depends on what is kept.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable

from optishear.solvers.hessian import most_bytes
from optishear.solvers.quadratic import Quadratic


LEAST = 2  # that are kept, whatever the room
Key = tuple[str, float, int]  # site, or layer where it is guided; damping; row groups


class Factored:
    """The quadratics used last: `LEAST` of them, and more as far as `room` bytes hold them all.

    Each counts with all the factors that it may come to have, so that none is let go of only
    because another one grew.
    """

    def __init__(self, room: int = 0):
        self.room = room
        self._held: OrderedDict[Key, Quadratic] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def anew(self) -> "Factored":
        """As much room, and nothing in it."""
        return Factored(self.room)

    def get(self, key: Key, width: int, make: Callable[[], Quadratic]) -> Quadratic:
        """The quadratic of this key, over `width` inputs; made if it is not here."""
        if key not in self._held:
            # Before the new one is made, so that the two are never in memory together.
            self._make_room(most_bytes(width) * max(1, key[2]))
            self._held[key] = make()
        self._held.move_to_end(key)
        return self._held[key]

    def _make_room(self, wanted: int) -> None:
        while len(self._held) >= LEAST and self._bytes + wanted > self.room:
            self._held.popitem(last=False)

    @property
    def _bytes(self) -> int:
        every = [hessian for held in self._held.values() for hessian in held.hessians]
        return sum(most_bytes(len(hessian.matrix)) for hessian in every)


def held_bytes(widths: Iterable[int], room: int) -> int:
    """The most that is held while sites of these widths come by, each once a round."""
    sizes = sorted((most_bytes(width) for width in widths), reverse=True)
    return max(sum(sizes[:LEAST]), min(room, sum(sizes)))
