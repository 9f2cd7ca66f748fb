"""A bound on how long something may take, to turn a hang into a failure; never a measurement."""

from __future__ import annotations

import contextlib
import signal


class TooLongError(Exception):
    """What was bounded did not end in time."""


@contextlib.contextmanager
def bounded(seconds):
    """Interrupt the block after ``seconds`` of the process's own time (where the system has timers)."""

    def stop(*_):
        raise TooLongError(f"still running after {seconds} s")

    if not hasattr(signal, "setitimer"):
        yield
        return
    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
