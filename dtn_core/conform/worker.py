"""The process that holds one framework: is told cells on standard input, answers each with a line of JSON.

Its first answer names the backend and its versions; then it reads one line, ``{"cells": [...]}``.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

from ..version import DISTRIBUTION
from .adapter import Adapter
from .cells import Cell
from .checks import layout_of
from .evaluate import evaluated
from .operators import case

LIBRARY = ("dtn_core", "dtn_codegen")

Answer = Callable[[Mapping[str, Any]], None]


def load(module: str, device: str) -> Adapter:
    """The adapter of a module.

    Raises
    ------
    TypeError
        If the module has no ``ADAPTER``, or it is not an :class:`~dtn_core.conform.adapter.Adapter`.
    """
    found = getattr(importlib.import_module(module), "ADAPTER", None)
    if not (isinstance(found, type) and issubclass(found, Adapter)):
        raise TypeError(f"{module}: ADAPTER is {found!r}, expected a subclass of dtn_core.conform.adapter.Adapter")
    return found(device)


def versions(adapter: Adapter) -> str:
    """What a result depends on: the adapter's packages, this library's version and eight digits of its source."""
    adapters = [each for each in type(adapter).__mro__ if issubclass(each, Adapter)]
    packages = {*LIBRARY, *(each.__module__.partition(".")[0] for each in adapters)}
    digest = hashlib.sha256()
    for package in sorted(packages):
        file = importlib.import_module(package).__file__
        assert file is not None
        path = Path(file)
        for source in sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]:
            digest.update(source.read_bytes())
    parts = [f"{name} {version}" for name, version in adapter.versions().items()]
    return ", ".join([*parts, f"{DISTRIBUTION} {metadata.version(DISTRIBUTION)} ({digest.hexdigest()[:8]})"])


def serve(module: str, device: str, jobs: TextIO, answer: Answer) -> None:
    """Answer with the adapter's name and versions, then with every cell of the one job.

    Parameters
    ----------
    module : str
        Has ``ADAPTER``.
    device : str
        ``"cpu"`` or ``"cuda"``.
    jobs : TextIO
        One line of JSON.
    answer : callable
        Sends an event to the parent.
    """
    adapter = load(module, device)
    known = versions(adapter)
    missing = adapter.missing_device()
    ready = {
        "event": "ready",
        "name": adapter.name,
        "versions": known,
        "missing": missing,
        "drawn": dict(adapter.drawn),
        "also": dict(adapter.also),
    }
    if missing:
        answer(ready)
        return
    with adapter.session():
        answer(ready)
        line = jobs.readline()
        if not line:
            return
        every = [Cell(**fields) for fields in json.loads(line)["cells"]]
        for text, group in groupby(every, lambda cell: cell.text):
            cells = list(group)
            for found in evaluated(adapter, case(text), cells, known):
                answer({"event": "cell", "cell": found.as_dict()})
            _send_sources(adapter, text, cells, answer)
            adapter.reset()
    answer({"event": "end"})


def _send_sources(adapter: Adapter, text: str, cells: Sequence[Cell], answer: Answer) -> None:
    """The source of the operator in every form that ran."""
    for form in dict.fromkeys(cell.form for cell in cells if not adapter.why_not(cell)):
        try:
            source = adapter.compile(case(text).operator, form, layout_of("value")).source
        except Exception:  # noqa: BLE001 - that it cannot be compiled is in its cells already
            continue
        answer({"event": "source", "text": text, "form": form, "source": source})


def main() -> None:
    """Serve on standard input and output; whatever else a framework prints goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(event: Mapping[str, Any]) -> None:
        answers.write(json.dumps(event) + "\n")
        answers.flush()

    try:
        serve(sys.argv[1], sys.argv[2], sys.stdin, answer)
    except BrokenPipeError:  # the parent has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), answers.fileno())


if __name__ == "__main__":
    main()
