"""A device through TVM's runtime library: tensors to it and from it, and what it is called.

Processors and graphics cards are driven by the same calls, so a bundle's way can be tested without a card.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .timing import ceilings, seconds

RUNTIMES = {"cpu": ("libtvm_runtime.so",), "cuda": ("libtvm_runtime.so", "libtvm_runtime_cuda.so")}
CUDA_RUNTIME = "libcudart.so"  # libtvm_runtime_cuda.so needs it; which major version, it says itself

_EXISTS, _COMPUTE_VERSION, _NAME = 0, 4, 5  # TVM's DeviceAttrKind
_TYPES = {"cpu": 1, "cuda": 2}  # DLPack's device types


class DeviceError(Exception):
    """A device, or a library that it needs, that is not there; says which."""


def load_runtime(kind: str, folder: Path) -> None:
    """Load TVM's runtime libraries from ``folder``, visible to the kernels that are loaded later.

    Raises
    ------
    DeviceError
        Names the library, and what the loader said.
    """
    import tvm_ffi  # noqa: F401  # its own library has to be there first

    if kind == "cuda":
        for own in sorted(folder.glob(f"{CUDA_RUNTIME}*")):
            _load(own)
    for name in RUNTIMES[kind]:
        if not (folder / name).is_file():
            raise DeviceError(f"{name} is not in {folder}")
        _load(folder / name)


def _load(path: Path) -> None:
    try:
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise DeviceError(f"{path.name} cannot be loaded: {error}") from None


class Device:
    """The device kernels run on.

    Parameters
    ----------
    kind : {"cpu", "cuda"}
    index : int
        Which of several.

    Raises
    ------
    DeviceError
        If there is none.
    """

    def __init__(self, kind: str, index: int = 0) -> None:
        import tvm_ffi

        self.kind = kind
        self._ffi = tvm_ffi
        call = tvm_ffi.get_global_func
        self._attribute = lambda which: call("runtime.GetDeviceAttr")(_TYPES[kind], index, which)
        if call(f"device_api.{kind}", allow_missing=True) is None or not self._attribute(_EXISTS):
            raise DeviceError(f"there is no {kind} device {index} on this machine")
        self._handle = tvm_ffi.device(kind, index)
        self._host = tvm_ffi.device("cpu", 0)
        self._allocate = call("runtime.TVMTensorAllocWithScope")
        self._from_bytes = call("runtime.TVMTensorCopyFromBytes")
        self._to_bytes = call("runtime.TVMTensorCopyToBytes")
        self._copy = call("runtime.TVMTensorCopyFromTo")
        self._wait = call("runtime.Device_StreamSync")

    @property
    def name(self) -> str:
        """What its maker calls it; a processor with the number of its threads that kernels use."""
        if self.kind != "cpu":
            return str(self._attribute(_NAME))
        return f"{processor()}, {os.environ.get('TVM_NUM_THREADS') or os.cpu_count()} threads"

    @property
    def compute_version(self) -> str:
        """``"9.0"`` for a card; empty for a processor."""
        return "" if self.kind == "cpu" else str(self._attribute(_COMPUTE_VERSION))

    @property
    def flags(self) -> list[str]:
        """The instruction sets of a processor, where it lists them; none for a card."""
        return instructions() if self.kind == "cpu" else []

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A tensor with anything in it."""
        return self._allocate(self._ffi.Shape(shape), self._ffi.dtype(dtype), self._handle, None)

    def put(self, values: np.ndarray, dtype: str) -> Any:
        """A tensor of ``dtype`` with the given values, which it can hold exactly."""
        tensor = self.empty(values.shape, dtype)
        self.write(tensor, values, dtype)
        return tensor

    def write(self, tensor: Any, values: np.ndarray, dtype: str) -> None:
        """Overwrite a tensor."""
        data = encode(values, dtype)
        self._from_bytes(tensor, ctypes.c_void_p(data.ctypes.data), data.nbytes)

    def get(self, tensor: Any, dtype: str) -> np.ndarray:
        """A tensor's values, in float32 or wider."""
        data = np.empty(tuple(tensor.shape), _STORED.get(dtype, dtype))
        self._to_bytes(tensor, ctypes.c_void_p(data.ctypes.data), data.nbytes)
        return decode(data, dtype)

    def copy(self, source: Any, to: Any) -> None:
        """Copy one tensor into another of the same kind."""
        self._copy(source, to)

    def wait(self) -> None:
        """Return when all that was started has ended."""
        self._wait(self._handle, 0)

    def load(self, library: Path) -> Any:
        """The kernel in a library."""
        return self._ffi.load_module(str(library.resolve()))["main"]

    def seconds(self, kernel: Any, arguments: list[Any], best: float | None) -> list[float]:
        """Times of one run each, of a kernel that :meth:`load` returned."""
        return seconds(lambda: kernel(*arguments), self.wait, best)

    def ceilings(self, about: Mapping[str, Any] | None, folder: Path) -> dict[str, float]:
        """What the device reaches in plain work; see :func:`measuring.timing.ceilings`."""
        return ceilings(self, about, folder)


_STORED = {"bfloat16": "uint16"}


def encode(values: np.ndarray, dtype: str) -> np.ndarray:
    """The bytes of ``values`` in ``dtype``, which NumPy need not know: bfloat16 is rounded to nearest, ties to even.

    Examples
    --------
    >>> [hex(x) for x in encode(np.array([1.0, -2.0, 1.00390625]), "bfloat16")]
    ['0x3f80', '0xc000', '0x3f80']
    """
    if dtype != "bfloat16":
        return np.ascontiguousarray(values, dtype)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def decode(data: np.ndarray, dtype: str) -> np.ndarray:
    """What :func:`encode` encoded, in float32 or wider."""
    if dtype == "bfloat16":
        return (data.astype(np.uint32) << 16).view(np.float32)
    return data.astype(np.float32) if dtype == "float16" else data


def processor() -> str:
    """The processor's name."""
    return _listed("model name") or platform.processor() or platform.machine()


def instructions() -> list[str]:
    """The instruction sets that Linux lists of the processor; none where it lists none."""
    return (_listed("flags") or _listed("Features")).split()


def _listed(what: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == what), "")
