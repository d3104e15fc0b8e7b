"""Kills real replicas with -9 while they are at work."""

import os
import signal
import threading
import time
from contextlib import suppress

import psutil


LOOK = 0.2  # seconds after which it is asked anew who there is: that takes some milliseconds


def is_worker(process):
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline()).startswith("ray::")
    return False


def at_work(process):
    """Whether this process is a replica that is doing what it was asked at this moment."""
    with suppress(psutil.NoSuchProcess):
        return "ray::Replica.do" in " ".join(process.cmdline())
    return False


class Killer(threading.Thread):
    """Kills replicas in the middle of their work, so many of them or all that it sees; of this
    process' Ray only, for other tests may have one of their own beside it."""

    def __init__(self, most):
        super().__init__(daemon=True)
        self.most, self.killed, self.over = most, 0, threading.Event()

    def run(self):
        known, asked = [], -LOOK
        while not self.over.is_set() and self.killed < self.most:
            if time.monotonic() - asked > LOOK:
                known = psutil.Process().children(recursive=True)
                known, asked = [p for p in known if is_worker(p)], time.monotonic()
            for process in known:
                if self.killed < self.most and at_work(process):
                    os.kill(process.pid, signal.SIGKILL)
                    self.killed += 1
            time.sleep(0.005)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()
