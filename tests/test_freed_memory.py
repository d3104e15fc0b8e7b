"""Freed blocks between blocks that live on: do they go back to the system?

When they are asked for is held by readings that the tests give: what is really resident depends on
what else the machine needs its memory for.
"""

import os
import subprocess
import sys

import pytest

from optishear import freed_memory
from optishear.freed_memory import FreedMemory, malloc_trim, resident_bytes


MB = 10**6


class Process:
    """A process whose memory is told, of which some is freed and waits to be given back."""

    def __init__(self):
        self.live = self.freed = self.asked = 0

    def resident(self):
        return self.live + self.freed

    def trim(self):
        self.asked += 1
        self.freed = 0


@pytest.fixture
def process():
    return Process()


@pytest.fixture
def memory(process):
    return FreedMemory(slack=50 * MB, resident=process.resident, trim=process.trim)


def test_nothing_is_asked_up_to_the_slack_and_what_is_freed_goes_beyond_it(process, memory):
    process.freed = 50 * MB
    assert not memory.give_back()
    process.freed += 1
    assert memory.give_back()
    assert (process.asked, process.resident()) == (1, 0)


def test_small_steps_add_up_to_the_slack(process, memory):
    asked = []
    for _ in range(6):
        process.freed += 20 * MB
        asked.append(memory.give_back())
    assert asked == [False, False, True] * 2


def test_what_stays_is_not_asked_for_twice(process, memory):
    process.live = 200 * MB
    assert [memory.give_back() for _ in range(3)] == [True, False, False]
    process.freed = 50 * MB
    assert not memory.give_back()
    process.freed += 1
    assert memory.give_back()


def test_what_went_by_itself_counts_again_when_it_comes_back(process, memory):
    process.live = 200 * MB
    assert memory.give_back()
    process.live = 0
    assert not memory.give_back()
    process.live = 200 * MB
    assert memory.give_back()


def test_what_is_there_at_first_is_not_asked_for(process):
    process.live = 200 * MB
    memory = FreedMemory(slack=50 * MB, resident=process.resident, trim=process.trim)
    assert not memory.give_back()


def test_without_such_a_c_library_nothing_is_done(monkeypatch):
    monkeypatch.setattr(freed_memory, "malloc_trim", lambda: None)
    assert not FreedMemory(0, resident=lambda: pytest.fail("was looked at")).give_back()


def test_resident_is_what_no_mapped_file_accounts_for(monkeypatch, tmp_path):
    statm = tmp_path / "statm"
    statm.write_text("9000 700 200 1 0 3000 0\n")  # pages: size, resident, shared, ...
    monkeypatch.setattr(freed_memory, "STATM", statm)
    assert resident_bytes() == 500 * os.sysconf("SC_PAGE_SIZE")


# What is left of 40 MB is one block of 50 kB in a hundred, in between the others. What the process
# holds is read with what was swapped out: that much is its own affair, whoever else needs memory.
HOLES = """
from optishear.freed_memory import malloc_trim, resident_bytes
def held():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return sum(int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "VmSwap"))
assert resident_bytes() > 0
trim, before = malloc_trim(), held()
blocks = [bytes([i % 251 + 1]) * 50_000 for i in range(800)][::100]
with_holes = held()
trim()
after = held()
assert all(block == block[:1] * 50_000 for block in blocks)
print(with_holes - before, with_holes - after)
"""


@pytest.mark.skipif(malloc_trim() is None, reason="this C library has no malloc_trim")
def test_the_c_library_gives_back_the_holes_that_it_keeps():
    # In a process of its own: in this one there may be room for them among what others freed.
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    kept, given_back = map(int, done.stdout.split())
    assert kept > 30 * MB, "the C library gave them back by itself"
    assert given_back > 30 * MB
