"""Freed blocks between blocks that live on: do they go back to the system?"""

import subprocess
import sys

import pytest

from optishear import freed_memory
from optishear.freed_memory import FreedMemory


MB = 10**6
needs_glibc = pytest.mark.skipif(
    freed_memory._malloc_trim() is None, reason="this C library has no malloc_trim"
)


# What is left of 200 MB is one block of 50 kB in a hundred, in between the others.
HOLES = """
from optishear.freed_memory import FreedMemory, resident_bytes
freed, before = FreedMemory(slack=50 * 10**6), resident_bytes()
blocks = [bytes([i % 251 + 1]) * 50_000 for i in range(4_000)][::100]
with_holes = resident_bytes()
asked = freed.give_back()
after = resident_bytes()
assert all(block == block[:1] * 50_000 for block in blocks)
print(with_holes - before, int(asked), with_holes - after)
"""


@needs_glibc
def test_holes_are_given_back_once_they_are_larger_than_the_slack():
    # In a process of its own: in this one there may be room for them among what others freed.
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    held, asked, given_back = map(int, done.stdout.split())
    assert held > 150 * MB, "the C library gave them back by itself"
    assert asked
    assert given_back > 150 * MB


@needs_glibc
def test_nothing_is_asked_below_the_slack_and_what_stays_is_not_asked_for_twice():
    freed = FreedMemory(slack=50 * MB)
    assert not freed.give_back()
    kept = bytearray(b"x") * (200 * MB)
    assert freed.give_back()
    assert not freed.give_back()
    assert len(kept) == 200 * MB


@needs_glibc
def test_what_went_by_itself_counts_again_when_it_comes_back():
    freed = FreedMemory(slack=50 * MB)
    kept = bytearray(b"x") * (200 * MB)
    assert freed.give_back()
    del kept
    assert not freed.give_back()
    kept = bytearray(b"x") * (200 * MB)
    assert freed.give_back()
    assert len(kept) == 200 * MB


def test_without_such_a_c_library_nothing_is_done(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(freed_memory, "_malloc_trim", lambda: None)
    monkeypatch.setattr(freed_memory, "resident_bytes", lambda: pytest.fail("was looked at"))
    assert not FreedMemory(slack=0).give_back()
