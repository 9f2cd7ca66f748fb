"""Which backends are held to the matrix, and which module each one's adapter is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dtn_codegen import targets

from ..cli.installation import install_command
from ..errors import DtnError

PLANNED = {
    "tvm": "implementation='tvm' has no adapter yet; its kernels are held to the interpreter by tests/tvm alone",
}
"""Backends without an adapter: every cell of theirs is a gap. One with a module ``conformance`` leaves this table."""


class ConformError(DtnError):
    """The matrix cannot be computed; one line that says what to do."""


@dataclass(frozen=True)
class Backend:
    """A backend of the matrix.

    Attributes
    ----------
    name : str
        As on the command line: its entry point, or the module's name.
    module : str or None
        What has ``ADAPTER``; None for a planned backend.
    """

    name: str
    module: str | None


def chosen(names: Sequence[str] | None, modules: Sequence[str] = ()) -> list[Backend]:
    """The backends to run.

    Parameters
    ----------
    names : sequence of str or None
        Names of entry points, or of planned backends; None for all that are installed and all that are planned.
    modules : sequence of str
        Modules of others, ``--backend-module``; given without names, they alone run.

    Raises
    ------
    ConformError
        For a name that is unknown, given twice or not installed, or a module that is not found.
    """
    others = [Backend(module, adapter_module(module)) for module in modules]
    known = {target.name: target for target in targets().values()}
    wanted = list(names) if names is not None else ([] if others else [*known, *PLANNED])
    found: list[Backend] = []
    for name in wanted:
        if wanted.count(name) > 1:
            raise ConformError(f"backend {name!r} is given twice")
        target = known.get(name)
        if target is not None and find_spec(target.framework) is None:
            if names is not None:
                raise ConformError(f"{name} is not installed; to install it: {install_command(target.extra)}")
        elif target is not None and _exists(f"{target.package}.conformance"):
            found.append(Backend(name, f"{target.package}.conformance"))
        elif name in PLANNED:
            found.append(Backend(name, None))
        else:
            raise ConformError(f"unknown backend {name!r}; known: {', '.join(dict.fromkeys([*known, *PLANNED]))}")
    return [*found, *others]


def adapter_module(module: str) -> str:
    """The module that ``--backend-module`` means: ``module.conformance`` if there is one, else the module itself.

    Raises
    ------
    ConformError
        If there is no such module.
    """
    if not _exists(module):
        raise ConformError(
            f"--backend-module {module}: there is no module of that name; is it installed or on PYTHONPATH?"
        )
    return f"{module}.conformance" if _exists(f"{module}.conformance") else module


def _exists(module: str) -> bool:
    """Whether there is such a module; imports none, as that would import a framework here."""
    first, *rest = module.split(".")
    spec = find_spec(first)
    folders = None if spec is None else spec.submodule_search_locations
    for name in rest:
        below = [Path(folder) / name for folder in folders or ()]
        if not any(path.with_suffix(".py").is_file() or path.is_dir() for path in below):
            return False
        folders = [str(path) for path in below if path.is_dir()]
    return spec is not None
