"""pytest plugin (``-p mutation.seeded``): loads the modules of the library with the fault that ``DTN_FAULT`` names."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys

from .faults import BY_NAME


class Spoiled(importlib.machinery.SourceFileLoader):
    """Compiles a module from its text with one change in it, past the cache of compiled modules."""

    fault = None

    def get_code(self, fullname):
        text = self.get_data(self.path).decode()
        if text.count(self.fault.old) != 1:
            raise LookupError(
                f"{fullname} has the text of the fault {self.fault.name!r} {text.count(self.fault.old)} times, expected once"
            )
        return compile(text.replace(self.fault.old, self.fault.new), self.path, "exec", dont_inherit=True)


class Finder(importlib.abc.MetaPathFinder):
    """Finds the one module that is spoiled, wherever it is installed."""

    def __init__(self, fault):
        self.fault = fault

    def find_spec(self, fullname, path, target=None):
        if fullname != self.fault.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        spec.loader = Spoiled(fullname, spec.origin)
        spec.loader.fault = self.fault
        return spec


if os.environ.get("DTN_FAULT"):
    seeded = BY_NAME[os.environ["DTN_FAULT"]]
    if seeded.module in sys.modules:
        raise RuntimeError(f"{seeded.module} was imported before the fault could be seeded")
    sys.meta_path.insert(0, Finder(seeded))
