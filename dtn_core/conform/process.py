"""A worker process seen from its parent: cells in, results out, and what is left of them when it dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from .backends import ConformError
from .cells import Cell

PATIENCE = 5.0  # seconds that a process is given to end by itself

SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "KERAS_BACKEND": "tensorflow",
    "NVIDIA_TF32_OVERRIDE": "0",
    "PYTHONUTF8": "1",
    "PYTHONWARNINGS": "ignore",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
"""One thread a process, TF32 off in every library; no warnings, since overflow at ill scaled inputs is expected."""

ON_CPU = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}


class Worker:
    """A process for one backend; use it in a ``with`` statement.

    Parameters
    ----------
    module : str
        Has the adapter.
    device : str
        ``"cpu"`` or ``"cuda"``.

    Attributes
    ----------
    name, versions, missing : str
        What the adapter says: who it is, what computes, and why nothing can run on the device (empty if it can).
    drawn : dict of str to int
        How many operators it runs in modes that compile.

    Raises
    ------
    ConformError
        If the adapter cannot be loaded; the last line that the process printed says why.
    """

    def __init__(self, module: str, device: str) -> None:
        self.module = module
        self._errors = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - closed with the worker
        self._child = subprocess.Popen(
            [sys.executable, "-m", "dtn_core.conform.worker", module, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **SETTINGS, **(ON_CPU if device == "cpu" else {})},
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its children
        )
        ready = self._read()
        if ready is None:
            message = self._end()
            self.close()
            raise ConformError(f"{module} on {device}: {message}")
        self.name: str = ready["name"]
        self.versions: str = ready["versions"]
        self.missing: str = ready["missing"]
        self.drawn: dict[str, int] = ready["drawn"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def results(self, cells: Sequence[Cell]) -> Iterator[Cell | tuple[str, str, str]]:
        """Every cell as it is found, and ``(text, form, source)`` of what ran.

        A process that dies leaves the cell it was at as a fail that says how; the caller runs the rest in a new one.
        """
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({"cells": [cell.as_dict() for cell in cells]}) + "\n")
        self._child.stdin.flush()
        waiting = {cell.key: cell for cell in cells}
        while True:
            event = self._read()
            if event is None:
                for cell in list(waiting.values())[:1]:
                    yield replace(cell, status="fail", reason=self._end(), versions=self.versions)
                return
            if event["event"] == "end":
                return
            if event["event"] == "source":
                yield event["text"], event["form"], event["source"]
                continue
            found = Cell(**event["cell"])
            del waiting[found.key]
            yield found

    def close(self) -> None:
        """End the process, if need be by force."""
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        for stream in (self._child.stdin, self._child.stdout, self._errors):
            if stream is not None and not stream.closed:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # a job that the process did not live to read

    def _read(self) -> dict[str, Any] | None:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        return json.loads(line) if line else None

    def _end(self) -> str:
        status = self._child.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"the process ended with status {status}" + (f": {said[-1]}" if said else "")
