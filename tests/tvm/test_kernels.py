"""CPU kernels against the dense interpreter, which evaluates the definition (or its gradient) literally in float64."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from dtn_codegen.tensorir.layout import choose
from dtn_codegen.tensorir.schedule import CpuRows, CpuSchedule
from dtn_core.errors import CompileError
from dtn_core.interpret import interpret
from dtn_core.notation import parse
from dtn_core.operators import Operator, as_operator, catalogue, tensor_attention, tensor_interaction
from dtn_core.passes.differentiate import differentiate
from dtn_core.passes.flatten import flatten
from dtn_core.passes.padding import pad
from dtn_tvm import kernels, targets, threads
from dtn_tvm.kernels import Problem
from dtn_tvm.problem import tile_program
from oracle.by_rows import BOTH_SIDES, BOTH_WAYS, ELEMENTS, SOFTMAX
from oracle.cuda_cases import PAST, PAST_PAIR
from oracle.resumed import resumed

CPU = targets.target("cpu")
CAUSAL = tensor_attention(mask="causal", normalize=None)
TOLERANCE = {"float32": 1e-5, "float16": 4e-3}

GATED = as_operator(
    """gated(q[n,d], k[n,d], v[n,e], g[n], w[e,e]) -> o[n,e]:
    s[j]   = exp(g[j])
    x[j,c] = v[j,b] * w[b,c]
    o[t,c] = q[t,a] * k[j,a] * s[j] * x[j,c]   where j <= t"""
)
WEIGHED = as_operator(
    """weighed(q[n,d], k[n,d], v[n,e], w[d,d]) -> o[n,e]:
    g[a,b] = sigmoid(w[a,b])
    o[t,c] = q[t,a] * g[a,b] * k[i,b] * v[i,c]   where i <= t"""
)
MIXED = as_operator(
    """mixed(q[n,d], k[n,d], v[n,e], w[d]) -> o[n,e], m[d,e], g[d], p[n,e]:
    m[a,c] = k[i,a] * v[i,c]
    g[a]   = sigmoid(w[a])
    p[t,c] = q[t,a] * m[a,c]
    o[t,c] = q[t,a] * g[a] * k[i,a] * v[i,c]   where i <= t"""
)
MEAN = Operator(
    pad(parse("mean(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a] * k[i,a] * v[i,c] / n where i <= t"))
)
TOTALS = as_operator(
    """totals(x[n,d], y[n,e]) -> u[n,e], m[d,e], s:
    m[a,c] = x[i,a] * y[i,c]
    z[i,a] = exp(x[i,a])
    s      = z[i,a]
    u[t,c] = x[t,a] * m[a,c]"""
)


TWO_SIMPLICIAL = catalogue["two_simplicial"].build()
DECAYED_PAIR = Operator(
    parse("""pair(q[n,d], k[n,d], l[n,d], v[n,e], w[n,e], g) -> o[n,e]:
    o[t,c] = q[t,a] * k[i,a] * l[j,a] * v[i,c] * w[j,c]   where i <= t decay g, j <= t decay g"""),
    {"g": 0.9},
)


PAST_SCORES = as_operator(
    """past(q[n,d], k[n,d], v[n,e]) -> o[n,e]:
    s[i,j] = q[i,a] * k[j,a]
    x[i,j] = exp(s[i,j])
    o[t,c] = x[t,j] * v[j,c]   where j < t"""
)


def causal(**knobs):
    return tensor_attention(mask="causal", **knobs)


FORWARD = {
    "order 1": causal(order=1, normalize=None),
    "order 2": CAUSAL,
    "order 3": causal(order=3, normalize=None),
    "asymmetric": causal(asymmetric=True, normalize=None),
    "side k": causal(side="k"),
    "decay": causal(decay=0.9, normalize=None),
    "trace": causal(normalize="trace"),
    "trace, decay, residual": causal(normalize="trace", decay=0.9, residual=0.5, scale=0.7, eps=0.1),
    "row": causal(normalize="row"),
    "diag": causal(normalize="diag"),
    "interaction, causal": tensor_interaction(mask="causal"),
    "interaction": tensor_interaction(),
    "unmasked, trace": tensor_attention(),
    "unmasked, order 3, row": tensor_attention(order=3, normalize="row"),
    "tril": tensor_attention(mask="tril"),
    "tril, order 3, row": tensor_attention(mask="tril", order=3, normalize="row"),
    "tril, expm, diag": tensor_attention(mask="tril", activation="expm", normalize="diag"),
    "tril, hadamard": tensor_attention(mask="tril", product="hadamard"),
    "tril, padded": Operator(pad(tensor_attention(mask="tril").program)),
    "own operator": GATED,
    "a function of weights": WEIGHED,
    "results with and without order": MIXED,
    "divided by the length, padded": MEAN,
    "expm": tensor_attention(activation="expm"),
    "expm, row, residual": tensor_attention(activation="expm", normalize="row", residual=0.5),
    "expm, not normalised": tensor_attention(activation="expm", normalize=None, scale=0.1),
    "two simplicial": TWO_SIMPLICIAL,
    "a pair of states that decay": DECAYED_PAIR,
    "strict order": PAST,
    "strict order in a pair": PAST_PAIR,
    "strict order of n×n matrices": PAST_SCORES,
    "hadamard": causal(product="hadamard", normalize=None),
    "hadamard, diag, decay": causal(product="hadamard", normalize="diag", decay=0.9),
    "hadamard, row, padded": Operator(pad(causal(product="hadamard", normalize="row").program)),
    "hadamard, unmasked": tensor_attention(product="hadamard"),
}
SMALL = {name: {"n": 40, "d": 12, "e": 9} for name in FORWARD if "pair" in name or "hadamard" in name or "two" in name}
"""The interpreter takes long for these."""

BACKWARD = {
    name: FORWARD[name]
    for name in (
        "order 1", "order 2", "order 3", "asymmetric", "trace, decay, residual", "row", "interaction, causal",
        "unmasked, trace", "own operator", "a function of weights", "results with and without order", "expm", "two simplicial",
        "divided by the length, padded",
        "a pair of states that decay", "strict order", "strict order in a pair", "strict order of n×n matrices",
        "hadamard", "hadamard, diag, decay",
        "tril", "tril, order 3, row", "tril, expm, diag", "tril, hadamard", "tril, padded",
    )
}  # fmt: skip


def arrays(problem, seed=0):
    """Inputs of one sign, at which no normaliser is near 0, and outputs in the middle of NaNs."""
    rng = np.random.default_rng(seed)
    inputs = []
    for param in problem.inputs:
        if param.name in problem.operator.scalars:
            inputs.append(np.full(problem.shape(param), problem.operator.scalars[param.name], np.float32))
            continue
        size = problem.sizes[param.axes[-1]] ** -0.5 if param.axes else 1
        inputs.append((size * rng.uniform(0.1, 1.1, problem.shape(param))).astype(problem.kind(param)))
    shapes = [problem.shape(param) for param in problem.outputs]
    kinds = [np.dtype(problem.kind(param)) for param in problem.outputs]
    memory = [np.full(np.prod(shape, dtype=int) + 64, np.nan, kind) for shape, kind in zip(shapes, kinds, strict=True)]
    return inputs, memory, [x[32:-32].reshape(shape) for x, shape in zip(memory, shapes, strict=True)]


def expected(problem, inputs):
    """The dense interpreter's results, for every batch entry and head."""
    program = problem.operator.program
    if problem.direction == "backward":
        names = [param.name for param in program.tensors]
        program = flatten(differentiate(flatten(program), names))
    batch, heads = problem.sizes["batch"], problem.sizes["heads"]
    if problem.resumed:
        results = resumed(problem, [np.asarray(x, np.float64) for x in inputs])
        names = [param.name for param in problem.outputs]
        pairs = ((b, h) for b in range(batch) for h in range(heads))
        return {(b, h): {name: x[b, h] for name, x in zip(names, results, strict=True)} for b, h in pairs}
    swap = problem.layout == "... n h d"
    found = {}
    for b in range(batch):
        for h in range(heads):
            named = dict(problem.operator.scalars)
            for param, x in zip(problem.inputs, inputs, strict=True):
                named[param.name] = np.asarray(x[b, :, h] if swap and len(param.axes) == 2 else x[b, h], np.float64)
            results = interpret(program, **named)
            results = results if isinstance(results, tuple) else (results,)
            found[b, h] = dict(zip([output.name for output in program.outputs], results, strict=True))
    return found


def check(problem, schedule=None, tolerance=None):
    """Run a kernel and hold every result to the interpreter's, relative to the largest."""
    kernel = kernels.compile(problem, schedule or kernels.default(problem, CPU), CPU)
    inputs, memory, outputs = arrays(problem)
    kernel(*inputs, *outputs)
    tolerance = tolerance or TOLERANCE[problem.dtype]
    swap = problem.layout == "... n h d"
    for (b, h), wanted in expected(problem, inputs).items():
        for param, output in zip(problem.outputs, outputs, strict=True):
            value = output[b, :, h] if swap and len(param.axes) == 2 else output[b, h]
            error = np.max(np.abs(value.astype(np.float64) - wanted[param.name]), initial=0)
            assert error <= tolerance * np.max(np.abs(wanted[param.name]), initial=0), (param.name, b, h)
    assert all(np.isnan(x[:32]).all() and np.isnan(x[-32:]).all() for x in memory), "written outside of a result"


def problem_of(operator, direction="forward", dtype="float32", layout="... n d", resumed=False, **sizes):
    sizes = {"batch": 1, "heads": 2, "n": 70, "d": 32, "e": 32, **sizes}
    return Problem(operator, direction, dtype, sizes, layout, resumed)


@pytest.mark.parametrize("name", FORWARD)
def test_forward(name):
    check(problem_of(FORWARD[name], **SMALL.get(name, {})))


@pytest.mark.parametrize("name", BACKWARD)
def test_backward(name):
    check(problem_of(BACKWARD[name], "backward", **SMALL.get(name, {})), tolerance=5e-5)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("name", [name for name in BACKWARD if "hadamard" in name])
def test_states_over_pairs(name, direction):
    """So small, they are not what the default goes by."""
    problem = problem_of(FORWARD[name], direction, **SMALL[name])
    assert isinstance(kernels.default(problem, CPU), CpuRows)
    check(problem, CpuSchedule(chunk=16, tokens=(8, 16), features=(8, 16)), tolerance=5e-5)


def test_sums_over_pairs_of_the_whole_sequence():
    problem = problem_of(FORWARD["hadamard, unmasked"], n=40, d=12, e=9)
    check(problem, CpuSchedule(chunk=16), tolerance=5e-5)


BY_ROWS = {
    "relu": tensor_attention(activation="relu"),
    "relu, causal": causal(activation="relu"),
    "relu, tril, order 3": tensor_attention(mask="tril", order=3, activation="relu", normalize=None),
    "exp, causal": causal(activation="exp", normalize=None, scale=0.5),
    "exp, order 1, row": causal(activation="exp", order=1, normalize="row"),
    "softmax": SOFTMAX,
    "softmax, padded": Operator(pad(SOFTMAX.program)),
    "hadamard, row": tensor_attention(product="hadamard", normalize="row"),
    "hadamard, decay": causal(product="hadamard", normalize="row", decay=0.9),
    "hadamard, relu": causal(product="hadamard", normalize=None, activation="relu"),
    "own operator": ELEMENTS,
    "both ways": BOTH_WAYS,
    "both sides": BOTH_SIDES,
}
ROWS = CpuRows(chunk=16, tokens=(8, 16), features=(8, 16))


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("name", BY_ROWS)
def test_by_rows_of_matrices(name, direction):
    """Whole chunks and a part of one, features that fill no vector, and what sums over all elements of a matrix."""
    problem = problem_of(BY_ROWS[name], direction, n=40, d=12, e=9)
    if direction == "backward" and name in ("own operator", "softmax, padded"):
        problem = problem_of(BY_ROWS[name], n=33, d=16, e=16)
    check(problem, ROWS, tolerance=5e-5)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 48])
def test_by_rows_at_the_ends_of_chunks(n):
    check(problem_of(BY_ROWS["hadamard, decay"], n=n, d=4, e=5), ROWS, tolerance=5e-5)
    check(problem_of(BY_ROWS["exp, causal"], "backward", n=n, d=4, e=5), ROWS, tolerance=5e-5)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("name", ["relu", "softmax", "hadamard, decay", "own operator"])
def test_rows_of_one_head_shared_by_threads(name, parts, direction):
    schedule = CpuRows(chunk=16, tokens=(8, 16), features=(8, 16), parallel="split", parts=parts)
    check(problem_of(BY_ROWS[name], direction, n=70, d=8, e=8, heads=1), schedule, tolerance=5e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_by_rows_with_heads_between(dtype):
    check(problem_of(SOFTMAX, dtype=dtype, layout="... n h d", n=37, d=8, e=8), ROWS)


def test_no_kernel_by_rows_where_the_native_source_does_without():
    operator = BY_ROWS["hadamard, row"]
    kernels.default(problem_of(operator, n=20), CPU)
    with pytest.raises(CompileError, match="with n=5000 the native source does without.*axes in another order"):
        kernels.default(problem_of(operator, n=5000, d=4, e=4), CPU)


def test_rows_are_for_short_sequences_where_states_would_do():
    operator = FORWARD["hadamard"]
    for n, is_by_rows in ((64, True), (4096, True), (8192, False)):
        assert isinstance(kernels.default(problem_of(operator, n=n, d=64, e=64), CPU), CpuRows) == is_by_rows


@pytest.mark.parametrize(
    ("options", "vectors"),
    [
        ({"mcpu": "x86-64"}, (4, 16)),
        ({"mcpu": "x86-64-v3"}, (8, 16)),
        ({"mcpu": "x86-64-v4"}, (16, 32)),
        ({"mcpu": "neoverse-n1", "mtriple": "aarch64-linux-gnu"}, (4, 32)),
    ],
)
def test_accumulators_stay_in_the_registers_of_the_target(options, vectors):
    target = targets.target(json.dumps({"kind": "llvm", "num-cores": 2, **options}))
    assert target.vectors == vectors
    lanes, registers = vectors
    for direction in ("forward", "backward"):
        for schedule in kernels.space(problem_of(CAUSAL, direction, n=4096), target):
            assert schedule.vector == lanes
            for rows, columns in (schedule.tokens, schedule.features):
                assert rows * columns <= registers // 2 * lanes


@pytest.mark.parametrize(("d", "e"), [(64, 64), (128, 128), (32, 64), (20, 9), (1, 1)])
def test_feature_sizes(d, e):
    check(problem_of(CAUSAL, d=d, e=e))


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 200])
def test_one_kernel_serves_any_number_of_tokens(n):
    check(problem_of(CAUSAL, n=n, d=16, e=16), CpuSchedule())


@pytest.mark.parametrize("n", [1, 65])
def test_the_gradient_at_any_number_of_tokens(n):
    check(problem_of(causal(decay=0.9, normalize=None), "backward", n=n, d=16, e=16), CpuSchedule(), tolerance=5e-5)


@pytest.mark.parametrize(("batch", "heads"), [(1, 1), (2, 3)])
@pytest.mark.parametrize("layout", ["... n d", "... n h d"])
def test_batches_heads_and_layouts(batch, heads, layout):
    check(problem_of(CAUSAL, batch=batch, heads=heads, d=16, e=16, layout=layout))


def test_the_gradient_in_the_other_layout():
    check(problem_of(CAUSAL, "backward", batch=2, heads=3, d=16, e=16, layout="... n h d"), tolerance=5e-5)


@pytest.mark.parametrize("operator", [CAUSAL, causal(), tensor_attention()])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_sums_of_float16_are_taken_in_float32(operator, direction):
    check(problem_of(operator, direction, "float16"))


@pytest.mark.parametrize(
    "schedule",
    [
        CpuSchedule(chunk=16),
        CpuSchedule(chunk=128, tokens=(8, 32), features=(8, 32), unroll=4),
        CpuSchedule(chunk=32, tokens=(4, 32), features=(8, 16), unroll=1),
        CpuSchedule(vector=8, tokens=(8, 16), features=(4, 32)),
        CpuSchedule(parallel="serial"),
    ],
    ids=str,
)
def test_every_schedule_computes_the_same(schedule):
    check(problem_of(causal(decay=0.9, normalize="row"), n=150, d=32, e=48), schedule)


def test_vectors_are_turned_in_squares_so_a_schedule_of_24_lanes_is_refused():
    with pytest.raises(CompileError, match="vector=24 is not a power of two"):
        CpuSchedule(vector=24, tokens=(8, 24), features=(8, 24))


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_tokens_of_the_next_chunk_are_asked_for_and_none_are_scattered(direction):
    kernel = kernels.compile(problem_of(CAUSAL, direction, d=64, e=64), CpuSchedule(), CPU)
    source = kernel.executable.mod.inspect_source("ll")
    assert "call void @llvm.prefetch" in source
    assert "masked.scatter" not in source


@pytest.mark.parametrize("knobs", [{"activation": "exp"}, {"asymmetric": True}])
def test_a_trace_is_not_summed_a_number_at_a_time(knobs):
    problem = problem_of(tensor_attention(**knobs), n=2048, d=64, e=64)
    text = kernels.lower(problem, kernels.default(problem, CPU), CPU).script()
    assert set(re.findall(r"total\[0\] = total\[0\] \+ (\w+)", text)) == {"lanes"}


@pytest.mark.parametrize("operator", [CAUSAL, tensor_interaction(mask="causal", product="hadamard", normalize="row")])
def test_pointwise_values_are_read_along_vectors(operator):
    program = problem_of(operator, "backward").tiles  # adds a state to its transpose, or takes one times it
    layout = choose(program)
    steps = [step for step in program.steps if not step.groups and len(step.indices) == 2]
    reads = [(read, layout.vector(step)) for step in steps for read in step.reads if len(read.indices) == 2]
    assert reads
    assert all(layout.is_along(read, along) for read, along in reads)


def test_a_sum_of_all_tokens_is_turned_once_when_the_walk_is_over():
    problem = problem_of(tensor_attention(asymmetric=True), n=2048, d=64, e=64)
    lines = kernels.lower(problem, kernels.default(problem, CPU), CPU).script().splitlines()
    (first, *_) = [line for line in lines if re.match(r" +k_q_transposed\[.* = v_", line)]
    walk = next(line for line in lines if re.match(r" +for .* in range\(\(tokens", line))
    depths = [len(line) - len(line.lstrip()) for line in (first, walk)]
    assert depths[0] == depths[1] + 4  # in a loop over squares of its own, beside the walk's


def test_walks_over_rows_do_not_compute_what_the_walk_before_them_did():
    problem = problem_of(tensor_attention(activation="exp"), n=64, d=64, e=64)
    steps = [step.name for walk in tile_program(problem.operator, "forward", rows=True).walks for step in walk.setup]
    assert "r" in steps
    assert len(steps) == len(set(steps))


def test_products_of_a_chunk_run_along_features_where_nothing_has_to_be_turned_for_it():
    program = problem_of(CAUSAL).tiles
    layout = choose(program)
    along = {step.name: layout.vector(step).axis for step in program.steps if step.is_matmul}
    scores = [name for name, axis in along.items() if axis == "n"]
    assert scores == ["q_k_masked", "q_o_state_masked"]  # these have no other axis


@pytest.mark.parametrize(
    "name",
    [
        "order 2",
        "order 3",
        "trace, decay, residual",
        "unmasked, trace",
        "tril",
        "a function of weights",
        "results with and without order",
    ],
)
@pytest.mark.parametrize(("n", "parts"), [(150, 2), (70, 5)])
def test_a_sequence_in_parts(name, n, parts):
    check(problem_of(FORWARD[name], n=n, heads=1), CpuSchedule(chunk=32, parallel="split", parts=parts))


BY_TOKEN = ("two simplicial", "a pair of states that decay")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("order 1", 2),
        ("order 3", 3),
        ("trace, decay, residual", 2),
        ("trace, decay, residual", 7),  # more than there are chunks
        ("interaction, causal", 2),
        ("unmasked, trace", 2),
        ("own operator", 2),
        ("a function of weights", 2),
        ("results with and without order", 2),
        ("tril, order 3, row", 2),
        ("tril, expm, diag", 2),
        ("hadamard, diag, decay", 2),
    ],
)
def test_the_gradient_of_a_sequence_in_parts(name, parts):
    problem = problem_of(BACKWARD[name], "backward", **{"n": 70, "heads": 1, **SMALL.get(name, {})})
    check(problem, CpuSchedule(chunk=16, tokens=(8, 16), features=(8, 16), parallel="split", parts=parts), 5e-5)


@pytest.mark.parametrize("name", BY_TOKEN)
def test_tokens_one_at_a_time_have_no_parts(name):
    with pytest.raises(CompileError):
        tile_program(BACKWARD[name], "backward", split=True, rows=False)


def test_results_without_tokens_of_a_sequence_in_parts():
    check(problem_of(TOTALS, n=150, d=20, e=9), CpuSchedule(chunk=32, parallel="split", parts=3))


RESUMED = ["order 3", "trace, decay, residual", "row", "a function of weights"]


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("name", RESUMED)
def test_from_given_states_to_those_after_the_last_token(name, direction):
    check(problem_of(FORWARD[name], direction, n=70, d=20, e=9, resumed=True), tolerance=5e-5)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("name", ["trace, decay, residual", "hadamard, diag, decay", "a function of weights"])
@pytest.mark.parametrize("parts", [2, 5])
def test_parts_of_a_sequence_from_given_states(name, direction, parts):
    schedule = CpuSchedule(chunk=16, tokens=(8, 16), features=(8, 16), parallel="split", parts=parts)
    check(problem_of(FORWARD[name], direction, n=70, d=12, e=9, heads=1, resumed=True), schedule, 5e-5)


def test_tokens_one_at_a_time_from_given_states():
    check(problem_of(DECAYED_PAIR, n=40, d=20, e=9, resumed=True))


@pytest.mark.parametrize("n", [1, 32, 70])
def test_the_gradient_a_token_at_a_time_from_given_states(n):
    check(problem_of(DECAYED_PAIR, "backward", n=n, d=20, e=9, resumed=True), CpuSchedule(chunk=32), tolerance=5e-5)


def test_tokens_one_at_a_time_have_one_schedule():
    problem = problem_of(TWO_SIMPLICIAL, n=65536, heads=1)
    (only,) = kernels.space(problem, targets.target('{"kind": "llvm", "num-cores": 4}'))
    assert only.parallel == "serial"


def test_states_are_float32_whatever_the_tensors():
    problem = problem_of(CAUSAL, dtype="float16", resumed=True)
    assert [problem.kind(param) for param in problem.inputs] == ["float16"] * 3 + ["float32"] * 2
    check(problem)


@pytest.mark.parametrize(
    ("function", "value", "tolerance"),
    [
        ("exp", np.exp, 1e-7),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), 2e-7),
        ("silu", lambda x: x / (1 + np.exp(-x)), 3e-7),
    ],
)
def test_exponentials_to_the_last_digit_and_at_the_ends_of_float32(function, value, tolerance):
    operator = as_operator(f"f(x[n,d]) -> y[n,d]:\n    y[i,a] = {function}(x[i,a])")
    problem = problem_of(operator, n=4096, heads=1)
    kernel = kernels.compile(problem, kernels.default(problem, CPU), CPU)
    rng = np.random.default_rng(0)
    x = np.where(rng.random((1, 1, 4096, 32)) < 0.5, rng.normal(size=32), rng.uniform(-87, 88, 32)).astype(np.float32)
    ends = np.array([0, -0.0, 88.72, 88.73, 1e4, np.inf, -103, -104, -1e4, -np.inf, np.nan], np.float32)
    x[0, 0, -1, : len(ends)] = ends
    y = np.empty_like(x)
    kernel(x, y)
    with np.errstate(over="ignore", invalid="ignore"):
        exact = value(x.astype(np.float64))
        expected = exact.astype(np.float32)
    normal = np.abs(exact) > 2 * np.finfo(np.float32).tiny
    normal &= np.isfinite(expected)
    assert np.max(np.abs(y[normal] - exact[normal]) / np.abs(exact[normal])) < tolerance
    np.testing.assert_allclose(y[0, 0, -1, : len(ends)], expected[0, 0, -1, : len(ends)], rtol=3e-7, atol=1e-37)


def test_one_long_head_is_split_where_there_are_cores():
    many = targets.target('{"kind": "llvm", "num-cores": 4}')
    chosen = kernels.default(problem_of(CAUSAL, n=65536, heads=1), many)
    assert (chosen.parallel, chosen.parts) == ("split", 4)
    assert kernels.default(problem_of(CAUSAL, "backward", n=65536, heads=1), many) == replace(
        kernels.default(problem_of(CAUSAL, "backward", n=65536, heads=4), many), parallel="split", parts=4
    )
    assert kernels.default(problem_of(CAUSAL, n=65536, heads=4), many).parallel == "heads"
    assert kernels.default(problem_of(CAUSAL, n=64, heads=1), many).parallel == "serial"


@pytest.mark.parametrize(("openmp", "wanted"), [(True, "heads"), (False, "serial")])
def test_heads_of_few_tokens_are_shared_out_where_threads_are_awake(monkeypatch, openmp, wanted):
    monkeypatch.setattr(threads, "share_openmp", lambda: openmp)
    many = targets.target('{"kind": "llvm", "num-cores": 4}')
    assert kernels.default(problem_of(CAUSAL, n=64, heads=8), many).parallel == wanted
    assert kernels.default(problem_of(CAUSAL, n=64, heads=2), many).parallel == "serial"


def test_results_without_tokens():
    check(problem_of(TOTALS, d=20, e=9))


def test_the_predicted_best_and_the_last_candidate():
    problem = problem_of(CAUSAL, n=2048, d=64, e=64, heads=8)
    found = kernels.space(problem, CPU)
    assert found[0] == kernels.default(problem, CPU)
    assert len(set(found)) == len(found)
    check(problem_of(CAUSAL), found[-1])


def test_problems_that_differ_in_tokens_share_a_kernel():
    schedule = CpuSchedule()
    first = kernels.compile(problem_of(CAUSAL, n=5), schedule, CPU)
    assert first is kernels.compile(problem_of(CAUSAL, n=500, heads=1), schedule, CPU)


LOWERED = """
from dtn_core.operators import tensor_attention
from dtn_tvm import kernels, targets
for operator in (tensor_attention(activation="expm"), tensor_attention(mask="causal", product="hadamard")):
    for direction in ("forward", "backward"):
        problem = kernels.Problem(operator, direction, "float32", {"batch": 1, "heads": 2, "n": 64, "d": 16, "e": 8})
        target = targets.target("cpu")
        print(kernels.lower(problem, kernels.default(problem, target), target).script())
"""


def test_a_kernel_is_the_same_in_another_process():
    """Sets of names go by their hashes, which differ: 3 and 5 put those of a sum's indices in another order."""
    made = [
        subprocess.run(
            [sys.executable, "-c", LOWERED], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("3", "5")
    ]
    assert len(made[0]) > 10_000
    assert made[0] == made[1]


def test_a_schedule_survives_json():
    schedule = CpuSchedule(chunk=32, tokens=(8, 32))
    assert kernels.Schedule.from_json(schedule.to_json()) == schedule


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"kind": "abacus"}, "kind is not one of"),
        ({"kind": "cpu", "chunk": 64}, "expected chunk, "),
        ({**CpuSchedule().to_json(), "chunk": 48, "unroll": 3}, "do not divide"),
    ],
)
def test_json_that_is_no_schedule(found, message):
    with pytest.raises((ValueError, CompileError), match=message):
        kernels.Schedule.from_json(found)


def test_an_accumulator_larger_than_the_registers_is_refused():
    with pytest.raises(CompileError, match="at most 1024 bytes"):
        CpuSchedule(features=(8, 64))


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (tensor_attention(activation="expm", mask="causal"), "two axes n.*multiplies n×n matrices"),
        (tensor_attention(activation="expm", product="hadamard"), "a function of an n×n matrix"),
        (
            as_operator(
                """three(q[n,d], k[n,d], l[n,d], m[n,d], v[n,e]) -> o[n,e]:
                o[t,c] = q[t,a] * q[t,b] * q[t,g] * k[i,a] * l[i,b] * m[i,g] * v[i,c]   where i <= t"""
            ),
            "n=5000 the native source does without.*4 axes; a tile has 2; and a token at a time",
        ),
    ],
)
def test_what_has_no_kernel_says_why(operator, message):
    with pytest.raises(CompileError, match=message):
        kernels.space(problem_of(operator, n=5000, d=4, e=4), CPU)


def test_a_dtype_that_has_no_kernel():
    with pytest.raises(CompileError, match="no kernel for float64; kernels take float32, float16, bfloat16"):
        problem_of(CAUSAL, dtype="float64")
