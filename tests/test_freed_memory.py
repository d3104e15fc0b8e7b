"""Freed blocks between blocks that live on: do they go back to the system?"""

import pytest

from optishear import freed_memory
from optishear.freed_memory import FreedMemory, resident_bytes


MB = 10**6
needs_glibc = pytest.mark.skipif(
    freed_memory._malloc_trim() is None, reason="this C library has no malloc_trim"
)


def holes(bytes_: int) -> list[bytes]:
    """What is left of so many bytes: one block of 50 kB in a hundred, in between the others."""
    blocks = [bytes([i % 251 + 1]) * 50_000 for i in range(bytes_ // 50_000)]
    return blocks[::100]


@needs_glibc
def test_holes_are_given_back_once_they_are_larger_than_the_slack():
    freed = FreedMemory(slack=50 * MB)
    before = resident_bytes()
    left = holes(200 * MB)
    with_holes = resident_bytes()
    assert with_holes > before + 150 * MB, "the C library gave them back by itself"

    assert freed.give_back()

    assert resident_bytes() < with_holes - 150 * MB
    assert all(block == block[:1] * 50_000 for block in left)


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
