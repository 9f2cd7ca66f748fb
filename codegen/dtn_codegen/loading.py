"""Generated source as Python modules."""

from __future__ import annotations

import hashlib
import linecache
import sys
import types
from functools import lru_cache


@lru_cache(maxsize=1024)
def loaded(source: str, name: str, filename: str) -> types.ModuleType:
    """Compile generated source (never a user's text) and keep it for tracebacks.

    Parameters
    ----------
    source : str
        A module's text.
    name : str
        The operator that it is for.
    filename : str
        ``"<...>"``, what tracebacks call the text, with a digest of it.
    """
    filename = f"{filename[:-1]} {_digest(source)}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    module = types.ModuleType(f"dtn_generated_{name}_{_digest(source)}")
    sys.modules[module.__name__] = module  # torch.compile imports the module of what it traces
    exec(compile(source, filename, "exec"), module.__dict__)  # noqa: S102 - text made by the emitter from verified IR
    return module


def _digest(source: str) -> str:
    """Eight digits that name a text."""
    return hashlib.sha256(source.encode()).hexdigest()[:8]
