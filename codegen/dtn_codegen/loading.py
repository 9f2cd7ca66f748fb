"""Generated source as Python modules."""

from __future__ import annotations

import hashlib
import linecache
import sys
import types

MAX_LOADED = 1024
_LOADED: dict[tuple[str, str, str], tuple[types.ModuleType, str]] = {}  # the one longest not asked for first


def loaded(source: str, name: str, filename: str) -> types.ModuleType:
    """Compile generated source (never a user's text) and keep it, and its text for tracebacks.

    The last :data:`MAX_LOADED` of them are kept.

    Parameters
    ----------
    source : str
        A module's text.
    name : str
        The operator that it is for.
    filename : str
        ``"<...>"``, what tracebacks call the text, with a digest of it.
    """
    key = source, name, filename
    if key in _LOADED:
        _LOADED[key] = _LOADED.pop(key)
        return _LOADED[key][0]
    filename = f"{filename[:-1]} {_digest(source)}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    module = types.ModuleType(f"dtn_generated_{name}_{_digest(source)}")
    sys.modules[module.__name__] = module  # torch.compile imports the module of what it traces
    exec(compile(source, filename, "exec"), module.__dict__)  # noqa: S102 - text made by the emitter from verified IR
    _LOADED[key] = module, filename
    while len(_LOADED) > MAX_LOADED:
        old, text = _LOADED.pop(next(iter(_LOADED)))
        sys.modules.pop(old.__name__, None)
        linecache.cache.pop(text, None)
    return module


def _digest(source: str) -> str:
    """Eight digits that name a text."""
    return hashlib.sha256(source.encode()).hexdigest()[:8]
