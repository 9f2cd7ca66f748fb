"""Files that are either whole or not there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; it takes the place of ``path`` at the end, and is removed after an error.

    Parameters
    ----------
    path : Path
        The file to write or to replace.

    Examples
    --------
    >>> with replaced(Path("numbers.json")) as beside:   # doctest: +SKIP
    ...     beside.write_text("[1, 2]")
    """
    path = path.resolve()  # a link goes on pointing to the file
    beside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
