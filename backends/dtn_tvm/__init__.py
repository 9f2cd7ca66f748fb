"""TVM kernels: targets, schedules, tuning, records, and the kernels that frameworks call.

Kernels are asked for by a framework's package, ``compile(..., implementation="tvm")``; what is public here says which
records of tuned schedules they use.
"""

from typing import Any

import dtn_core

from .records import use_records

__all__ = ["use_records"]


def __getattr__(name: str) -> Any:
    """The version, when first asked for."""
    if name == "__version__":
        return dtn_core.__version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
