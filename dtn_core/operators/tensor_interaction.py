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

    The pipeline is: build T → normalize → activation → + residual → times V, as in :func:`tensor_attention`, with
    features where that has tokens.

    Parameters
    ----------
    side : {"q", "k"}
        ``A Aᴴ`` or ``Aᴴ A``.
    product : {"matmul", "hadamard"}
        ``A Aᴴ`` (``Aᴴ A``) or elementwise ``A ⊙ Aᴴ``.
    scale : float
        Factor of A: T has it twice.
    normalize : {"trace", "diag", "row", None}
        Divide T by its trace, row a by ``T[a,a]``, or row a by its sum.
    activation : {None, "relu", "exp", "expm"}
        Elementwise on the normalised T; ``"expm"`` is the matrix exponential.
    mask : {None, "causal"}
        ``"causal"`` builds the operator of token t from ``A_t = Σ_{i≤t} γ^(t−i) q_i k_iᴴ``; only it streams.
    residual : float
        λ: adds ``λ V``; with ``normalize=None`` adds ``λ tr(T) V``.
    decay : float, optional
        γ in (0, 1], with ``mask="causal"``.
    eps : float
        At least 0, added to every denominator; a denominator that is exactly 0 gives output 0.

    Returns
    -------
    Operator
        ``q[n,d], k[n,d], v[n,d] -> o[n,d]``; a scalar knob (scale, residual, decay, eps) that is
        ``dtn_core.operators.PARAMETER`` is a parameter of it too, given at every call.

    Raises
    ------
    ValueError
        For a value outside its set, or knobs that clash, naming them.

    Notes
    -----
    arXiv 2311.11091, section 5. On complex input the causal A is the conjugate of the unmasked one, as in its source.

    Examples
    --------
    >>> print(tensor_interaction(normalize="row").notation)
    tensor_interaction(q[n,d], k[n,d], v[n,d]) -> o[n,d]:
        T[a,b] = conj(q[i,a]) * k[i,c] * q[j,b] * conj(k[j,c])
        r[a] = T[a,b]
        o[i,a] = T[a,b] * v[i,b] / r[a]
    >>> tensor_interaction(mask="tril")
    Traceback (most recent call last):
    ValueError: tensor_interaction: mask='tril' is not one of None, 'causal'
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
