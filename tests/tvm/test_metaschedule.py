"""The engine metaschedule: contractions as MetaSchedule takes them, its traces as schedules, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

tvm = pytest.importorskip("tvm", reason="apache-tvm is not installed")

from dtn_core.errors import CompileError  # noqa: E402
from dtn_core.interpret import interpret  # noqa: E402
from dtn_core.operators import load, tensor_attention  # noqa: E402
from dtn_tvm import kernels, records  # noqa: E402
from dtn_tvm.candidates import Options  # noqa: E402
from dtn_tvm.engines import TuneError  # noqa: E402
from dtn_tvm.implementation import choose  # noqa: E402
from dtn_tvm.metaschedule import Proposer  # noqa: E402
from dtn_tvm.problem import Problem  # noqa: E402
from dtn_tvm.recipe import computed, to_json  # noqa: E402
from dtn_tvm.site import local  # noqa: E402
from dtn_tvm.targets import target  # noqa: E402
from dtn_tvm.trace import TraceSchedule, unscheduled, written  # noqa: E402
from dtn_tvm.tune import tune  # noqa: E402

SIZES = {"batch": 2, "heads": 2, "n": 21, "d": 8, "e": 5}
CASES = {
    "trace": (tensor_attention(), "forward"),
    "row and residual": (tensor_attention(normalize="row", residual=0.5), "forward"),
    "interaction": (load("tensor_interaction"), "forward"),
    "gradient": (tensor_attention(), "backward"),
}


def traced(problem: Problem) -> TraceSchedule:
    """A schedule of a few transformations by hand."""
    made = tvm.s_tir.Schedule(unscheduled(problem))
    batch, heads, *_ = made.get_loops(made.get_sblock("k_k"))
    made.parallel(made.fuse(batch, heads))
    return TraceSchedule(written(made.trace))


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    return values.astype(np.float16 if dtype == "float16" else np.float32)


def error(problem: Problem, kernel) -> float:
    """Against the dense interpreter in float64, relative to the largest value of each result."""
    rng = np.random.default_rng(0)
    given = [rounded(rng.standard_normal(problem.shape(p)), problem.dtype) for p in problem.inputs]
    results = [np.full(problem.shape(p), np.nan, given[0].dtype) for p in problem.outputs]
    kernel(*given, *results)
    program = computed(problem.operator.program, problem.direction)
    swapped = problem.layout == "... n h d"
    turn = (lambda x: np.swapaxes(x, 1, 2)) if swapped else lambda x: x
    named = {p.name: turn(x).astype(np.float64) for p, x in zip(problem.inputs, given, strict=True)}
    wanted = interpret(program, **named, **problem.operator.scalars)
    outputs = wanted if isinstance(wanted, tuple) else (wanted,)
    outputs = [w for w, p in zip(outputs, program.outputs, strict=True) if p.axes]
    return max(
        float(np.abs(turn(found) - wanted).max() / np.abs(wanted).max())
        for found, wanted in zip(results, outputs, strict=True)
    )


@pytest.mark.parametrize("name", CASES)
def test_contractions_of_whole_tensors_are_the_operator(name):
    operator, direction = CASES[name]
    problem = Problem(operator, direction, "float32", SIZES)
    assert error(problem, tvm.compile(unscheduled(problem), target("cpu").tvm)["main"]) < 1e-5


@pytest.mark.parametrize(("dtype", "layout"), [("float16", "... n d"), ("float32", "... n h d")])
def test_a_trace_is_carried_out_in_every_dtype_and_layout(dtype, layout):
    problem = Problem(tensor_attention(), "forward", dtype, SIZES, layout)
    kernel = kernels.compile(problem, traced(problem), target("cpu"))
    assert "T.parallel" in kernels.lower(problem, traced(problem), target("cpu")).script()
    assert error(problem, kernel) < (1e-5 if dtype == "float32" else 2e-3)


def test_what_a_normalised_product_is_read_by_needs_no_tile_of_its_own():
    """MetaSchedule's own rule of tiles fails on a product that is divided by a trace."""
    problem = Problem(tensor_attention(), "forward", "float32", SIZES)
    proposer = Proposer()
    begin = {"problem": to_json(problem), "target": target("cpu").to_json(), "trials": 2, "seed": 0}
    assert proposer({"job": "begin", **begin}) == {}


class TestRefusals:
    def test_an_operator_with_an_order_names_it(self, tmp_path):
        problem = Problem(tensor_attention(mask="causal", normalize=None), "forward", "float32", SIZES)
        with pytest.raises(TuneError, match=r"walks along n \(l <= j\).*the engine grid has kernels of it"):
            tune(problem, target("cpu"), local(target("cpu")), tmp_path / "r.jsonl", Options(engine="metaschedule"))

    def test_a_card_is_for_the_grid(self, tmp_path):
        problem = Problem(tensor_attention(), "forward", "float32", SIZES)
        h100 = target("nvidia/h100")
        with pytest.raises(TuneError, match="metaschedule is for processors, not for nvidia/h100"):
            tune(problem, h100, local(h100), tmp_path / "r.jsonl", Options(engine="metaschedule"))

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("nonsense", "is not one of MetaSchedule's"),
            ('[[["Annotate",["b0","@0"],["pragma_import_llvm"],[]]],[]]', "'pragma_import_llvm' is not one that"),
        ],
    )
    def test_text_that_is_no_trace_of_metaschedule(self, text, said):
        with pytest.raises(CompileError, match=said):
            TraceSchedule(text)

    def test_a_trace_of_another_kernel(self):
        project = Problem(load("tensor_interaction"), "forward", "float32", {**SIZES, "d": 4})
        schedule = traced(Problem(tensor_attention(), "forward", "float32", SIZES))
        with pytest.raises(CompileError, match="tensor_interaction: the trace does not fit this kernel: .*k_k"):
            kernels.compile(project, schedule, target("cpu"))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """One search for all that looks at one: MetaSchedule takes seconds to start."""
    notation = "project(x[n,d], w[d,e]) -> y[n,e]: y[i,c] = x[i,a] * w[a,c]"
    path = tmp_path_factory.mktemp("records") / "records.jsonl"
    folder = path.parent / "project.dtn"
    folder.write_text(notation)
    problem = Problem(load(str(folder)), "forward", "float32", {"batch": 1, "heads": 1, "n": 32, "d": 8, "e": 16})
    options = Options(engine="metaschedule", trials=2, ceilings=False)
    with local(target("cpu")) as site:
        record, progress = tune(problem, target("cpu"), site, path, options)
    return problem, record, progress, path


class TestSearch:
    def test_its_candidates_are_built_checked_and_filed_like_others(self, found):
        problem, record, progress, path = found
        assert progress.done == 2
        assert record.options["engine"] == "metaschedule"
        assert record.receipt.errors["rms"] <= record.receipt.tolerance["rms"]
        (read,) = records.read(path).records
        kernel = kernels.compile(problem, kernels.Schedule.from_json(read.schedule), target("cpu"))
        assert error(problem, kernel) < 1e-5

    def test_its_record_is_used_for_its_shape_alone(self, found, monkeypatch):
        problem, record, _, path = found
        monkeypatch.setenv("DTN_RECORDS", str(path))
        assert choose(problem, target("cpu")).schedule.to_json() == record.schedule
        other = Problem(problem.operator, "forward", "float32", {**problem.sizes, "n": 31})
        choice = choose(other, target("cpu"))
        assert choice.schedule.kind == "cpu"
        assert "MetaSchedule's, for b=1,h=1,n=32,d=8,e=16 alone" in choice.reason

    def test_it_goes_on_from_what_an_earlier_process_measured(self, found):
        problem, record, _, _ = found
        proposer = Proposer()
        begin = {"problem": to_json(problem), "target": target("cpu").to_json(), "trials": 2, "seed": 0}
        assert proposer({"job": "begin", **begin}) == {}
        earlier = {"job": "tell", "trace": record.schedule["trace"], "seconds": 1e-3}
        assert proposer(earlier) == {"is_known": True}
        assert proposer({**earlier, "trace": "nonsense"}) == {"is_known": False}
        proposed = {proposer({"job": "propose"})["trace"] for _ in range(3)}
        assert len(proposed) == 3
        assert record.schedule["trace"] not in proposed
        assert all(json.loads(trace)[0] for trace in proposed)
