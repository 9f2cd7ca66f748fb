"""The entry point: runs a command, and turns every foreseen error into one line and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from ..errors import DtnError
from .commands import app

FAILED = 1
USAGE = 2
INTERRUPTED = 130

# Typer carries its own copy of click since 0.20, and depends on click before: the base of all usage errors, either way
_USAGE_ERROR: type[Any] = typer.BadParameter.__mro__[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``dtn``.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line after ``dtn``; by default the process's own.

    Returns
    -------
    int
        Exit status: 0, or 1 for what could not be done, 2 for a command line that makes no sense, 130 after Ctrl-C.

    Examples
    --------
    >>> main(["explain", "tensor_attention", "--shape", "n=many"])   # prints to stderr
    2
    """
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        status = app(args=given, prog_name="dtn", standalone_mode=False)
        sys.stdout.flush()
    except _USAGE_ERROR as error:
        return _complain(f"{error.format_message()} (dtn {_command(given)}--help shows an example)", USAGE)
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone, as in `dtn emit … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (DtnError, OSError) as error:
        return _complain(str(error), FAILED)
    return status if isinstance(status, int) else 0


def _command(given: list[str]) -> str:
    """The command that was meant, with a space after it, or nothing."""
    known = {command.name for command in app.registered_commands}
    return f"{given[0]} " if given[0] in known else ""


def _complain(message: str, status: int) -> int:
    print(f"dtn: {message}", file=sys.stderr)
    return status
