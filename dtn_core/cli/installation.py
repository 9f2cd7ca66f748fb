"""What of the optional parts is installed, in which version, and the command that installs the rest."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ..version import DISTRIBUTION

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")


@dataclass(frozen=True)
class Extra:
    """An optional part of the distribution.

    Attributes
    ----------
    name : str
        As in ``deep-tensor-network[name]``; empty for what is always installed.
    versions : dict of str to str or None
        The packages it needs, and their versions; None for one that is missing.
    """

    name: str
    versions: dict[str, str | None]

    @property
    def complete(self) -> bool:
        """Whether every package is there."""
        return None not in self.versions.values()

    @property
    def missing(self) -> list[str]:
        """The packages that are not there."""
        return [package for package, version in self.versions.items() if version is None]


def extra(name: str) -> Extra:
    """What of an extra is installed, read from package metadata: imports nothing.

    Parameters
    ----------
    name : str
        ``"torch"``, ``"jax"``, ``"tensorflow"``, ``"demo"``, or ``""`` for what every part needs.

    Examples
    --------
    >>> extra("").complete
    True
    """
    packages = []
    for requirement in metadata.requires(DISTRIBUTION) or []:
        marker = _EXTRA.search(requirement)
        package = _NAME.match(requirement)
        if package is not None and (marker[1] if marker else "") == name:
            packages.append(package[0])
    return Extra(name, {package: _version(package) for package in packages})


def install_command(name: str) -> str:
    """The shell command that adds an extra to the Python that is running.

    Examples
    --------
    >>> install_command("jax").partition(" -m ")[2]
    "pip install 'deep-tensor-network[jax]'"
    """
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return shlex.join([str(python), "-m", "pip", "install", f"{DISTRIBUTION}[{name}]"])


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
