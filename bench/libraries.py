"""Libraries that express the unmasked operators, each loaded only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from .case import UnavailableError
from .problems import ATTENTION, ORDER_1

Call = Callable[[Any, Any, Any], Any]


def opt_einsum(problem: str) -> Call:
    """``opt_einsum.contract`` over all operands of the definition; it finds the order itself."""
    contract = _imported("opt_einsum").contract
    if problem == ORDER_1:
        return lambda q, k, v: contract("zhia,zhja,zhjc->zhic", q, k, v)
    if problem != ATTENTION:
        raise UnavailableError(f"not written for {problem}")

    def attention(q: Any, k: Any, v: Any) -> Any:
        trace = contract("zhxa,zhla,zhlb,zhxb->zh", q, k, k, q)
        return contract("zhia,zhla,zhlb,zhjb,zhjc->zhic", q, k, k, q, v) / trace[..., None, None]

    return attention


def einx(problem: str) -> Call:
    """``einx.dot`` over all operands of the definition."""
    dot = _imported("einx").dot
    if problem == ORDER_1:
        return lambda q, k, v: dot("... i a, ... j a, ... j c -> ... i c", q, k, v)
    if problem != ATTENTION:
        raise UnavailableError(f"not written for {problem}")

    def attention(q: Any, k: Any, v: Any) -> Any:
        trace = dot("... x a, ... l a, ... l b, ... x b -> ...", q, k, k, q)
        o = dot("... i a, ... l a, ... l b, ... j b, ... j c -> ... i c", q, k, k, q, v)
        return o / trace[..., None, None]

    return attention


def cuequivariance(problem: str) -> Call:
    """A segmented polynomial with one segment an operand: all tokens of all features, so of one length only."""
    cue, cuet = _imported("cuequivariance"), _imported("cuequivariance_torch")
    subscripts = {ORDER_1: "ia,ja,jc,ic", ATTENTION: "ia,la,lb,jb,jc,ic"}
    buffers = {ORDER_1: (0, 1, 2, 3), ATTENTION: (0, 1, 1, 0, 2, 3)}
    if problem not in subscripts:
        raise UnavailableError(f"not written for {problem}")

    @lru_cache
    def module(n: int, d: int) -> Any:
        product = cue.SegmentedTensorProduct.from_subscripts(subscripts[problem])
        for operand in range(product.num_operands):
            product.add_segment(operand, (n, d))
        product.add_path(*[0] * product.num_operands, c=1.0)
        place = [buffers[problem].index(buffer) for buffer in range(4)]
        operands = [product.operands[index] for index in place]
        operation = cue.Operation(buffers[problem])
        polynomial = cue.SegmentedPolynomial(operands[:3], operands[3:], [(operation, product)])
        return cuet.SegmentedPolynomial(polynomial, method="naive")

    def call(q: Any, k: Any, v: Any) -> Any:
        flat = [x.reshape(-1, x.shape[-2] * x.shape[-1]) for x in (q, k, v)]
        [o] = module(*q.shape[-2:])(flat)
        if problem == ATTENTION:  # the library has no repeated index: the trace is by hand
            o = o / ((k.mT @ k) * (q.mT @ q)).sum((-2, -1)).reshape(-1, 1)
        return o.reshape(v.shape)

    return call


def _imported(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise UnavailableError(f"{name} is not installed; pip install 'deep-tensor-network[bench]'") from error


LIBRARIES: dict[str, Callable[[str], Call]] = {
    "opt_einsum": opt_einsum,
    "einx": einx,
    "cuequivariance": cuequivariance,
}
