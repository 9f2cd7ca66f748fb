"""Peak memory of one call.

That is the peak of the resident set of a fresh process (Linux), or the allocator's own count (CUDA).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .case import Task
from .runners import runner
from .worker import inputs, start

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5): resets VmHWM to the present resident set
WARM_TOKENS = 128


def measurable(device: str) -> bool:
    """Whether the system keeps and resets the peak of a process, or the device's allocator does."""
    return device == "cuda" or (STATUS.exists() and CLEAR.exists())


def status(field: str) -> int:
    """A size from ``/proc/self/status``, in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no {field}")


def peak(task: Task) -> int:
    """Bytes that the largest moment of a call has more than the moment before it, its results included.

    Call it in a process that has run nothing else: memory that was freed before and not yet given back to the system
    would be used again without being seen. A call on few tokens comes first, so that code and threads are there.

    Parameters
    ----------
    task : Task
        What to run; its tensors count as there before.
    """
    start(task.framework)
    small = replace(task, n=max(WARM_TOKENS, *task.settings.values(), 0))
    runner(task.framework).prepare(small, inputs(small))()
    call = runner(task.framework).prepare(task, inputs(task))
    if task.device == "cuda":
        return _allocated(call)
    CLEAR.write_text(RESET_PEAK)
    before = status("VmRSS")
    result = call()
    after = status("VmHWM")
    del result
    return after - before


def _allocated(call: object) -> int:
    import torch

    assert callable(call)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    after = torch.cuda.max_memory_allocated()
    del result
    return int(after - before)
