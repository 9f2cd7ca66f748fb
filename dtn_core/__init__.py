"""What an operator is: index notation, IR, passes, cost, catalogue and layers; imports no framework.

>>> import dtn_core
>>> dtn_core.operators.tensor_attention(mask="causal").name
'tensor_attention'
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import layers, operators

    __version__: str

_PARTS = ("layers", "operators")

__all__ = ["layers", "operators"]


def __getattr__(name: str) -> Any:
    """Parts, and the version, when first asked for."""
    if name in _PARTS:
        return importlib.import_module(f".{name}", __name__)
    if name == "__version__":
        from .version import version

        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
