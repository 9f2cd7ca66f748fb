"""The threads that parallel loops of kernels run on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

tvm = pytest.importorskip("tvm", reason="apache-tvm is not installed")
torch = pytest.importorskip("torch")

from tvm.script import tirx  # noqa: E402

from dtn_tvm import threads  # noqa: E402
from dtn_tvm.targets import target  # noqa: E402

TASKS = 64
SOURCE = """
@T.prim_func
def main(x: T.Buffer(({tasks},), "int32")):
    T.func_attr({{"global_symbol": "main"}})
    for task in T.parallel({tasks}):
        {body}
"""


def parallel(body: str):
    """A kernel of a parallel loop, loaded now."""
    text = SOURCE.format(tasks=TASKS, body=body)
    function = tvm.script.from_source(text, extra_vars={"T": tirx})
    return tvm.compile(tvm.IRModule({"main": function}), target("cpu").tvm)["main"]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class TestOpenMP:
    """PyTorch has brought OpenMP into this process."""

    @pytest.mark.parametrize(("function", "wanted"), [("omp_in_parallel", 1), ("omp_get_num_threads", 2)])
    def test_loops_run_on_as_many_of_its_threads_as_pytorch_uses(self, two_threads, function, wanted):
        assert threads.share_openmp()
        seen = np.zeros(TASKS, np.int32)
        parallel(f'x[task] = T.call_extern("int32", "{function}")')(seen)
        np.testing.assert_array_equal(seen, wanted)

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_every_part_is_done_once_by_any_number_of_threads(self, two_threads, count):
        assert threads.share_openmp()
        torch.set_num_threads(count)
        seen = np.zeros(TASKS, np.int32)
        parallel("x[task] = x[task] + 1 + task")(seen)
        np.testing.assert_array_equal(seen, 1 + np.arange(TASKS))

    @pytest.mark.parametrize("failing", [0, TASKS - 1])
    def test_a_part_that_fails_is_an_error_of_the_call(self, two_threads, failing):
        assert threads.share_openmp()
        kernel = parallel(f'assert x[task] != {failing}, ("ValueError", ["not this one"])')
        kernel(np.full(TASKS, -1, np.int32))
        with pytest.raises(RuntimeError, match="a part of a kernel's parallel loop failed"):
            kernel(np.arange(TASKS, dtype=np.int32))


CAUSAL = "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]:\n    o[t,c] = q[t,a] * k[i,a] * v[i,c]   where i <= t"
FORKED = """
import os
import sys
import numpy
import dtn_numpy
from dtn_tvm import threads

if sys.argv[1] == "openmp":
    import torch
else:
    threads.share_openmp = lambda: False
kernel = dtn_numpy.compile(sys.argv[2], implementation="tvm")
q, k, v = numpy.random.default_rng(0).standard_normal((3, 2, 8, 2000, 32), numpy.float32)
here = kernel(q, k, v)
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(0 if numpy.allclose(kernel(q, k, v), here, rtol=1e-5, atol=1e-5) else 3)
"""


class TestForks:
    @pytest.mark.parametrize("pool", ["openmp", "tvm"])
    def test_a_child_computes_what_its_parent_has_computed_on_threads(self, pool):
        names = ("TVM_NUM_THREADS", "OMP_NUM_THREADS")
        process = subprocess.Popen(
            [sys.executable, "-c", FORKED, pool, CAUSAL],
            env={**os.environ, **dict.fromkeys(names, "2")},
            start_new_session=True,
        )
        try:
            assert process.wait(60) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a child that waits for ever too


class TestCount:
    @pytest.mark.parametrize(
        ("tvm_says", "openmp_says", "wanted"), [("3", "5", 3), ("", "5", 5), ("0", "5,2", 5), ("many", " 4", 4)]
    )
    def test_the_environment_says_how_many(self, monkeypatch, tvm_says, openmp_says, wanted):
        monkeypatch.setenv("TVM_NUM_THREADS", tvm_says)
        monkeypatch.setenv("OMP_NUM_THREADS", openmp_says)
        assert threads.count() == wanted

    def test_by_itself_it_is_every_core(self, monkeypatch):
        monkeypatch.setenv("TVM_NUM_THREADS", "")  # so that what is set below is undone
        monkeypatch.delenv("TVM_NUM_THREADS")
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 2, 5})
        assert threads.count() == 3
        threads.use_every_core()
        assert os.environ["TVM_NUM_THREADS"] == "3"
