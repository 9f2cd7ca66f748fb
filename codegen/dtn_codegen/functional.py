"""The catalogue as plain functions, and ``compile``: the same in every backend package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dtn_core.ir.nodes import Program
from dtn_core.operators import PARAMETER, Operator, as_operator, catalogue, tensor_attention, tensor_interaction
from dtn_core.operators.knobs import check, check_order, check_scalar

from .function import Function
from .signature import python_number

MAX_COMPILED = 1024
SCALARS = {"scale": 1.0, "residual": 0.0, "decay": None, "eps": 0.0}


class Functional:
    """Compiles for one framework and remembers: a repeated look-up costs microseconds.

    Parameters
    ----------
    function_type : type
        The backend's :class:`~dtn_codegen.function.Function`.
    """

    def __init__(self, function_type: type[Function]) -> None:
        self.function_type = function_type
        self.compiled: dict[Any, Function] = {}
        self.catalogue: dict[Any, Function] = {}

    def compile(
        self,
        definition: str | Operator | Program,
        *,
        layout: str = "... n d",
        implementation: str | None = None,
    ) -> Function:
        """Compile index notation, a catalogue operator or IR.

        Parameters
        ----------
        definition : str, Operator or Program
            ``"f(x[n,d]) -> y[n]: y[i] = x[i,a] * x[i,a]"``, or ``dtn_core.operators.tensor_attention(...)``.
        layout : {"... n d", "... n h d"}
            Where the head axis of ``[n, d]`` tensors is.
        implementation : str, optional
            ``"native"``, the default, is generated source; ``"tvm"`` is compiled kernels (extra ``[tvm]``).

        Returns
        -------
        Function
            Call it with tensors; see its ``source`` and ``explain``.

        Raises
        ------
        NotationError
            Names operator, line and column.
        ValueError
            For an unknown layout or an implementation that cannot run.
        """
        if not isinstance(definition, str | Operator | Program):
            raise TypeError(f"expected index notation, a Program or an Operator, got {type(definition).__name__}")
        key = (definition, layout, implementation)
        found = self.compiled.get(key)
        if found is None:
            found = self.function_type(as_operator(definition), layout, implementation)
            if len(self.compiled) >= MAX_COMPILED:
                self.compiled.clear()
            self.compiled[key] = found
        return found

    def tensor_attention(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        side: str = "q",
        product: str = "matmul",
        order: int = 2,
        asymmetric: bool = False,
        scale: Any = 1.0,
        normalize: str | None = "trace",
        activation: str | None = None,
        mask: str | None = None,
        residual: Any = 0.0,
        decay: Any = None,
        eps: Any = 0.0,
        padding_mask: Any = None,
        cu_seqlens: Any = None,
        initial_state: Any = None,
        return_state: bool = False,
        chunk_size: int | None = None,
        layout: str = "... n d",
        implementation: str | None = None,
    ) -> Any:
        """Tensor Attention ``T(q, k) v`` with ``T = A Aᴴ / tr(A Aᴴ)``, ``A = scale · q kᴴ``, in linear time.

        Parameters
        ----------
        q, k : tensor
            ``[..., n, d]`` (or ``[..., n, h, d]``), floating or complex; leading axes broadcast.
        v : tensor
            ``[..., n, e]``.
        side, product, order, asymmetric, normalize, activation, mask
            See :func:`dtn_core.operators.tensor_attention`.
        scale, residual, decay, eps : float or tensor
            A tensor has one value per leading index (batch, head) and may require gradients; whether what it holds
            makes sense is looked at for a decay only, since that takes time at every call.
        padding_mask : tensor, optional
            ``[..., n]``, True at real tokens; padded tokens count for nothing and give 0.
        cu_seqlens : sequence of int, optional
            ``[N + 1]`` integers from 0 to n: where each of N packed sequences starts and the last one ends.
        initial_state : NamedTuple, optional
            What ``return_state=True`` gave for the tokens before these (``mask="causal"`` only).
        return_state : bool
            Also return the state after the last token.
        chunk_size : int, optional
            Tokens computed at a time; the cost model chooses when it is not given.
        layout : {"... n d", "... n h d"}
            Where the head axis is.
        implementation : str, optional
            ``"native"``, the default, is generated source; ``"tvm"`` is compiled kernels (extra ``[tvm]``).

        Returns
        -------
        tensor
            ``[..., n, e]``, of the promoted dtype of q, k and v; sums are taken in float32 at least.  With
            ``return_state`` a pair of it and the state, tensors of float32 or wider.

        Raises
        ------
        ValueError
            A knob outside its values, knobs that clash, shapes that do not fit (the axis and both sizes are named), or
            a state of an operator that has none, or of another one.
        TypeError
            A dtype that is neither floating nor complex.

        Notes
        -----
        arXiv 2311.11091, sections 3.4 and 4.
        """
        knobs = {
            "side": side, "product": product, "order": order, "asymmetric": asymmetric, "scale": scale,
            "normalize": normalize, "activation": activation, "mask": mask, "residual": residual,
            "decay": decay, "eps": eps,
        }  # fmt: skip
        options = {
            "padding_mask": padding_mask, "cu_seqlens": cu_seqlens, "initial_state": initial_state,
            "return_state": return_state, "chunk_size": chunk_size,
        }  # fmt: skip
        function, scalars = self.knobbed(tensor_attention, knobs, layout, implementation)
        return function(q, k, v, **options, **scalars)

    def tensor_interaction(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        side: str = "q",
        product: str = "matmul",
        scale: Any = 1.0,
        normalize: str | None = "trace",
        activation: str | None = None,
        mask: str | None = None,
        residual: Any = 0.0,
        decay: Any = None,
        eps: Any = 0.0,
        padding_mask: Any = None,
        cu_seqlens: Any = None,
        initial_state: Any = None,
        return_state: bool = False,
        chunk_size: int | None = None,
        layout: str = "... n d",
        implementation: str | None = None,
    ) -> Any:
        """Tensor Interaction ``v Tᵀ`` with the d×d operator ``T = A Aᴴ / tr(A Aᴴ)``, ``A = scale · qᴴ k``.

        Parameters
        ----------
        q, k, v : tensor
            ``[..., n, d]`` (or ``[..., n, h, d]``), floating or complex; leading axes broadcast.
        side, product, normalize, activation, mask
            See :func:`dtn_core.operators.tensor_interaction`.
        scale, residual, decay, eps, padding_mask, cu_seqlens, initial_state, return_state, chunk_size
            As in :meth:`tensor_attention`.
        layout, implementation
            As in :meth:`tensor_attention`.

        Returns
        -------
        tensor
            ``[..., n, d]``.

        Raises
        ------
        ValueError, TypeError
            As :meth:`tensor_attention`.

        Notes
        -----
        arXiv 2311.11091, section 5.
        """
        knobs = {
            "side": side, "product": product, "scale": scale, "normalize": normalize, "activation": activation,
            "mask": mask, "residual": residual, "decay": decay, "eps": eps,
        }  # fmt: skip
        options = {
            "padding_mask": padding_mask, "cu_seqlens": cu_seqlens, "initial_state": initial_state,
            "return_state": return_state, "chunk_size": chunk_size,
        }  # fmt: skip
        function, scalars = self.knobbed(tensor_interaction, knobs, layout, implementation)
        return function(q, k, v, **options, **scalars)

    def knobbed(
        self, build: Callable[..., Operator], knobs: dict[str, Any], layout: str, implementation: str | None
    ) -> tuple[Function, dict[str, Any]]:
        """The compiled catalogue operator with these knobs, and the scalars to call it with."""
        scalars = {}
        for name, neutral in SCALARS.items():
            value = knobs[name]
            if value is neutral:
                continue
            if type(value) is not float:
                value = python_number(value)
            if type(value) in (int, float) and value == neutral:  # True equals 1, and is refused
                knobs[name] = neutral
                continue
            scalars[name] = value
            knobs[name] = PARAMETER
        return self.look_up(build.__name__, knobs, layout, implementation, scalars), scalars

    def look_up(
        self, name: str, knobs: dict[str, Any], layout: str, implementation: str | None, scalars: dict[str, Any]
    ) -> Function:
        """Compile the operator of this structure, once; its scalars are checked at every call."""
        for scalar, value in scalars.items():
            if not hasattr(value, "shape"):
                check_scalar(name, scalar, value)
        # True, 1 and 1.0 are one key of a dict: what is of another type is looked at before there is a key
        if type(knobs.get("order", 2)) is not int:
            knobs["order"] = check_order(name, knobs["order"])
        if type(knobs.get("asymmetric", False)) is not bool:
            check(name, knobs)
        key = (name, layout, implementation, *knobs.values())
        try:
            found = self.catalogue.get(key)
        except TypeError:  # a list, say, is the value of no knob; the operator names the one
            found = None
        if found is None:
            found = self.function_type(catalogue[name].build(**knobs), layout, implementation)
            self.catalogue[key] = found
        return found
