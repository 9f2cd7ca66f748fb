"""Which frameworks the demo runs in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..cli.installation import extra, install_command
from .process import DemoError

# in the order of the tables: the first one that is there is what the others are compared with
PACKAGES = {"torch": "dtn_torch", "jax": "dtn_jax", "tensorflow": "dtn_tensorflow"}


@dataclass(frozen=True)
class Framework:
    """A framework to train in: its name, the backend's package, its version."""

    name: str
    package: str
    version: str


@dataclass(frozen=True)
class Missing:
    """A framework that is not installed, and the command that installs it."""

    name: str
    command: str


def choose(wanted: Sequence[str] | None, unneeded: Sequence[str] = ()) -> tuple[list[Framework], list[Missing]]:
    """The frameworks to train in, and those that could be and are not installed.

    Parameters
    ----------
    wanted : sequence of str or None
        Names, or None for every framework that is installed.
    unneeded : sequence of str
        Packages of the extra ``demo`` that this demo does without.

    Raises
    ------
    DemoError
        For a name that is not a framework's, one that is given twice, one that is wanted and not installed,
        if none is installed, or if the data and the plot's packages are not.
    """
    names = list(PACKAGES) if wanted is None else [name.strip() for name in wanted]
    for name in names:
        if name not in PACKAGES:
            raise DemoError(f"unknown framework {name!r}; known: {', '.join(PACKAGES)}")
        if names.count(name) > 1:
            raise DemoError(f"framework {name!r} is given twice")
    parts = {name: extra(name) for name in names}
    missing = [Missing(name, install_command(name)) for name, part in parts.items() if not part.complete]
    if wanted is not None and missing:
        raise DemoError(f"{missing[0].name} is not installed; to install it: {missing[0].command}")
    if len(missing) == len(names):
        raise DemoError(f"no framework is installed; to install one: {missing[0].command}")
    absent = [package for package in extra("demo").missing if package not in unneeded]
    if absent:
        raise DemoError(
            f"{' and '.join(absent)} not installed; to install what the demo needs: {install_command('demo')}"
        )
    found = [
        Framework(name, PACKAGES[name], part.versions[name] or "") for name, part in parts.items() if part.complete
    ]
    return found, missing
