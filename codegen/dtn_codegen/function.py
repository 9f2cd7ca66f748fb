"""What ``compile`` returns in every framework: a callable that checks its arguments and picks a form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dtn_core.errors import CompileError
from dtn_core.operators import Operator
from dtn_core.passes.padding import MASK
from dtn_core.passes.pipeline import Lowered, choose

from . import tokens
from .allocation import keep_freed_memory
from .arrays import Arrays
from .dtypes import dtype_name, is_wide
from .forms import Forms
from .implementations import PLAIN, Kernels, Variant
from .kernel_calls import call_kernels, describe_options, find_kernels
from .kernel_shapes import KernelShapes
from .plans import Plan, Plans
from .python import LAYOUTS
from .shapes import axis_sizes, flat_leading, leading_axes, shapes_of
from .signature import Signature
from .state import Streamed, check_state
from .target import Target

if TYPE_CHECKING:
    from dtn_core.explain import Explanation


class Function:
    """An operator compiled for one framework.

    Call it with the tensors in the operator's order; scalar parameters by keyword.  ``source`` is the generated text,
    ``operator`` the definition; ``explain``, ``init_state`` and ``step`` are described below.

    Parameters
    ----------
    operator : Operator
        The definition, with some scalars bound.
    layout : {"... n d", "... n h d"}
        Where the head axis of tensors with a sequence axis is.
    implementation : str, optional
        ``"native"``, the default, is generated source of the framework; ``"tvm"`` is compiled kernels.

    Raises
    ------
    ValueError
        For an unknown layout, or an implementation that cannot run.

    Examples
    --------
    >>> import numpy as np
    >>> import dtn_numpy as dtn
    >>> f = dtn.compile("scores(q[n,d], k[m,d], scale) -> s[n,m]:  s[i,j] = scale * q[i,a] * k[j,a]")
    >>> f
    <scores(q[n,d], k[m,d], scale) -> s[n,m], compiled for numpy>
    >>> f(np.ones((5, 4)), np.ones((3, 4)), scale=0.5).shape
    (5, 3)
    """

    target: Target
    arrays: Arrays

    def __init__(self, operator: Operator, layout: str = "... n d", implementation: str | None = None) -> None:
        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout!r} is not one of {', '.join(map(repr, LAYOUTS))}")
        keep_freed_memory()
        self.kernels = self.foreign_kernels(operator, layout, implementation)
        self._variants = {} if self.kernels is None else {PLAIN: self.kernels}
        self.native = self if self.kernels is None else type(self)(operator, layout)
        self.operator = operator
        self.layout = layout
        self.implementation = implementation
        self.__name__ = operator.name
        self.__doc__ = f"{operator.notation}\n"
        self.signature = Signature(operator, layout)
        self.tokens = tokens.Tokens(operator, layout)
        self.forms = Forms(self.target, operator, layout)
        self.plans = Plans(self.signature.scalars, self.tracing)
        self.steps = Plans(self.signature.scalars, self.tracing)
        self.forms.function(self.forms.candidates()[0], widen=False)  # what arguments of one dtype of 32 bits need

    # ----------------------------------------------------------------------------- calling

    def __call__(
        self,
        *tensors: Any,
        padding_mask: Any = None,
        cu_seqlens: Any = None,
        initial_state: Any = None,
        return_state: bool = False,
        chunk_size: int | None = None,
        **named: Any,
    ) -> Any:
        """Evaluate.

        Parameters
        ----------
        *tensors
            ``[..., *axes]`` in the operator's order (or by name); leading axes broadcast.
        padding_mask
            Booleans ``[..., n]``, True at real tokens; padded tokens count for nothing and give 0. Its leading axes
            are those of the tensors: for ``q[batch, heads, n, d]``, one of ``[batch, n]`` is given as
            ``mask[:, None]``. A decay is of places, not of tokens: it goes on over padded ones.
        cu_seqlens
            Where each of N sequences packed one after another along the tokens' axis starts, and where the last
            ends: integers ``[N + 1]`` from 0 to n, a list or a concrete vector.  Each is computed by itself.
            States, and outputs without a tokens' axis, have an axis N after the batch axes (before the heads).
        initial_state
            What ``return_state=True`` gave for the tokens before these (causal operators only).
        return_state
            Also return the state after the last token: ``(result, state)``, a named tuple of tensors of float32 or
            wider, a pytree that is saved as its tensors are.
        chunk_size
            Tokens computed at a time; the cost model chooses when it is not given.
        **named
            Scalar parameters, numbers or tensors ``[...]`` with one value per leading index.  What a tensor holds is
            not looked at, unless it is a decay.

        Returns
        -------
        tensor or tuple
            ``[..., *axes]`` of the output, a tuple where the operator has several, of the promoted dtype of the
            tensors; sums are taken in float32 at least.

        Raises
        ------
        ShapeError
            Names the axis and both sizes.
        TypeError
            A missing or unexpected argument, or a dtype that is not floating or complex.
        ValueError
            A number outside the range of its knob, a decay outside (0, 1], sequences that are not packed one after
            another, or a state of an operator that has none.

        Examples
        --------
        >>> import numpy as np
        >>> import dtn_numpy as dtn
        >>> f = dtn.compile("total(x[n,d]) -> y[n,d]:  y[t,a] = x[i,a] where i <= t")
        >>> x = np.arange(4.0)[:, None]
        >>> f(x)[:, 0]
        array([0., 1., 3., 6.])
        >>> f(x, padding_mask=[True, True, False, True])[:, 0]
        array([0., 1., 0., 4.])
        >>> f(x, cu_seqlens=[0, 2, 4])[:, 0]  # two sequences of two tokens
        array([0., 1., 2., 5.])
        >>> head, state = f(x[:3], return_state=True)
        >>> f(x[3:], initial_state=state)[:, 0]
        array([6.])
        """
        if cu_seqlens is not None:
            if padding_mask is not None:
                raise ValueError(
                    f"{self.__name__}: cu_seqlens clashes with padding_mask: packed sequences have no padding"
                )
            return self.packed(tensors, named, cu_seqlens, initial_state, return_state, chunk_size)
        if self.kernels is not None:
            return call_kernels(self, tensors, named, padding_mask, initial_state, return_state, chunk_size)
        key, plan = self.plans.recall(tensors, named, padding_mask, initial_state, return_state, chunk_size)
        if plan is None:
            tensors, named = self.signature.bind(tensors, named)
            tensors = self.convert(tensors)
            given = tensors if padding_mask is None else (*tensors, self.convert_mask(padding_mask))
            plan = self.plan(given, named, padding_mask is not None, initial_state, return_state, chunk_size)
            scalars = self.scalar_values(named, tensors, shapes_of(tensors))
            self.plans.remember(key, plan)
        else:
            given = tensors if padding_mask is None else (*tensors, padding_mask)
            scalars = self.scalar_values(named, tensors) if self.signature.scalars else []
        options = plan.options if initial_state is None else {**plan.options, "initial_state": initial_state}
        result = self.run(plan.generated, (*given, *scalars), options)
        return (result[0], plan.state(*result[1])) if plan.state is not None else result

    def init_state(self, *tensors: Any, **named: Any) -> Any:
        """The state before any token, for tensors of these feature sizes and leading axes.

        Parameters
        ----------
        *tensors, **named
            As for a call; the number of tokens does not matter.

        Returns
        -------
        NamedTuple
            Zeros of float32 or wider, a tensor per state.

        Raises
        ------
        ValueError
            If the operator is not causal, saying why.

        Examples
        --------
        >>> import numpy as np
        >>> import dtn_numpy as dtn
        >>> f = dtn.compile("total(x[n,d]) -> y[n,d]:  y[t,a] = x[i,a] where i <= t")
        >>> f.init_state(np.ones((2, 0, 3)))[0].shape
        (2, 3)
        """
        self.tokens.check_streams(resuming=True)
        found, scalars = self.signature.bind(tensors, named)
        return tokens.initial_state(self, self.convert(found), scalars)

    def step(self, state: Any, *tensors: Any, **named: Any) -> tuple[Any, Any]:
        """One more token.

        Parameters
        ----------
        state
            From :meth:`init_state`, ``return_state=True`` or the step before.
        *tensors, **named
            As for a call, without the token axis: ``q_t[..., d]``.

        Returns
        -------
        tuple
            ``(o_t[..., e], state)``; an output may share memory with the state, so it is not to be written to.

        Raises
        ------
        TypeError
            What is no state, or that of another operator.
        ShapeError
            A state of other sizes; names it and both shapes.
        ValueError
            If the operator is not causal, saying why.

        Examples
        --------
        >>> import numpy as np
        >>> import dtn_numpy as dtn
        >>> f = dtn.compile("total(x[n,d]) -> y[n,d]:  y[t,a] = x[i,a] where i <= t")
        >>> state = f.init_state(np.ones((0, 3)))
        >>> for x_t in np.ones((4, 3)):
        ...     y_t, state = f.step(state, x_t)
        >>> y_t
        array([4., 4., 4.])
        """
        key, plan = self.steps.recall(tensors, named, None, state)
        if plan is None:
            if hasattr(state, "shape"):
                kind = type(state).__name__
                raise TypeError(f"{self.__name__}: state is a {kind}, expected the tuple of init_state, first")
            self.tokens.check_streams(resuming=True)
            tensors, named = self.signature.bind(tensors, named)
            tensors = self.convert(tensors)
            plan = self.plan_step(tensors, named, state)
            if plan is None:
                return tokens.step(self, state, tensors, named)
            scalars = self.scalar_values(named, tensors, self.tokens.with_one(tensors))
            self.steps.remember(key, plan)
        else:
            scalars = self.scalar_values(named, tensors) if self.signature.scalars else []
        result, after = self.run(plan.generated, (*tensors, *scalars), {"initial_state": state})
        return result, plan.state(*after)

    def packed(self, tensors: Sequence[Any], named: Mapping[str, Any], cu_seqlens: Any, *options: Any) -> Any:
        """Evaluate packed sequences; see ``dtn_codegen.packed``."""
        from .packed import evaluate_packed  # loaded by the first call that has any

        return evaluate_packed(self, tensors, named, cu_seqlens, *options)

    # ---------------------------------------------------------------------------- planning

    def plan(
        self,
        arrays: Sequence[Any],
        named: Mapping[str, Any],
        padded: bool,
        initial_state: Any,
        return_state: bool,
        chunk_size: int | None,
    ) -> Plan:
        """Check shapes, dtypes, states and options, and choose the form that is cheapest at these sizes."""
        resuming = initial_state is not None or return_state
        streaming = resuming or chunk_size is not None
        options: dict[str, Any] = {} if chunk_size is None else {"chunk_size": chunk_size}
        self.tokens.check_options(resuming, chunk_size)
        generated, streams, sizes = self.select(arrays, named, padded, streaming=streaming)
        if streams is None or not resuming:
            return Plan(generated, options, None)
        if initial_state is not None:
            check_state(
                self.__name__,
                streams,
                initial_state,
                sizes,
                self.signature.leading(shapes_of(arrays), named) if sizes else None,
                self.signature.typed(arrays)[1],
            )
        if not return_state:
            return Plan(generated, options, None)
        return Plan(generated, {**options, "return_state": True}, streams.kind)

    def plan_step(self, arrays: Sequence[Any], named: Mapping[str, Any], state: Any) -> Plan | None:
        """As :meth:`plan`, for tensors without an axis of tokens; None where a step is a call with one token."""
        if self.kernels is not None or self.tracing():
            return None
        program = self.operator.program
        shapes = self.tokens.with_one(arrays)
        sizes, leading = axis_sizes(program, shapes, self.layout), self.signature.leading(shapes, named)
        complex_input = self.check_dtypes(arrays)
        form = self.choose(self.forms.candidates(complex_input=complex_input), None)
        streams = self.tokens.streams(complex_input=complex_input)
        generated = self.forms.step(form, widen=not is_wide(self.signature.typed(arrays)[1]))
        if streams is None or generated is None:
            return None
        check_state(self.__name__, streams, state, sizes, leading, arrays)
        return Plan(generated, {}, streams.kind)

    def select(
        self, arrays: Sequence[Any], named: Mapping[str, Any], padded: bool, *, streaming: bool = False
    ) -> tuple[Callable[..., Any], Streamed | None, dict[str, Any] | None]:
        """The generated function for these arguments, how it streams, and the sizes of the axes.

        Checks shapes and dtypes; the sizes are None where they may not be looked at.
        """
        program = self.forms.program(padded)
        shapes = shapes_of(arrays)
        sizes = axis_sizes(program, shapes, self.layout)
        leading_axes(program, shapes, self.layout)
        complex_input = self.check_dtypes(arrays)
        forms = self.forms.candidates(padded, complex_input)
        if streaming:
            forms = tuple(form for form in forms if form.chunked is not None) or forms
        known = all(isinstance(size, int) for size in sizes.values())
        form = self.choose(forms, sizes if known else None)
        streams = self.tokens.streams(complex_input=complex_input)
        if streaming and (form.chunked is None or streams is None or form.chunked.stream.resumable < streams.resumable):
            raise ValueError(f"{self.__name__}: with a padding_mask it needs the whole sequence at once")
        widen = not is_wide(self.signature.typed(arrays)[1])
        return self.forms.function(form, widen=widen), streams, sizes

    def choose(self, forms: tuple[Lowered, ...], sizes: Mapping[str, int] | None) -> Lowered:
        """The form to compute: the cheapest at ``sizes``, the one for long sequences where they are not known."""
        return forms[0] if sizes is None else choose(forms, sizes)

    def check_dtypes(self, arrays: Sequence[Any]) -> bool:
        """Whether any tensor is complex; refuses dtypes that the operator is not defined for."""
        complex_input = self.is_complex(*self.signature.typed(arrays))
        if complex_input:
            self.signature.check_complex()
        return complex_input

    def scalar_values(
        self, named: Mapping[str, Any], tensors: Sequence[Any], shapes: Sequence[tuple[Any, ...]] | None = None
    ) -> list[Any]:
        """The scalar arguments in order, bound ones filled in, tensors in the dtype computed in.

        ``shapes`` are those of the tensors where they are new: then tensors of scalars are held against them, and
        a decay is read even where that takes waiting for an accelerator.
        """
        signature = self.signature
        values = []
        for name in signature.scalars:
            value = signature.scalar(name, named)
            if isinstance(value, complex):
                signature.check_complex_scalar(name, self.is_complex(*signature.typed(tensors)))
            elif not isinstance(value, int | float):
                if shapes is not None:
                    if dtype_name(value).startswith("complex"):
                        signature.check_complex_scalar(name, self.is_complex(*signature.typed(tensors)))
                    signature.check_scalar_shape(name, tuple(value.shape), shapes)
                if name in signature.decays:
                    self.check_decays(name, value, wait=shapes is not None)
                value = self.cast_scalar(value, tensors)
            values.append(value)
        return values

    def check_decays(self, name: str, value: Any, *, wait: bool) -> bool:
        """Refuse a tensor of decays outside (0, 1]; whether they could be read."""
        numbers = self.arrays.numbers(value, wait=wait)
        self.signature.check_decays(name, numbers)
        return numbers is not None

    # --------------------------------------------------------------- what a framework says

    @staticmethod
    def tracing() -> bool:
        """Whether shapes may be symbolic just now, and must not be remembered."""
        return False

    def convert(self, tensors: Sequence[Any], names: Sequence[str] = ()) -> tuple[Any, ...]:
        """Arguments as the framework's tensors; ``names`` are theirs, by default those of the operator's tensors."""
        return tuple(tensors)

    def convert_mask(self, padding_mask: Any) -> Any:
        """A padding mask as the framework's tensor.

        Raises
        ------
        TypeError
            For floating numbers, which elsewhere are added to scores: 0 for a real token, there, and -inf for none.
        """
        (mask,) = self.convert((padding_mask,), (MASK,))
        dtype = dtype_name(mask)
        if dtype.startswith(("float", "bfloat", "complex")):
            raise TypeError(
                f"{self.__name__}: {MASK} has dtype {dtype}; expected booleans (or integers), true at real tokens"
            )
        return mask

    def is_complex(self, names: Sequence[str], arrays: Sequence[Any]) -> bool:
        """Whether any array is complex; refuses dtypes that are neither floating nor complex.

        Implemented by each backend.
        """
        raise CompileError(f"{type(self).__name__} does not say which dtypes are complex")

    def cast_scalar(self, value: Any, tensors: Sequence[Any]) -> Any:
        """A tensor of scalars in the dtype computed in; implemented by each backend."""
        raise CompileError(f"{type(self).__name__} does not say how scalars are cast")

    def run(self, generated: Callable[..., Any], arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Call generated source."""
        return generated(*arguments, **options)

    # ----------------------------------------------------------------------------- kernels

    def foreign_kernels(self, operator: Operator, layout: str, implementation: str | None) -> Kernels | None:
        """The kernels that ``implementation`` computes with; None if it is generated source."""
        return find_kernels(self.target.framework, operator, layout, implementation)

    def variant(self, variant: Variant) -> Kernels:
        """The kernels for such calls.

        Raises
        ------
        ValueError
            If there are none, saying why.
        """
        found = self._variants.get(variant)
        if found is None:
            found = self._variants[variant] = self._variants[PLAIN].variant(variant)
        return found

    def kernel_shapes(self, kernels: Kernels) -> KernelShapes:
        """The shapes of the arrays of kernels, one of :meth:`variant`."""
        return KernelShapes(self.layout, kernels)

    def run_kernels(
        self, kernels: Kernels, arguments: Sequence[Any], leading: Sequence[Any], sizes: Mapping[str, Any]
    ) -> Sequence[Any]:
        """Call kernels with the framework's arrays, the derivative registered; implemented by each backend.

        Parameters
        ----------
        kernels : Kernels
            Of :meth:`variant`.
        arguments : sequence
            Tensors ``[..., *axes]``, scalars and states (numbers, or tensors), in the kernels' order.
        leading : sequence
            The leading axes that they broadcast to.
        sizes : Mapping[str, Any]
            Of the operator's axes.
        """
        raise ValueError(f"implementation={self.implementation!r} is not known to {self.target.framework}")

    # ----------------------------------------------------------------------------- looking

    @cached_property
    def source(self) -> str:
        """The generated text for real arguments of any dtype and long sequences.

        Where arguments have one dtype of 32 bits or more the same text runs without its conversions.

        Examples
        --------
        >>> import dtn_numpy as dtn
        >>> f = dtn.compile("gram(x[n,d]) -> g[d,d]:  g[a,b] = x[i,a] * x[i,b]")
        >>> f.source.splitlines()[-2:]
        ['    g = x.mT @ x', '    return g.astype(dtype, copy=False)']
        """
        return self.forms.text(self.forms.candidates()[0])

    def explain(self, *tensors: Any, sizes: Mapping[str, int] | None = None) -> Explanation:
        """Which form runs for these tensors (or axis sizes), step by step, with its cost and certificate.

        Parameters
        ----------
        *tensors
            As for a call; their sizes and dtype count, nothing is computed.
        sizes : Mapping[str, int], optional
            Sizes of axes, where there are no tensors; those not given are assumed (sequences long, features 64).

        Returns
        -------
        Explanation
            Shown as its text; ``steps``, ``flops``, ``bytes``, ``peak``, ``form`` and ``certificate`` are its parts.

        Raises
        ------
        ShapeError, TypeError
            As a call.
        ValueError
            For an axis that the operator does not have, or a size that is not a natural number.

        Examples
        --------
        >>> import dtn_numpy as dtn
        >>> f = dtn.compile("gram(x[n,d]) -> g[d,d]:  g[a,b] = x[i,a] * x[i,b]")
        >>> found = f.explain(sizes={"n": 1000, "d": 64})
        >>> str(found.flops), found.flops.at(found.sizes)
        ('2*d**2*n', 8192000)
        """
        from dtn_core.explain import explain  # loaded by the first that asks

        dtype = "float32"
        if tensors:
            arrays = self.convert(self.signature.bind(tensors, {})[0])
            found = axis_sizes(self.operator.program, shapes_of(arrays), self.layout)
            sizes = {axis: size for axis, size in found.items() if size is not None}
            dtype = dtype_name(arrays[0])
        long = self.kernels is not None
        explained = explain(
            self.operator, sizes, dtype=dtype, backend=self.target.name, long=long, costs=self.target.costs
        )
        if self.kernels is None:
            return explained
        leading = self.signature.leading(shapes_of(arrays)) if tensors else ()
        batch, heads = flat_leading(leading)
        given = {axis: explained.sizes[axis] for axis in self.operator.program.axes}
        ran = self.kernels.describe({"batch": batch, "heads": heads, **given}, dtype)
        form = f"one kernel for all steps; {ran}; {describe_options(self)}"
        return replace(explained, implementation=str(self.implementation), form=form)

    def __repr__(self) -> str:
        layout = f", layout {self.layout!r}" if self.layout != LAYOUTS[0] else ""
        implementation = f", implementation {self.implementation!r}" if self.implementation else ""
        return f"<{self.operator.signature}, compiled for {self.target.framework}{layout}{implementation}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.operator, self.layout, self.implementation)
