"""The version of the distribution, which every package gives as its ``__version__``."""

from __future__ import annotations

DISTRIBUTION = "deep-tensor-network"
UNKNOWN = "0+unknown"
"""That of a source tree that is not installed."""


def version() -> str:
    """The version, read from the distribution's metadata: that takes milliseconds, so it is not read at import.

    Examples
    --------
    >>> import dtn_core
    >>> version() == dtn_core.__version__
    True
    """
    from importlib import metadata

    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return UNKNOWN
