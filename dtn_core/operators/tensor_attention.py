"""Tensor Attention: token mixing by a product of score matrices (arXiv 2311.11091 sections 3.4 and 4)."""

from __future__ import annotations

from typing import Any

from .definition import Definition
from .knobs import Scalar, check
from .operator import Operator


def tensor_attention(
    *,
    side: str = "q",
    product: str = "matmul",
    order: int = 2,
    asymmetric: bool = False,
    scale: Scalar = 1.0,
    normalize: str | None = "trace",
    activation: str | None = None,
    mask: str | None = None,
    residual: Scalar = 0.0,
    decay: Scalar | None = None,
    eps: Scalar = 0.0,
) -> Operator:
    """Tensor Attention ``T(q, k) v``, with ``A = scale · Q Kᴴ`` and ``T = A Aᴴ`` by default.

    The pipeline is: build T → normalize → activation → mask → + residual → times V.  This is the definition: what
    ``compile`` of a backend package takes; ``dtn_torch.tensor_attention`` and its like define and compute at once.

    Parameters
    ----------
    side : {"q", "k"}
        ``"k"`` swaps q and k: ``T = Aᴴ A`` at order 2.
    product : {"matmul", "hadamard"}
        ``A Aᴴ``, or elementwise ``A ⊙ Aᴴ``, which has order 2 only.
    order : int
        Number of factors of the alternating product ``A Aᴴ A …``, from 1 (linear attention) to 64.
    asymmetric : bool
        ``A^order`` instead (order 2 is AHLA of arXiv 2510.27258); with ``product="matmul"`` only.
    scale : float
        Factor of the scores: T has it ``order`` times.
    normalize : {"trace", "diag", "row", None}
        Divide T by its trace, row i by ``T[i,i]``, or row i by its sum. With ``mask="causal"`` the trace is that of the
        tokens up to row i.
    activation : {None, "relu", "exp", "expm"}
        Elementwise on the normalised T; ``"expm"`` is the matrix exponential.
    mask : {None, "tril", "causal"}
        ``"tril"`` is ``tril(T)`` with T of the whole sequence (paper 4.1.7; it leaks the future through
        KᴴK); ``"causal"`` reads no token after t for the output of t, which reads itself:
        ``T[t,j] = Σ_{i≤j} (q_t·k_i)(q_j·k_i)*`` for j ≤ t. Only it streams.
    residual : float
        λ: adds ``λ V``; with ``normalize=None`` adds ``λ tr(T) V`` (paper 4.1.8).
    decay : float, optional
        γ in (0, 1], with ``mask="causal"``: the triple (t, j, i) weighs ``γ^(t−i)``.
    eps : float
        At least 0, added to every denominator; a denominator that is exactly 0 gives output 0.

    Returns
    -------
    Operator
        ``q[n,d], k[n,d], v[n,e] -> o[n,e]``; a scalar knob (scale, residual, decay, eps) that is
        ``dtn_core.operators.PARAMETER`` is a parameter of it too, given at every call.

    Raises
    ------
    ValueError
        For a value outside its set, or knobs that clash, naming them.

    Notes
    -----
    arXiv 2311.11091, sections 3.4 and 4; the causal form is that of arXiv 2510.27258, section 3.

    Examples
    --------
    >>> print(tensor_attention(mask="causal", normalize=None).notation)
    tensor_attention(q[n,d], k[n,d], v[n,e]) -> o[n,e]:
        T[i,j] = q[i,a] * conj(k[l,a]) * k[l,b] * conj(q[j,b])   where l <= j, j <= i
        o[i,c] = T[i,j] * v[j,c]
    >>> tensor_attention(order=3, mask="causal", decay=0.9).scalars
    {'decay': 0.9}
    >>> tensor_attention(decay=0.9)
    Traceback (most recent call last):
    ValueError: tensor_attention: decay clashes with mask=None: decay needs mask='causal'
    """
    knobs: dict[str, Any] = {
        "side": side, "product": product, "order": order, "asymmetric": asymmetric, "scale": scale,
        "normalize": normalize, "activation": activation, "mask": mask, "residual": residual,
        "decay": decay, "eps": eps,
    }  # fmt: skip
    check("tensor_attention", knobs)
    define = Definition("tensor_attention", knobs, ("q[n,d]", "k[n,d]", "v[n,e]"), "o[n,e]")
    define.add("T[i,j] = " + _scores(define))
    causal = mask == "causal"
    where = f"   where x <= i{define.decay}" if causal else ""
    read = define.denominator(
        "T[x,x]", "T[i,i]", "T[i,j]", where, "i" if causal and normalize in ("trace", None) else "", "i"
    )
    mixed = define.activated("T[i,j]", f" / {read}" if normalize else "")
    matrix, _, divisor = mixed.partition(" / ")
    line = f"o[i,c] = {matrix} * v[j,c]" + (f" / {divisor}" if divisor else "")
    if "residual" in define.scalars:
        line += " + residual * v[i,c]" + ("" if normalize else f" * {read}")
    define.add(line + ("   where j <= i" if mask == "tril" or (causal and activation) else ""))
    return define.build()


def _scores(define: Definition) -> str:
    """The product of score matrices ``T[i,j]``, and its order when causal."""
    knobs = define.knobs
    q, k = ("q", "k") if knobs["side"] == "q" else ("k", "q")
    causal = knobs["mask"] == "causal"
    if knobs["product"] == "hadamard":
        text = f"{define.scaled(2)}{q}[i,a] * conj({k}[j,a]) * conj({q}[j,b]) * {k}[i,b]"
        return text + (f"   where j <= i{define.decay}" if causal else "")
    order = knobs["order"]
    tokens = ["i", *_names("l", order - 1), "j"]
    features = _names("a", order) if order > 2 else ["a", "b"]
    factors = []
    for position, feature in enumerate(features[:order]):
        row, column = tokens[position], tokens[position + 1]
        if position % 2 == 0 or knobs["asymmetric"]:
            factors.append(f"{q}[{row},{feature}] * conj({k}[{column},{feature}])")
        else:
            factors.append(f"{k}[{row},{feature}] * conj({q}[{column},{feature}])")
    text = define.scaled(order) + " * ".join(factors)
    if not causal:
        return text
    if knobs["asymmetric"]:
        return f"{text}   where {' <= '.join(reversed(tokens))}{define.decay}"
    chains = [f"{tokens[p + 1]} <= {tokens[p + 2]} <= {tokens[p]}{define.decay}" for p in range(0, order - 1, 2)]
    if order % 2:
        chains.append(f"{tokens[order]} <= {tokens[order - 1]}{define.decay}")
    return f"{text}   where {', '.join(chains)}"


def _names(letter: str, count: int) -> list[str]:
    return [letter] if count == 1 else [f"{letter}{number}" for number in range(1, count + 1)]
