"""Kills real replicas with -9 while they are at work."""

import os
import signal
import threading
import time
from contextlib import suppress

import psutil


def replicas_at_work():
    """Processes of replicas that are doing what they were asked at this moment; of this process'
    Ray only, for other tests may have one of their own beside it."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "ray::Replica.do" in " ".join(process.cmdline()):
                yield process


class Killer(threading.Thread):
    """Kills replicas in the middle of their work, so many of them or all that it sees."""

    def __init__(self, most):
        super().__init__(daemon=True)
        self.most, self.killed, self.over = most, 0, threading.Event()

    def run(self):
        while not self.over.is_set() and self.killed < self.most:
            for process in replicas_at_work():
                if self.killed < self.most:
                    os.kill(process.pid, signal.SIGKILL)
                    self.killed += 1
            time.sleep(0.005)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()
