"""Tensor Interaction: channel mixing by a product of feature matrices (arXiv 2311.11091 section 5)."""

from __future__ import annotations

from typing import Any

from .definition import Definition
from .knobs import INTERACTION_MASKS, Scalar, check
from .operator import Operator


def tensor_interaction(
    *,
    side: str = "q",
    product: str = "matmul",
    scale: Scalar = 1.0,
    normalize: str | None = "trace",
    activation: str | None = None,
    mask: str | None = None,
    residual: Scalar = 0.0,
    decay: Scalar | None = None,
    eps: Scalar = 0.0,
) -> Operator:
    """Tensor Interaction ``V Tᵀ`` with the d×d operator ``T = A Aᴴ``, ``A = scale · Qᴴ K``.

    Parameters
    ----------
    side : {"q", "k"}
        ``A Aᴴ`` or ``Aᴴ A``.
    product : {"matmul", "hadamard"}
        ``A Aᴴ`` (``Aᴴ A``) or elementwise ``A ⊙ Aᴴ``.
    scale, normalize, activation, residual, eps
        As in :func:`tensor_attention`, on the d×d operator.
    mask : {None, "causal"}
        ``"causal"`` builds the operator of token t from ``A_t = Σ_{i≤t} γ^(t−i) q_i k_iᴴ``.
    decay : float, optional
        γ in (0, 1], with ``mask="causal"``.

    Returns
    -------
    Operator
        ``q[n,d], k[n,d], v[n,d] -> o[n,d]``.

    Raises
    ------
    ValueError
        For a value outside its set, or knobs that clash, naming them.

    Examples
    --------
    >>> tensor_interaction(normalize="row").program.axes
    ('n', 'd')
    """
    knobs: dict[str, Any] = {
        "side": side, "product": product, "scale": scale, "normalize": normalize, "activation": activation,
        "mask": mask, "residual": residual, "decay": decay, "eps": eps,
    }  # fmt: skip
    check("tensor_interaction", knobs, masks=INTERACTION_MASKS)
    define = Definition("tensor_interaction", knobs, ("q[n,d]", "k[n,d]", "v[n,d]"), "o[n,d]")
    causal = mask == "causal"
    own = "t," if causal else ""
    define.add(f"T[{own}a,b] = {define.scaled(2)}{_channels(side, product, causal)}{_order(causal, define.decay)}")
    trace, diagonal, row = f"T[{own}x,x]", f"T[{own}a,a]", f"T[{own}a,b]"
    read = define.denominator(trace, diagonal, row, "", "t" if causal else "", "a")
    mixed = define.activated(f"T[{own}a,b]", f" / {read}" if normalize else "")
    matrix, _, divisor = mixed.partition(" / ")
    token = "t" if causal else "i"
    line = f"o[{token},a] = {matrix} * v[{token},b]" + (f" / {divisor}" if divisor else "")
    if "residual" in define.scalars:
        line += f" + residual * v[{token},a]" + ("" if normalize else f" * {read}")
    define.add(line)
    return define.build()


def _channels(side: str, product: str, causal: bool) -> str:
    """``T[a,b]`` as a product of two feature matrices, over tokens i and j."""

    def matrix(token: str, row: str, column: str, *, conjugate: bool) -> str:
        # A = Qᴴ K is conj(q) k; the running A_t = Σ q kᴴ has the conj on the other side
        q, k = f"q[{token},{row}]", f"k[{token},{column}]"
        return f"{q} * conj({k})" if conjugate is not causal else f"conj({q}) * {k}"

    if product == "hadamard":
        return f"{matrix('i', 'a', 'b', conjugate=False)} * {matrix('j', 'b', 'a', conjugate=True)}"
    if side == "q":
        return f"{matrix('i', 'a', 'c', conjugate=False)} * {matrix('j', 'b', 'c', conjugate=True)}"
    return f"{matrix('i', 'c', 'a', conjugate=True)} * {matrix('j', 'c', 'b', conjugate=False)}"


def _order(causal: bool, decay: str) -> str:
    return f"   where i <= t{decay}, j <= t{decay}" if causal else ""
