"""A worker process seen from its parent: cells in, results out, and what is left of them when it dies."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..child import Child
from .backends import ConformError
from .cells import Cell

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


class Worker(Child):
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
    also : dict of str to tuple of str
        Dtypes in which it makes checks besides those of every backend.

    Raises
    ------
    ConformError
        If the adapter cannot be loaded; the last line that the process printed says why.
    """

    def __init__(self, module: str, device: str) -> None:
        self.module = module
        self._errors = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - closed with the worker
        settings = {**SETTINGS, **(ON_CPU if device == "cpu" else {})}
        super().__init__(["-m", "dtn_core.conform.worker", module, device], settings, self._errors)
        ready = self.read()
        if ready is None:
            message = self._end()
            self.close()
            raise ConformError(f"{module} on {device}: {message}")
        self.name: str = ready["name"]
        self.versions: str = ready["versions"]
        self.missing: str = ready["missing"]
        self.drawn: dict[str, int] = ready["drawn"]
        self.also: dict[str, tuple[str, ...]] = {check: tuple(dtypes) for check, dtypes in ready["also"].items()}

    def results(self, cells: Sequence[Cell]) -> Iterator[Cell | tuple[str, str, str]]:
        """Every cell as it is found, and ``(text, form, source)`` of what ran.

        A process that dies leaves the cell it was at as a fail that says how; the caller runs the rest in a new one.
        """
        place = {text: number for number, text in enumerate(dict.fromkeys(cell.text for cell in cells))}
        cells = sorted(cells, key=lambda cell: place[cell.text])  # the operators one after another
        self.write({"cells": [cell.as_dict() for cell in cells]})
        waiting = {cell.key: cell for cell in cells}
        while True:
            event = self.read()
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
        super().close()
        self._errors.close()

    def _end(self) -> str:
        status = self.process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"the process ended with status {status}" + (f": {said[-1]}" if said else "")
