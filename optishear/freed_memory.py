"""Freed memory given back to the system, where the C library's allocator would keep it."""

import ctypes
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path


SLACK = 2**29
STATM = Path("/proc/self/statm")


class FreedMemory:
    """glibc keeps freed blocks of up to 32 MB for later, and hardly ever finds one that fits among
    what lives longer: a search whose candidates need 2 GB held 22 GB after fifteen of them. Asked
    after each candidate, this makes it let go once another `slack` bytes are resident; elsewhere
    than on Linux with glibc it does nothing.

    - `resident`: reads how many bytes are resident, in microseconds.
    - `trim`: has the C library let go; None where it cannot.
    """

    def __init__(
        self,
        slack: int = SLACK,
        resident: Callable[[], int] | None = None,
        trim: Callable[[], object] | None = None,
    ) -> None:
        self.slack = slack
        self._read = resident_bytes if resident is None else resident
        self._trim = malloc_trim() if trim is None else trim
        self._resident = 0 if self._trim is None else self._read()

    def give_back(self) -> bool:
        """Whether the C library was asked."""
        if self._trim is None:
            return False
        resident = self._read()
        if resident <= self._resident + self.slack:
            self._resident = min(self._resident, resident)
            return False
        self._trim()
        self._resident = self._read()
        return True


def resident_bytes() -> int:
    """What this process holds in memory beside mapped files. Linux alone says so."""
    _, resident, shared, *_ = STATM.read_text().split()
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def malloc_trim() -> Callable[[], int] | None:
    """None where the C library has no such thing, as musl and those of macOS and Windows."""
    if sys.platform != "linux":
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if trim is None else partial(trim, 0)
