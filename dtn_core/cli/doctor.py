"""What ``dtn doctor`` prints. Each framework is imported in a process of its own, so that they do not mix."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from dtn_codegen import Target, broken_targets, targets

from ..version import DISTRIBUTION, version
from .installation import Extra, extra, install_command

PLAIN_WIDTH = 140


@dataclass(frozen=True)
class Examined:
    """A backend after it was imported: its devices and what would make it faster, or why it could not be."""

    devices: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    failure: str | None = None


def print_report(timeout: float) -> int:
    """Print the report.

    Parameters
    ----------
    timeout : float
        Seconds that importing one framework may take.

    Returns
    -------
    int
        Exit status: 1 if something that is installed does not work, else 0; that a part is missing is no fault.
    """
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, emoji=False, width=PLAIN_WIDTH)
    console.print(
        f"{DISTRIBUTION} {version()}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    )
    table = Table("part", "packages", "devices", box=box.SIMPLE_HEAD, pad_edge=False)
    core, parts, failures, advice = extra(""), [], [], []
    for backend in targets().values():
        part = core if backend.framework in core.versions else extra(backend.extra)
        examined = Examined()
        if part.complete:
            with console.status(f"importing {backend.framework}"):
                examined = examine(backend, timeout)
        if examined.failure is not None:
            failures.append(f"{backend.name} is installed and does not work: {examined.failure}")
        advice += [f"{backend.name} {line}" for line in examined.advice]
        shown = {backend.framework: core.versions[backend.framework]} if part is core else part.versions
        table.add_row(backend.name, _packages(shown), ", ".join(examined.devices) or "–")
        parts.append(part)
    failures += [f"{name} is installed and does not work: {why}" for name, why in broken_targets().items()]
    for part in (extra("tvm"), extra("demo")):
        table.add_row(part.name, _packages(part.versions), "–")
        parts.append(part)
    console.print(table)
    for line in (*failures, *advice):
        console.print(line)
    _print_missing(console, [part for part in parts if not part.complete])
    return 1 if failures else 0


def examine(backend: Target, timeout: float) -> Examined:
    """Import a backend in a child process and ask it for its devices and advice.

    Parameters
    ----------
    backend : Target
        Its package is imported.
    timeout : float
        Seconds after which the child is ended.
    """
    command = [sys.executable, "-P", "-m", "dtn_core.cli.probe", backend.package]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=quiet, check=False)
    except subprocess.TimeoutExpired:
        return Examined(failure=f"importing it took more than {timeout:g} s")
    if child.returncode != 0:
        said = child.stderr.strip().splitlines() or [f"the process ended with status {child.returncode}"]
        return Examined(failure=said[-1])
    found = json.loads(child.stdout.strip().splitlines()[-1])
    return Examined(devices=tuple(found["devices"]), advice=tuple(found["advice"]))


def _packages(versions: dict[str, str | None]) -> str:
    return ", ".join(f"{package} {version or '(missing)'}" for package, version in versions.items())


def _print_missing(console: Console, parts: list[Extra]) -> None:
    if not parts:
        console.print("Nothing is missing.")
    for part in parts:
        console.print(f"{', '.join(part.missing)} missing; {part.name} is installed by", soft_wrap=True)
        console.print(f"    {install_command(part.name)}", soft_wrap=True)
