"""The threads that run the parallel loops of kernels on a processor.

TVM has threads of its own.  Beside PyTorch's they are slow: a thread of OpenMP that has done its part spins for some
milliseconds, waiting for more, and so does one of TVM's, so each kernel fights for its cores with the threads of the
operation before it.  Where the process has OpenMP, kernels therefore run on OpenMP's threads, which are PyTorch's and
awake.
"""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from dtn_core.cpuinfo import cores

VARIABLE = "TVM_NUM_THREADS"
_LAUNCH = "__TVMBackendParallelLaunch"
"""The pointer that a kernel's library starts its parallel loops by."""

# int launch(int (*body)(int task, struct {void *barrier; int tasks;} *, void *data), void *data, int tasks)
_SOURCE = """
{header}

@kind = private constant [13 x i8] c"RuntimeError\\00"
@message = private constant [43 x i8] c"a part of a kernel's parallel loop failed.\\00"

define internal void @part(ptr %job) {{
  %environment = alloca {{ ptr, i32 }}
  %tasks_at = getelementptr {{ ptr, i32 }}, ptr %environment, i32 0, i32 1
  %data_at = getelementptr {{ ptr, ptr, i32 }}, ptr %job, i32 0, i32 1
  %failed_at = getelementptr {{ ptr, ptr, i32 }}, ptr %job, i32 0, i32 2
  %task = call i32 inttoptr (i64 {omp_get_thread_num} to ptr)()
  %tasks = call i32 inttoptr (i64 {omp_get_num_threads} to ptr)()
  store ptr null, ptr %environment
  store i32 %tasks, ptr %tasks_at
  %body = load ptr, ptr %job
  %data = load ptr, ptr %data_at
  %status = call i32 %body(i32 %task, ptr %environment, ptr %data)
  %before = atomicrmw or ptr %failed_at, i32 %status seq_cst
  ret void
}}

define i32 @launch(ptr %body, ptr %data, i32 %tasks) {{
  %job = alloca {{ ptr, ptr, i32 }}
  %data_at = getelementptr {{ ptr, ptr, i32 }}, ptr %job, i32 0, i32 1
  %failed_at = getelementptr {{ ptr, ptr, i32 }}, ptr %job, i32 0, i32 2
  store ptr %body, ptr %job
  store ptr %data, ptr %data_at
  store i32 0, ptr %failed_at
  call void inttoptr (i64 {GOMP_parallel} to ptr)(ptr @part, ptr %job, i32 %tasks, i32 0)
  %status = load i32, ptr %failed_at
  %is_good = icmp eq i32 %status, 0
  br i1 %is_good, label %done, label %failed
failed:
  call void inttoptr (i64 {TVMFFIErrorSetRaisedFromCStr} to ptr)(ptr @kind, ptr @message)
  br label %done
done:
  ret i32 %status
}}

define i32 @__tvm_ffi_address(ptr %self, ptr %arguments, i32 %count, ptr %result) {{
  %value_at = getelementptr {{ i32, i32, i64 }}, ptr %result, i32 0, i32 2
  store i32 1, ptr %result
  store i64 ptrtoint (ptr @launch to i64), ptr %value_at
  ret i32 0
}}
"""

_NOTHING = """
@T.prim_func
def main(x: T.Buffer((1,), "float32")):
    x[0] = T.float32(0)
"""

_kept: list[Any] = []  # the code that kernels jump to


def count() -> int:
    """Threads that kernels may use: as TVM_NUM_THREADS or OMP_NUM_THREADS says, else every core of this process."""
    for name in (VARIABLE, "OMP_NUM_THREADS"):
        given = re.match(r"\s*(\d+)", os.environ.get(name, ""))
        if given and int(given[1]):
            return int(given[1])
    return cores()


def use_every_core() -> None:
    """Tell TVM of :func:`count`: by itself it takes every second core, in case two are one.

    It reads the variable when its first parallel loop starts.
    """
    os.environ.setdefault(VARIABLE, str(count()))


@lru_cache(maxsize=1)
def outlive_forks() -> None:
    """Have processes that are forked from now on run kernels on one thread.

    The threads of this one are not there in its children, where TVM and OpenMP would wait for them for ever.
    """
    os.register_at_fork(after_in_child=_alone)


def _alone() -> None:
    os.environ[VARIABLE] = "1"  # TVM looks at it whenever a loop starts
    if _kept:
        ctypes.CDLL(None).omp_set_num_threads(1)


def share_openmp() -> bool:
    """Have kernels that are loaded from now on run on OpenMP's threads, if the process has OpenMP.

    Returns
    -------
    bool
        Whether they will.
    """
    if _kept:
        return True
    process = ctypes.CDLL(None)  # PyTorch's own calls are bound to what is found here
    names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
    if not all(hasattr(process, name) for name in names):
        return False
    import tvm_ffi

    own = ctypes.CDLL(str(tvm_ffi.libinfo.find_libtvm_ffi()))
    found = {name: _address(process, name) for name in names}
    found["TVMFFIErrorSetRaisedFromCStr"] = _address(own, "TVMFFIErrorSetRaisedFromCStr")
    with tempfile.TemporaryDirectory(prefix="dtn-threads-") as folder:
        path = Path(folder) / "launch.ll"
        path.write_text(_SOURCE.format(header=_header(), **found), encoding="utf-8")
        module = tvm_ffi.get_global_func("ffi.Module.load_from_file.ll")(str(path), "ll")
        address = module["address"]()
    own.TVMFFIEnvModRegisterContextSymbol(_LAUNCH.encode(), ctypes.c_void_p(address))  # of two, the later one counts
    _kept.append(module)
    return True


def _address(library: ctypes.CDLL, name: str) -> int:
    address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    assert address is not None
    return address


@lru_cache(maxsize=1)
def _header() -> str:
    """The lines of LLVM's text that say what processor it is for."""
    import tvm
    import tvm.script
    from tvm.script import tirx

    function = tvm.script.from_source(_NOTHING, extra_vars={"T": tirx})
    text = tvm.compile(tvm.IRModule({"main": function}), tvm.target.Target("llvm")).mod.inspect_source("ll")
    return "\n".join(line for line in text.splitlines() if line.startswith("target "))
