"""Optional packages: where one is missing, the error names the extra that installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .version import DISTRIBUTION


@contextmanager
def needs(extra: str, *packages: str) -> Iterator[None]:
    """Say how to install what an import inside needs.

    Parameters
    ----------
    extra : str
        As in ``deep-tensor-network[extra]``.
    *packages : str
        What it installs, as imported.

    Raises
    ------
    ModuleNotFoundError
        If one of the packages is not installed. Every other error, also one within such a package, passes as it is.

    Examples
    --------
    >>> with needs("torch", "a_framework"):
    ...     import a_framework
    Traceback (most recent call last):
    ModuleNotFoundError: a_framework is not installed; to install it: pip install 'deep-tensor-network[torch]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in packages:
            raise
        message = f"{error.name} is not installed; to install it: pip install '{DISTRIBUTION}[{extra}]'"
        raise ModuleNotFoundError(message, name=error.name) from None
