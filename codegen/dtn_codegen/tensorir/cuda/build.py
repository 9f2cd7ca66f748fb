"""From a module of CUDA kernels to their text, and to machine code: with nvcc, whether or not there is a GPU."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi

from dtn_core.errors import CompileError

_DRIVER = (
    "cuDeviceGetName",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuLaunchKernelEx",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuTensorMapEncodeTiled",
)
"""What TVM's CUDA runtime calls of the driver."""
_NO_DEVICE = 100
_PIPELINE = "tirx"
_COMPILE = "tvm_callback_cuda_compile"


def _context() -> Any:
    """Loops that are to be unrolled are left to nvcc: the text stays short, and so does the time to compile it.

    Common subexpressions are left to it as well, so that kernels take nothing but memory and sizes.
    """
    config = {"tirx.UnrollLoop": {"explicit_unroll": False}}
    return tvm.transform.PassContext(config=config, disabled_pass=["tirx.CommonSubexprElim"])


def source(module: tvm.IRModule, target: Any) -> str:
    """The CUDA text of a module's kernels; needs neither nvcc nor a GPU.

    Parameters
    ----------
    module : tvm.IRModule
        As ``lower_cuda`` makes it.
    target : tvm.target.Target
    """
    seen: list[str] = []

    def keep(code: str) -> bytes:
        seen.append(code)
        return b""

    with _compiling(keep):
        built = _built(module, target)
    return seen[0] if seen else str(built.mod.imports[0].inspect_source())


def build(module: tvm.IRModule, target: Any) -> Any:
    """Compile a module to machine code for ``target``.

    Returns
    -------
    tvm.runtime.Executable
        Runs on a GPU of the target's architecture; exported, it holds machine code and no CUDA text.

    Raises
    ------
    CompileError
        If nvcc is not installed or refuses the text, or a machine without a GPU has no C compiler.
    """
    if shutil.which("nvcc") is None:
        raise CompileError("CUDA kernels are compiled by nvcc, which is not on PATH; install the CUDA toolkit")
    _load_runtime()
    arch = str(target.attrs["arch"])
    made: list[bytes] = []

    def compile_with_nvcc(code: str) -> bytes:
        made.append(cubin(code, arch))
        return made[-1]

    with _compiling(compile_with_nvcc):
        built = _built(module, target)
    if not made:
        raise CompileError("TVM did not compile the CUDA kernels: its CUDA runtime could not be loaded")
    return built


def cubin(code: str, arch: str) -> bytes:
    """Machine code of CUDA text.

    Raises
    ------
    CompileError
        With the first lines of what nvcc says.
    """
    return _nvcc(code, arch)[0]


def usage(code: str, arch: str) -> list[tuple[int, int]]:
    """Registers a thread and bytes spilled, for each kernel of CUDA text, as ptxas reports them."""
    report = _nvcc(code, arch)[1]
    spills = [sum(map(int, pair)) for pair in re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)]
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", report)]
    return list(zip(registers, spills, strict=True))


def _nvcc(code: str, arch: str) -> tuple[bytes, str]:
    with tempfile.TemporaryDirectory(prefix="dtn-cuda-") as folder:
        text, binary = Path(folder, "kernel.cu"), Path(folder, "kernel.cubin")
        text.write_text(code)
        options = ["-O3", "-std=c++17", f"-arch={arch}", "-cubin", "-Xptxas", "-v"]
        done = subprocess.run(["nvcc", *options, "-o", str(binary), str(text)], capture_output=True, text=True)
        if done.returncode:
            said = "\n".join((done.stderr or done.stdout).splitlines()[:8])
            raise CompileError(f"nvcc refused a kernel for {arch}:\n{said}")
        return binary.read_bytes(), done.stderr


def _built(module: tvm.IRModule, target: Any) -> Any:
    host = target if target.host is not None else target.with_host(tvm.target.Target("llvm"))
    with _context(), host:
        return tvm.compile(module, target=host, tir_pipeline=_PIPELINE)


class _compiling:  # noqa: N801 - used as a function
    """Makes ``compile(code)`` what TVM turns CUDA text into machine code with."""

    def __init__(self, compile: Any) -> None:
        self.compile = compile

    def __enter__(self) -> None:
        self.before = tvm_ffi.get_global_func(_COMPILE, allow_missing=True)
        tvm_ffi.register_global_func(_COMPILE, self.compile, override=True)

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            tvm_ffi.register_global_func(_COMPILE, self.before, override=True)


@cache
def _load_runtime() -> None:
    """Load TVM's CUDA runtime, without which TVM keeps CUDA text instead of machine code.

    It needs the driver's library.  On a machine without one, a library that answers "no device" takes its place.
    """
    if tvm_ffi.get_global_func("ffi.Module.create.cuda", allow_missing=True) is not None:
        return
    runtime = Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"
    try:
        ctypes.CDLL("libcuda.so.1", ctypes.RTLD_GLOBAL)
    except OSError:
        _load_stand_in()
    try:
        ctypes.CDLL(str(runtime), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise CompileError(f"TVM's CUDA runtime could not be loaded: {error}") from None


def _load_stand_in() -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise CompileError("compiling CUDA kernels on a machine without a GPU needs a C compiler; install gcc")
    with tempfile.TemporaryDirectory(prefix="dtn-cuda-") as folder:
        text, library = Path(folder, "driver.c"), Path(folder, "libcuda.so.1")
        text.write_text("".join(f"int {name}(void) {{ return {_NO_DEVICE}; }}\n" for name in _DRIVER))
        subprocess.run([compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, text], check=True)
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
