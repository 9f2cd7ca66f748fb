"""Every family of CUDA kernels once: an operator, a dtype, a shape and a schedule, with inputs and their dense value.

The value comes from the dense interpreter in float64, at the inputs as rounded to the dtype of the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from dtn_codegen.tensorir.cuda.schedule import CudaRows, CudaSchedule
from dtn_core.interpret import interpret
from dtn_core.notation import parse
from dtn_core.operators import Operator, as_operator, catalogue, tensor_attention, tensor_interaction
from dtn_core.passes.differentiate import differentiate
from dtn_core.passes.padding import MASK, pad
from dtn_tvm.problem import Problem

from .by_rows import ELEMENTS, SOFTMAX
from .resumed import resumed

KINDS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
TOLERANCE = {"float16": 1e-3, "bfloat16": 1e-2, "float32": 1e-5}
"""Root mean square of the error, relative to that of the value."""


def causal(**knobs) -> Operator:
    return tensor_attention(mask="causal", **{"normalize": None, **knobs})


@dataclass(frozen=True)
class Case:
    """A kernel to check.

    Attributes
    ----------
    operator : Operator
    dtype : str
    n, d, e : int
    schedule : CudaSchedule
    direction, layout : str
    free : bool
        Whether the scalars of the operator are arguments, with a value for each head, instead of constants.
    heads : int
    resumed : bool
        Whether states are arguments and results.
    """

    operator: Operator
    dtype: str
    n: int
    d: int
    e: int
    schedule: CudaSchedule = field(default_factory=CudaSchedule)
    direction: str = "forward"
    layout: str = "... n d"
    free: bool = False
    heads: int = 2
    resumed: bool = False

    @property
    def problem(self) -> Problem:
        operator = Operator(self.operator.program) if self.free else self.operator
        sizes = {"batch": 1, "heads": self.heads, "n": self.n, "d": self.d, "e": self.e}
        sizes = {axis: sizes[axis] for axis in ("batch", "heads", *operator.program.axes)}
        return Problem(operator, self.direction, self.dtype, sizes, self.layout, self.resumed)

    def inputs(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Arguments ``[batch, heads, n, features]``; keys near queries, so that no denominator is near 0."""
        made: list[np.ndarray] = []
        for param in self.problem.inputs:
            shape = (1, self.heads, *(self.problem.sizes[axis] for axis in param.axes))
            if not param.axes and param.name in self.operator.scalars:
                value = np.linspace(0.85, 1, self.heads).reshape(shape).astype(np.float32)
            elif param.name == MASK:
                value = rng.integers(0, 2, shape)
            elif param.name == "k":
                value = made[0] + 0.1 * rng.standard_normal(shape)
            else:
                value = 0.1 + 0.2 * rng.standard_normal(shape)  # float16 ends at 65504
            made.append(value.astype(KINDS[self.problem.kind(param)]))
        return made

    def expected(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """The outputs, densely."""
        if self.resumed:
            return resumed(self.problem, [x.astype(np.float64) for x in inputs])
        program = self.operator.program
        values: Mapping[str, np.ndarray] = {
            **{name: np.asarray(value) for name, value in self.operator.scalars.items()},
            **{p.name: x.astype(np.float64) for p, x in zip(self.problem.inputs, inputs, strict=True)},
        }
        if self.direction == "backward":
            program = differentiate(program, [param.name for param in program.tensors])
        found = interpret(program, **{p.name: values[p.name] for p in program.params})
        return list(found) if isinstance(found, tuple) else [found]

    def check(self, outputs: list[np.ndarray], expected: list[np.ndarray]) -> None:
        """Hold outputs to the tolerance of the dtype."""
        assert len(outputs) == len(expected)
        for output, value in zip(outputs, expected, strict=True):
            assert output.shape == value.shape
            error = np.sqrt(np.mean((output - value) ** 2) / np.mean(value**2))
            assert error < TOLERANCE[self.dtype], f"rms {error:.2e}"


RACED = [(1, 8192, 16, 128), (2, 16384, 16, 128), (4, 2048, 16, 128), (1, 65536, 8, 64)]
"""Batch, tokens, heads and features that the bench races on a GPU."""

GATED = as_operator(
    """gated(q[n,d], k[n,d], v[n,e], g[n]) -> o[n,e]:
    s[j] = sigmoid(g[j])
    o[t,c] = q[t,a] * k[j,a] * s[j] * v[j,c]   where j <= t"""
)

PAIR = Operator(
    parse("""pair(q[n,d], k[n,d], l[n,d], v[n,e], w[n,e], g) -> o[n,e]:
    o[t,c] = q[t,a] * k[i,a] * l[j,a] * v[i,c] * w[j,c]   where i <= t decay g, j <= t decay g"""),
    {"g": 0.9},
)

PAST = Operator(
    parse("""past(q[n,d], k[n,d], v[n,e], g) -> o[n,e]:
    o[t,c] = q[t,a] * k[i,a] * k[i,b] * q[j,b] * v[j,c]   where j < i <= t decay g"""),
    {"g": 0.9},
)
PAST_PAIR = Operator(
    parse("""past(q[n,d], k[n,d], l[n,d], v[n,e], w[n,e], g) -> o[n,e]:
    o[t,c] = q[t,a] * k[i,a] * l[j,a] * v[i,c] * w[j,c]   where i < t decay g, j <= t decay g"""),
    {"g": 0.9},
)

NUMBERS = as_operator(
    """numbers(q[n,d], k[n,d], v[n,e]) -> o[n], m[n,e]:
    o[t]   = q[t,a] * k[j,a] * v[j,c]   where j <= t
    m[t,c] = q[t,a] * k[j,a] * v[j,c]   where j <= t"""
)
NUMBERS_OF_A_PAIR = as_operator(
    """pair(q[n,d], k[n,d], l[n,d], v[n,e], w[n,e], g[n]) -> o[n,e], u[n]:
    o[t,c] = g[t] * q[t,a] * k[i,a] * l[j,a] * v[i,c] * w[j,c]   where i <= t, j <= t
    u[t]   = q[t,a] * k[i,a] * l[j,a] * v[i,c] * w[j,c]   where i <= t, j <= t"""
)

WHOLE = as_operator(
    """whole(q[n,d], k[n,d], v[n,e]) -> o[n,e], m[d,e], g[d], r:
    m[a,c] = k[j,a] * v[j,c]
    w[a,b] = q[i,a] * k[i,b]
    g[a]   = w[a,b] * m[b,c]
    r      = w[a,b] * w[a,b]
    o[i,c] = q[i,a] * m[a,c] / r"""
)

CASES: dict[str, Case] = {
    "order 1, float16": Case(causal(order=1), "float16", 150, 64, 64),
    "order 1, bfloat16, wide": Case(causal(order=1), "bfloat16", 70, 128, 128, CudaSchedule(warps=8)),
    "order 2, float16": Case(causal(), "float16", 150, 64, 64),
    "order 2, bfloat16": Case(causal(), "bfloat16", 150, 64, 64),
    "order 2, float32": Case(causal(), "float32", 100, 64, 64, CudaSchedule(chunk=32, warps=8)),
    "order 2, wide": Case(causal(), "bfloat16", 130, 128, 128, CudaSchedule(warps=8, block=64)),
    "order 2, blocks of columns": Case(causal(), "float16", 80, 64, 128, CudaSchedule(block=64, warps=8, stages=3)),
    "order 2, one stage, e < d": Case(causal(), "float16", 150, 64, 32, CudaSchedule(stages=1)),
    "order 2, chunks of 16": Case(causal(), "float16", 40, 32, 64, CudaSchedule(chunk=16, warps=2)),
    "order 2, states in two halves": Case(causal(), "bfloat16", 100, 64, 64, CudaSchedule(halves=2)),
    "order 2, split": Case(causal(), "float16", 250, 64, 64, CudaSchedule(split=6)),
    "order 2, heads inside": Case(causal(), "float16", 100, 64, 64, layout="... n h d", heads=3),
    "order 2, a tile exactly": Case(causal(), "float16", 64, 32, 32),
    "order 2, one token": Case(causal(), "float16", 1, 32, 32),
    "order 3, float16": Case(causal(order=3), "float16", 100, 64, 64, CudaSchedule(warps=8)),
    "asymmetric": Case(causal(asymmetric=True), "float16", 100, 64, 64),
    "decay": Case(causal(decay=0.9), "float16", 150, 64, 64),
    "decay of each head, split": Case(causal(decay=0.9), "bfloat16", 200, 64, 32, CudaSchedule(split=6), free=True),
    "decay, order 3, float32": Case(causal(decay=0.9, order=3), "float32", 70, 32, 32, CudaSchedule(chunk=32, split=4)),
    "trace": Case(causal(normalize="trace"), "float16", 150, 64, 64),
    "trace, decay, split": Case(causal(normalize="trace", decay=0.9), "float16", 150, 32, 32, CudaSchedule(split=6)),
    "diag": Case(causal(normalize="diag"), "bfloat16", 100, 32, 32),
    "row, decay": Case(causal(normalize="row", decay=0.9), "float16", 100, 32, 32),
    "a gate": Case(GATED, "float16", 100, 32, 32),
    "everything sees everything": Case(tensor_attention(), "float16", 150, 64, 64, CudaSchedule(split=6)),
    "expm, float32": Case(tensor_attention(activation="expm"), "float32", 40, 16, 32, CudaSchedule(chunk=16, block=16)),
    "expm, scaled, bfloat16": Case(
        tensor_attention(activation="expm", normalize=None, scale=0.1), "bfloat16", 70, 32, 16, CudaSchedule(split=4)
    ),
    "expm, row, float16": Case(
        tensor_attention(activation="expm", normalize="row", residual=0.5),
        "float16",
        40,
        16,
        16,
        CudaSchedule(chunk=32),
    ),
    "gradient of expm": Case(
        tensor_attention(activation="expm", normalize=None, scale=0.2),
        "float32",
        40,
        16,
        16,
        CudaSchedule(chunk=16, warps=8),
        "backward",
    ),
    "two simplicial, float32": Case(catalogue["two_simplicial"].build(), "float32", 20, 16, 32, CudaSchedule(block=16)),
    "two simplicial, bfloat16, heads inside": Case(
        catalogue["two_simplicial"].build(), "bfloat16", 20, 16, 16, layout="... n h d"
    ),
    "gradient of two simplicial, float32": Case(
        catalogue["two_simplicial"].build(), "float32", 40, 16, 32, CudaSchedule(chunk=16, block=16), "backward"
    ),
    "gradient of two simplicial, float16, heads inside": Case(
        catalogue["two_simplicial"].build(), "float16", 37, 16, 16, CudaSchedule(chunk=16), "backward", "... n h d"
    ),
    "gradient of two simplicial, resumed, float32": Case(
        catalogue["two_simplicial"].build(), "float32", 20, 16, 16, CudaSchedule(16), "backward", resumed=True
    ),
    "strict order, decay": Case(PAST, "float32", 100, 32, 32),
    "strict order, float16": Case(PAST, "float16", 150, 64, 64),
    "strict order in a pair of states": Case(PAST_PAIR, "float16", 20, 16, 16, free=True),
    "a pair of states, decay of each head": Case(PAIR, "float16", 20, 16, 16, free=True),
    "a number a token": Case(NUMBERS, "float32", 40, 16, 16, CudaSchedule(chunk=16)),
    "numbers, a token at a time": Case(NUMBERS_OF_A_PAIR, "float32", 20, 16, 16),
    "hadamard, float32": Case(causal(product="hadamard"), "float32", 40, 16, 16, CudaSchedule(chunk=16, warps=8)),
    "hadamard, diag, decay, float16": Case(
        causal(product="hadamard", normalize="diag", decay=0.9), "float16", 40, 16, 16, CudaSchedule(chunk=16, warps=8)
    ),
    "hadamard, unmasked, float32": Case(
        tensor_attention(product="hadamard"), "float32", 40, 16, 16, CudaSchedule(chunk=16, warps=8)
    ),
    "hadamard, unmasked, float16, split": Case(
        tensor_attention(product="hadamard", normalize=None),
        "float16",
        90,
        16,
        16,
        CudaSchedule(chunk=16, warps=8, split=6),
    ),
    "hadamard, row, resumed, split": Case(
        causal(product="hadamard", normalize="row"),
        "bfloat16",
        70,
        16,
        16,
        CudaSchedule(chunk=16, warps=8, split=6),
        resumed=True,
    ),
    "interaction": Case(tensor_interaction(), "float16", 40, 16, 16, CudaSchedule(chunk=32)),
    "resumed, order 2, float16": Case(causal(), "float16", 150, 64, 64, resumed=True),
    "resumed, decay of each head, trace, split": Case(
        causal(decay=0.9, normalize="trace"),
        "bfloat16",
        150,
        32,
        32,
        CudaSchedule(chunk=32, split=8),
        free=True,
        resumed=True,
    ),
    "padded": Case(Operator(pad(causal(normalize="row").program)), "float16", 100, 32, 32, CudaSchedule(chunk=32)),
    "resumed, blocks of columns": Case(
        causal(order=1), "float32", 40, 16, 64, CudaSchedule(chunk=16, block=32), resumed=True
    ),
    "interaction, causal": Case(
        tensor_interaction(mask="causal", normalize="trace", decay=0.9), "float32", 40, 16, 16, CudaSchedule(chunk=16)
    ),
    "gradient, strict order, decay": Case(PAST, "float32", 70, 32, 32, CudaSchedule(chunk=16, stages=1), "backward"),
    "gradient, float16": Case(causal(), "float16", 150, 64, 64, CudaSchedule(warps=8, stages=1), "backward"),
    "gradient, bfloat16": Case(causal(), "bfloat16", 100, 32, 32, CudaSchedule(chunk=32), "backward"),
    "gradient, resumed, decay, split": Case(
        causal(decay=0.9), "float32", 70, 32, 32, CudaSchedule(chunk=16, stages=1, split=6), "backward", resumed=True
    ),
    "gradient of tril, float32": Case(
        tensor_attention(mask="tril"), "float32", 40, 16, 16, CudaSchedule(chunk=16), "backward"
    ),
    "gradient of tril, row, float16, split": Case(
        tensor_attention(mask="tril", normalize="row"),
        "float16",
        70,
        16,
        16,
        CudaSchedule(chunk=16, split=6),
        "backward",
    ),
    "gradient, row, float32": Case(
        causal(normalize="row"), "float32", 40, 16, 16, CudaSchedule(chunk=16, warps=8), "backward"
    ),
    "softmax, float16": Case(SOFTMAX, "float16", 100, 32, 64, CudaRows(chunk=32)),
    "softmax, padded, heads inside, bfloat16": Case(
        Operator(pad(SOFTMAX.program)), "bfloat16", 70, 32, 32, CudaRows(chunk=32, stages=3), layout="... n h d"
    ),
    "gradient of softmax, bfloat16": Case(SOFTMAX, "bfloat16", 100, 32, 32, CudaRows(chunk=32), "backward"),
    "gradient of softmax, float32": Case(SOFTMAX, "float32", 40, 16, 32, CudaRows(chunk=16, stages=1), "backward"),
    "relu, float16, split": Case(
        tensor_attention(activation="relu"), "float16", 70, 16, 32, CudaRows(chunk=16, split=6)
    ),
    "relu, causal, float16": Case(causal(activation="relu", normalize="trace"), "float16", 70, 16, 16, CudaRows(16)),
    "gradient of exp, float16": Case(
        causal(activation="exp", scale=0.5), "float16", 70, 16, 16, CudaRows(chunk=16), "backward"
    ),
    "gradient of relu, float32": Case(
        tensor_attention(activation="relu"), "float32", 40, 16, 16, CudaRows(chunk=16), "backward"
    ),
    "hadamard by rows, row, decay, float16": Case(
        causal(product="hadamard", normalize="row", decay=0.9), "float16", 70, 16, 16, CudaRows(chunk=16)
    ),
    "gradient of hadamard by rows, decay of each head, bfloat16": Case(
        causal(product="hadamard", decay=0.9), "bfloat16", 70, 16, 16, CudaRows(chunk=16), "backward", free=True
    ),
    "rows of one's own, float32": Case(ELEMENTS, "float32", 40, 16, 16, CudaRows(chunk=16)),
    "gradient of rows of one's own, float16": Case(ELEMENTS, "float16", 40, 16, 16, CudaRows(chunk=16), "backward"),
    "results without tokens, bfloat16, split": Case(WHOLE, "bfloat16", 70, 16, 32, CudaSchedule(chunk=16, split=6)),
    "gradient of results without tokens, float32": Case(
        WHOLE, "float32", 40, 16, 16, CudaSchedule(chunk=16), "backward"
    ),
    "gradient without order": Case(tensor_attention(normalize=None), "float16", 40, 16, 16, direction="backward"),
}
"""Small enough for the emulator."""

VARIANTS = frozenset(
    {
        "expm, float32",
        "expm, row, float16",
        "two simplicial, bfloat16, heads inside",
        "a pair of states, decay of each head",
        "hadamard, float32",
        "hadamard, unmasked, float32",
        "hadamard, row, resumed, split",
        "softmax, padded, heads inside, bfloat16",
        "gradient of softmax, float32",
        "relu, float16, split",
        "gradient of relu, float32",
        "rows of one's own, float32",
    }
)
"""Cases of a family of which another runs by default."""
