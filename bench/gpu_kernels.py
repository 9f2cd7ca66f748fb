"""The CUDA kernels that are raced on a GPU, compiled; nothing here needs one.

``kernel(q, k, v, o)`` takes CUDA tensors ``[batch, heads, n, d]`` of its dtype, contiguous, and writes ``o`` on the
stream that the framework made current.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dtn_core.operators import tensor_attention


class Shape(NamedTuple):
    """Batch, tokens, heads and features of a race."""

    batch: int
    n: int
    heads: int
    d: int


SHAPES = (Shape(1, 8192, 16, 128), Shape(2, 16384, 16, 128), Shape(4, 2048, 16, 128), Shape(1, 65536, 8, 64))
DTYPES = ("bfloat16", "float16")


def problem(shape: Shape, dtype: str, direction: Any = "forward", **knobs: Any) -> Any:
    """The ``dtn_tvm.Problem`` of one race: causal, order 2, not normalised unless ``knobs`` say so."""
    from dtn_tvm.problem import Problem

    operator = tensor_attention(mask="causal", **{"normalize": None, **knobs})
    sizes = {"batch": shape.batch, "heads": shape.heads, "n": shape.n, "d": shape.d, "e": shape.d}
    return Problem(operator, direction, dtype, sizes)


def compiled(
    target: str, shapes: Iterable[Shape] = SHAPES, dtypes: Iterable[str] = DTYPES, candidates: int = 1
) -> Mapping[tuple[Shape, str], list[Any]]:
    """Kernels by shape and dtype, the best predicted first.

    Parameters
    ----------
    target : str
        As ``dtn tune --target`` takes it, such as ``"nvidia/h200"``.
    shapes, dtypes : iterable
    candidates : int
        Kernels for each, to choose from by measuring.

    Returns
    -------
    Mapping[tuple[Shape, str], list[dtn_tvm.kernels.Kernel]]
    """
    from dtn_tvm import kernels, targets

    device = targets.target(target)
    found = {}
    for shape in shapes:
        for dtype in dtypes:
            wanted = problem(shape, dtype)
            chosen = kernels.space(wanted, device)[:candidates]
            found[shape, dtype] = [kernels.compile(wanted, schedule, device) for schedule in chosen]
    return found
