"""Runs a command, and turns every foreseen error into one line and an exit status."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer

from ..errors import DtnError
from . import INTERRUPTED, complain
from .commands import app

FAILED = 1
USAGE = 2
TERMINATED = 143

# The base of all usage errors is click's; Typer depends on click or, in newer versions, carries its own copy.
_USAGE_ERROR: type[Any] = typer.BadParameter.__mro__[2]


def run(arguments: Sequence[str] | None) -> int:
    """Run ``dtn``; see :func:`dtn_core.cli.main`."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - None where it is closed, as by `>&-`
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale's encoding may lack characters of what we print
            stream.reconfigure(errors="replace")
    try:
        with _ended_by_signal():
            status = app(args=given, prog_name="dtn", standalone_mode=False)
        sys.stdout.flush()
    except _USAGE_ERROR as error:
        message = error.format_message().rstrip(".")
        hint = "" if "\n" in message else f"; see dtn {_command(given)}--help"
        return complain(message + hint, USAGE)
    except typer.Abort:
        return complain("interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone, as in `dtn emit … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return complain(f"{error.filename}: {error.strerror}" if error.filename else str(error), FAILED)
    except DtnError as error:
        return complain(str(error), FAILED)
    if status == INTERRUPTED:  # Typer's own answer to Ctrl-C
        return complain("interrupted", INTERRUPTED)
    return status if isinstance(status, int) else 0


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Lets SIGTERM unwind the stack as Ctrl-C does, so that no child process and no file is left behind."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def unwind(number: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    previous = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _command(given: list[str]) -> str:
    """The command that was meant, of a group with the group's name, and a space after it; or nothing."""
    groups = {
        group.typer_instance.info.name: group.typer_instance for group in app.registered_groups if group.typer_instance
    }
    here = groups.get(given[0])
    if here is None:
        return f"{given[0]} " if given[0] in _names(app) else ""
    return f"{given[0]} {given[1]} " if given[1:] and given[1] in _names(here) else f"{given[0]} "


def _names(group: typer.Typer) -> set[str]:
    return {command.name or str(getattr(command.callback, "__name__", "")) for command in group.registered_commands}
