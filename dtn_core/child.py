"""A child process that is told and answers lines of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Any, Self

PATIENCE = 5.0  # seconds that a process is given to end by itself


class Child:
    """A module run by this Python; use it in a ``with`` statement.

    Parameters
    ----------
    arguments : sequence of str
        Of Python: ``["-m", "package.module", ...]``.
    settings : Mapping[str, str]
        Environment variables beside those of this process.
    errors : file
        Open for writing bytes; gets what the child prints to its standard error.
    """

    def __init__(self, arguments: Sequence[str], settings: Mapping[str, str], errors: IO[bytes]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **settings},
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its children
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, event: Mapping[str, Any]) -> None:
        """Tell the child.

        Raises
        ------
        BrokenPipeError
            If it has ended.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(event) + "\n")
        self.process.stdin.flush()

    def read(self) -> dict[str, Any] | None:
        """Its next answer; None if it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def close(self) -> None:
        """End the process, if need be by force."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None and not stream.closed:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # what the process did not live to read
