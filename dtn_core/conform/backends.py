"""Which backends are held to the matrix, and which module each one's adapter is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dtn_codegen import targets
from dtn_codegen.implementations import announced

from ..cli.installation import extra, install_command
from ..errors import DtnError

HOST = "torch"
"""The framework within which kernels of other implementations are held to the matrix: it has all modes for them."""


class ConformError(DtnError):
    """The matrix cannot be computed; one line that says what to do."""


@dataclass(frozen=True)
class Backend:
    """A backend of the matrix.

    Attributes
    ----------
    name : str
        As on the command line: its entry point, or the module's name.
    module : str
        What has ``ADAPTER``.
    """

    name: str
    module: str


def chosen(names: Sequence[str] | None, modules: Sequence[str] = ()) -> list[Backend]:
    """The backends to run.

    Parameters
    ----------
    names : sequence of str or None
        Names of entry points, of frameworks or of implementations; None for all that are installed.
    modules : sequence of str
        Modules of others, ``--backend-module``; given without names, they alone run.

    Raises
    ------
    ConformError
        For a name that is unknown, given twice or not installed, or a module that is not found.
    """
    others = [Backend(module, adapter_module(module)) for module in modules]
    known = _known()
    wanted = list(names) if names is not None else ([] if others else list(known))
    found: list[Backend] = []
    for name in wanted:
        if wanted.count(name) > 1:
            raise ConformError(f"backend {name!r} is given twice")
        if name not in known:
            raise ConformError(f"unknown backend {name!r}; known: {', '.join(known)}")
        module, missing = known[name]
        if not missing:
            found.append(Backend(name, module))
        elif names is not None:
            raise ConformError(f"{name} is not installed; to install it: {install_command(missing)}")
    return [*found, *others]


def _known() -> dict[str, tuple[str, str]]:
    """The module of every backend that has an adapter, and the extras to install where something is missing."""
    found: dict[str, tuple[str, str]] = {}
    for target in targets().values():
        missing = "" if find_spec(target.framework) else target.extra
        found[target.name] = f"{target.package}.conformance", missing
    for name, entry in announced().items():
        installed = extra(name).complete and find_spec(HOST)
        found[name] = f"{entry.module.partition('.')[0]}.conformance", "" if installed else f"{HOST},{name}"
    return {name: each for name, each in found.items() if _exists(each[0])}


def adapter_module(module: str) -> str:
    """The module that ``--backend-module`` means: ``module.conformance`` if there is one, else the module itself.

    Raises
    ------
    ConformError
        If there is no such module, or it has no ``ADAPTER``.
    """
    if not _exists(module):
        raise ConformError(
            f"--backend-module {module}: there is no module of that name; is it installed or on PYTHONPATH?"
        )
    found = f"{module}.conformance" if _exists(f"{module}.conformance") else module
    if not _may_have_adapter(found):
        raise ConformError(
            f"--backend-module {module}: {found} has no ADAPTER, a subclass of dtn_core.conform.adapter.Adapter; "
            "see CONTRIBUTING.md, Adding a backend"
        )
    return found


def _exists(module: str) -> bool:
    """Whether there is such a module; imports none, as that would import a framework here."""
    return _place(module) is not None


def _place(module: str) -> Path | None:
    """The file of a module, or its folder where it has none; None if there is no such module."""
    first, *rest = module.split(".")
    spec = find_spec(first) if first else None
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or ())
    place = Path(spec.origin or (folders or [""])[0])
    for name in rest:
        below = [Path(folder) / name for folder in folders]
        places = [path for each in below for path in (each / "__init__.py", each.with_suffix(".py")) if path.is_file()]
        folders = [str(path) for path in below if path.is_dir()]
        if not places and not folders:
            return None
        place = places[0] if places else Path(folders[0])
    return place


def _may_have_adapter(module: str) -> bool:
    """Whether the text of a module mentions an ``ADAPTER``; of one without a text nothing is known."""
    place = _place(module)
    if place is None or place.is_dir() or str(place) in ("built-in", "frozen"):
        return False
    if place.suffix != ".py" or not place.is_file():
        return True
    text = place.read_text(encoding="utf-8", errors="replace")
    return "ADAPTER" in text or " import *" in text or "__getattr__" in text
