"""Waiting for what happens, however long it takes beside whatever else runs."""

import time


def until(holds, still=lambda: True):
    """What `holds` returns once that is true. Fails as soon as nothing is `still` there that could
    make it so; that somebody hangs is told by pytest's own limit, and by no other clock."""
    while not (found := holds()):
        alive = still()
        if found := holds():  # it may have come about between the two questions
            return found
        assert alive, "whoever was waited for is gone"
        time.sleep(0.02)
    return found
