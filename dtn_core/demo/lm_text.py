"""The data of ``dtn demo lm``: source files of Python's standard library, real text that every machine has."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .process import DemoError

# Modules of every Python from 3.11 on, each a file of its own.
TRAINING = (
    "argparse", "ast", "base64", "bdb", "calendar", "cmd", "codecs", "configparser", "contextlib", "copy", "csv",
    "dataclasses", "datetime", "difflib", "dis", "doctest", "enum", "filecmp", "fileinput", "fractions", "ftplib",
    "functools", "getopt", "glob", "gzip", "imaplib", "inspect", "ipaddress", "locale", "mailbox", "mimetypes",
    "optparse", "pdb", "pickle", "pickletools", "platform", "plistlib", "poplib", "pprint", "random", "selectors",
    "shelve", "shutil", "smtplib", "socket", "socketserver", "ssl", "statistics", "string", "subprocess", "tarfile",
    "tempfile", "threading", "timeit", "tokenize", "traceback", "turtle", "types", "typing", "uuid", "warnings",
    "weakref", "zipfile",
)  # fmt: skip
HELD_OUT = ("bz2", "cProfile", "heapq", "queue", "reprlib", "sched", "shlex", "textwrap")

_BATCHES = 2  # stream of the seed


@dataclass(frozen=True)
class Text:
    """Bytes to train on and bytes held out, ``[count]`` uint8, and the names of the files that they are from."""

    training: NDArray[np.uint8]
    held_out: NDArray[np.uint8]
    files: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """Names the text: other versions of Python have other text."""
        return hashlib.sha256(self.training.tobytes() + self.held_out.tobytes()).hexdigest()[:16]


def load(folder: Path | None = None) -> Text:
    """The text of this machine's Python.

    Parameters
    ----------
    folder : Path, optional
        Where the modules are; by default the standard library.

    Raises
    ------
    DemoError
        If the standard library has no source files here.
    """
    folder = Path(sysconfig.get_path("stdlib")) if folder is None else folder
    parts = {}
    for part, modules in (("train on", TRAINING), ("hold out", HELD_OUT)):
        found = [folder / f"{module}.py" for module in modules if (folder / f"{module}.py").is_file()]
        if not found:
            raise DemoError(f"no text to {part}: {folder} has no source files of the standard library")
        parts[part] = (b"\n".join(path.read_bytes() for path in found), [path.name for path in found])
    (training, names), (held_out, more) = parts.values()
    return Text(np.frombuffer(training, np.uint8), np.frombuffer(held_out, np.uint8), (*names, *more))


def batch(text: NDArray[np.uint8], size: int, length: int, seed: int, step: int) -> NDArray[np.int32]:
    """Windows ``[size, length + 1]`` of the text, drawn for a step: the same in every framework.

    Raises
    ------
    DemoError
        If the text is shorter than a window.

    Examples
    --------
    >>> batch(np.arange(9, dtype=np.uint8), size=2, length=3, seed=0, step=0).shape
    (2, 4)
    """
    if len(text) <= length:
        raise DemoError(f"the text has {len(text)} bytes, a window of {length + 1} does not fit")
    stream = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, _BATCHES, step))))
    starts = stream.integers(0, len(text) - length, size)
    return np.asarray(text[starts[:, None] + np.arange(length + 1)], np.int32)


def windows(text: NDArray[np.uint8], size: int, length: int, most: int) -> Iterator[NDArray[np.int32]]:
    """The text from its start as at most ``most`` batches of windows ``[size, length + 1]``, each full.

    A window starts with the byte that the one before ends with, so that each byte but the first is predicted once.
    """
    each = size * length
    for start in range(0, min(most * each, len(text) - 1 - each + 1), each):
        rows = text[start : start + each].reshape(size, length)
        last = text[start + length : start + each + 1 : length]
        yield np.concatenate([rows, last[:, None]], axis=1).astype(np.int32)
