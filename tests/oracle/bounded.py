"""A bound on how long something may take, to turn a hang into a failure; never a measurement."""

from __future__ import annotations

import contextlib
import signal


class TooLongError(Exception):
    """What was bounded did not end in time."""


@contextlib.contextmanager
def bounded(seconds):
    """Interrupt the block after ``seconds`` (where the system has alarms)."""

    def stop(*_):
        raise TooLongError(f"still running after {seconds} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
