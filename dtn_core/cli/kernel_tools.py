"""The package of kernels, loaded when a command runs: the command line knows it by name, as it knows backends."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def kernel_tools(part: str) -> ModuleType:
    """A module of ``dtn_tvm``.

    Parameters
    ----------
    part : str
        Its name there.
    """
    return import_module(f"dtn_tvm.{part}")
