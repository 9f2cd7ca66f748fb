"""Generated source as Python modules."""

from __future__ import annotations

import hashlib
import linecache
import sys
import types
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from threading import Lock
from weakref import WeakValueDictionary, finalize

MAX_RECENT = 1024
_LIVING: WeakValueDictionary[str, types.ModuleType] = WeakValueDictionary()
_RECENT: dict[str, types.ModuleType] = {}  # the one longest not asked for first
_LOCK = Lock()


class _Generated(MetaPathFinder, Loader):
    """Modules that are in use for ``import``: PyTorch's compiler imports the module of what it traces."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, origin="generated") if fullname in _LIVING else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _LIVING[spec.name]

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing: it has run."""


sys.meta_path.append(_Generated())


def loaded(source: str, name: str, filename: str) -> types.ModuleType:
    """Compile generated source (never a user's text), and keep it and its text for tracebacks while it is in use.

    A text is compiled once as long as a function of it lives, and the last :data:`MAX_RECENT` of them do.

    Parameters
    ----------
    source : str
        A module's text.
    name : str
        The operator that it is for.
    filename : str
        ``"<...>"``, what tracebacks call the text, with a digest of it.
    """
    digest = hashlib.sha256(f"{filename}\n{source}".encode()).hexdigest()
    known = f"dtn_generated_{name}_{digest[:16]}"
    with _LOCK:
        module = _LIVING.get(known)
        if module is None:
            module = types.ModuleType(known)
            module.__dict__["_module"] = module  # its functions have its names only
            filename = f"{filename[:-1]} {digest[:8]}>"
            linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
            code = compile(source, filename, "exec")
            exec(code, module.__dict__)  # noqa: S102 - text made by the emitter from verified IR
            finalize(module, linecache.cache.pop, filename, None).atexit = False
            _LIVING[known] = module
        _RECENT.pop(known, None)
        _RECENT[known] = sys.modules[known] = module
        while len(_RECENT) > MAX_RECENT:
            sys.modules.pop(_RECENT.pop(next(iter(_RECENT))).__name__, None)
    return module
