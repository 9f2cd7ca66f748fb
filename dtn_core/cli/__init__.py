"""The ``dtn`` command: operators shown, explained and written out, the installation examined, the demo run.

What runs commands takes a third of a second to import: it is loaded where Ctrl-C is caught already.
"""

import sys
from collections.abc import Sequence

__all__ = ["main"]

INTERRUPTED = 130


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

    Raises
    ------
    SystemExit
        Of status 143 after SIGTERM.

    Examples
    --------
    >>> main(["explain", "tensor_attention", "--shape", "n=many"])   # prints to stderr
    2
    """
    try:
        from .run import run

        return run(arguments)
    except KeyboardInterrupt:
        return complain("interrupted", INTERRUPTED)


def complain(message: str, status: int) -> int:
    """Print one line to standard error, and give the exit status."""
    print(f"dtn: {message}", file=sys.stderr)
    return status
