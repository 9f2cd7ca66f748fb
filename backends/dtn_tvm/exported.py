"""Compiled kernels that need nothing but apache-tvm-ffi: ``load`` gives one by the name of its file.

>>> from kernels import load                                  # doctest: +SKIP
>>> kernel = load("tensor_attention_forward_float32_0")       # doctest: +SKIP
>>> kernel(q, k, v, o)   # contiguous tensors of any framework on its device; o is written   # doctest: +SKIP

``kernels.json`` says for every kernel which arguments it takes, for which shape and dtype it was tuned, and on which
device.
"""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path
from typing import Any

import tvm_ffi

HERE = Path(__file__).resolve().parent


def load(name: str) -> Any:
    """A kernel: call it with its inputs, then its outputs.

    Parameters
    ----------
    name : str
        As in ``kernels.json``.

    Raises
    ------
    KeyError
        If there is none of that name.
    """
    about = json.loads((HERE / "kernels.json").read_text(encoding="utf-8"))[name]
    if "OMP_NUM_THREADS" not in os.environ:  # by itself TVM takes every second core
        os.environ.setdefault("TVM_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    for library in about["runtime"]:
        _provide(library)
    return tvm_ffi.load_module(str(HERE / f"{name}.so"))["main"]


def _provide(library: str) -> None:
    """Load a library of TVM's runtime, once for a process: a second one registers the same functions and ends it."""
    try:  # another folder's, or TVM's own
        ctypes.CDLL(library, ctypes.RTLD_GLOBAL | os.RTLD_NOLOAD)
    except OSError:
        ctypes.CDLL(str(HERE / "lib" / library), ctypes.RTLD_GLOBAL)
