"""The threads that parallel loops of kernels run on."""

from __future__ import annotations

import os

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
