"""Signals: a command that is told to end leaves as on Ctrl-C; half-written files are removed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


INTERRUPTED = 130


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


def asked_to_end() -> list[signal.Signals]:
    """Signals that would end this process at once. One that is ignored, as by `nohup`, stays so."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # not on Windows
    found = [signal.Signals[name] for name in names]
    return [number for number in found if signal.getsignal(number) == signal.SIG_DFL]


@contextmanager
def orderly() -> Iterator[None]:
    """While it is open those signals raise `Stopped`; a second one does not disturb the leaving."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = asked_to_end()

    def leave(number: int, _frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    try:
        for number in numbers:
            signal.signal(number, leave)
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def exit_code(error: KeyboardInterrupt) -> int:
    """As a shell tells of a process that a signal ended."""
    return 128 + error.number if isinstance(error, Stopped) else INTERRUPTED


def how_it_ended(error: KeyboardInterrupt) -> str:
    return f"stopped by {error}" if isinstance(error, Stopped) else "interrupted"
