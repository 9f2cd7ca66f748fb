"""What ``compile`` returns in every framework: a callable that checks its arguments and picks a form."""

from __future__ import annotations

import hashlib
import linecache
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from dtn_core.errors import CompileError, ShapeError
from dtn_core.explain import Explanation, explain
from dtn_core.ir.functions import FUNCTIONS
from dtn_core.ir.nodes import Apply, Program, Read, children
from dtn_core.operators import Operator
from dtn_core.passes.padding import MASK, pad
from dtn_core.passes.pipeline import Lowered, candidates, choose

from .arrays import Arrays
from .implementations import PLAIN, Kernels, Variant
from .kernel_calls import call_kernels, describe_options, dtype_name, find_kernels
from .kernel_shapes import KernelShapes
from .packed import evaluate_packed
from .python import LAYOUTS, emit_program, ir_hash, masks_of
from .shapes import axes_of, axis_sizes, broadcasts, flat_leading, leading_axes
from .state import Streamed, check_state, streamed
from .streaming import emit_chunked
from .target import Target

MAX_REMEMBERED = 4096
WIDE = ("float32", "float64", "complex64", "complex128")


class Plan(NamedTuple):
    """How a call is computed: generated source, the options it is called with, the type of states to return."""

    generated: Callable[..., Any]
    options: dict[str, Any]
    state: Any


class Function:
    """An operator compiled for one framework.

    Call it with the tensors in the operator's order; scalar parameters by keyword.

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
    """

    target: Target
    arrays: Arrays

    def __init__(self, operator: Operator, layout: str = "... n d", implementation: str | None = None) -> None:
        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout!r} is not one of {', '.join(map(repr, LAYOUTS))}")
        self.kernels = self.foreign_kernels(operator, layout, implementation)
        self._variants = {} if self.kernels is None else {PLAIN: self.kernels}
        self.native = self if self.kernels is None else type(self)(operator, layout)
        self.operator = operator
        self.layout = layout
        self.implementation = implementation
        self.__name__ = operator.name
        self.__doc__ = f"{operator.notation}\n"
        self._remembered: dict[Any, Any] = {}
        self._loaded: dict[tuple[Lowered, bool], Callable[..., Any]] = {}
        self._tensors = tuple(param.name for param in operator.program.tensors)
        self._scalars = tuple(param.name for param in operator.program.scalars)
        self.known = frozenset(self._scalars)
        self._decays = _decays(operator.program)
        self._masks = masks_of(operator.program)
        self._streams: dict[bool, Streamed | None] = {}
        form = candidates(operator.program)[0]
        self._streamed = self.streams(complex_input=False)
        self._why_whole = form.dense_reasons.get("order", "nothing in it is ordered")
        self._token_places = [self.token_places(param.axes) for param in operator.program.tensors]
        self.places = [self.place(param.axes) for param in operator.program.tensors]
        self.result_places = [self.place(output.axes) for output in operator.program.outputs]
        self.load(form)

    def foreign_kernels(self, operator: Operator, layout: str, implementation: str | None) -> Kernels | None:
        """The kernels that ``implementation`` computes with; None if it is generated source."""
        return find_kernels(self.target.framework, operator, layout, implementation)

    # ---------------------------------------------------------------- calling

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
            ``[..., n]``, True at real tokens; padded tokens count for nothing and give 0.
        cu_seqlens
            Where each of N sequences packed one after another along the tokens' axis starts, and where the last
            ends: integers ``[N + 1]`` from 0 to n, a list or a concrete vector.  Each is computed by itself.
            States, and outputs without a tokens' axis, have an axis N after the batch axes (before the heads).
        initial_state
            What ``return_state=True`` gave for the tokens before these (causal operators only).
        return_state
            Also return the state after the last token: ``(result, state)``.
        chunk_size
            Tokens computed at a time; the cost model chooses when it is not given.
        **named
            Scalar parameters, numbers or tensors ``[...]`` with one value per leading index.

        Raises
        ------
        ShapeError
            Names the axis and both sizes.
        TypeError
            A missing or unexpected argument, or a dtype that is not floating or complex.
        ValueError
            A decay outside (0, 1], sequences that are not packed one after another, or a state of an operator
            that has none.
        """
        if cu_seqlens is not None:
            if padding_mask is not None:
                raise ValueError(
                    f"{self.__name__}: cu_seqlens clashes with padding_mask: packed sequences have no padding"
                )
            return self.packed(tensors, named, cu_seqlens, initial_state, return_state, chunk_size)
        if self.kernels is not None:
            return call_kernels(self, tensors, named, padding_mask, initial_state, return_state, chunk_size)
        key, plan = self.recall(tensors, named, padding_mask, initial_state, return_state, chunk_size)
        if plan is None:
            tensors, named = self.bind(tensors, named)
            tensors = self.convert(tensors)
            given = tensors if padding_mask is None else (*tensors, *self.convert((padding_mask,)))
            plan = self.plan(given, padding_mask is not None, initial_state, return_state, chunk_size)
            scalars = self.scalar_values(named, tensors, new=True)
            self.remember(key, plan)
        else:
            given = tensors if padding_mask is None else (*tensors, padding_mask)
            scalars = self.scalar_values(named, tensors, new=False) if self._scalars else []
        options = plan.options if initial_state is None else {**plan.options, "initial_state": initial_state}
        result = self.run(plan.generated, (*given, *scalars), options)
        return (result[0], plan.state(*result[1])) if plan.state is not None else result

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

    def packed(
        self,
        tensors: Sequence[Any],
        named: Mapping[str, Any],
        cu_seqlens: Any,
        initial_state: Any,
        return_state: bool,
        chunk_size: int | None,
    ) -> Any:
        """Evaluate packed sequences; the arguments are those of a call."""
        return evaluate_packed(self, tensors, named, cu_seqlens, initial_state, return_state, chunk_size)

    def recall(self, tensors: Sequence[Any], named: Mapping[str, Any], *options: Any) -> tuple[Any, Any]:
        """The key of a call and what is remembered of such calls; None where there is none.

        ``options`` are those of :meth:`key`.  Repeated shapes cost this one look-up.
        """
        if self.tracing() or not named.keys() <= self.known:
            return None, None
        try:
            key = self.key(tensors, named, *options)
            return key, self._remembered.get(key)
        except (AttributeError, TypeError, ValueError):  # not tensors, said later, or sizes that are not known
            return None, None

    @staticmethod
    def key(
        tensors: Sequence[Any],
        named: Mapping[str, Any],
        padding_mask: Any = None,
        initial_state: Any = None,
        return_state: bool = False,
        chunk_size: Any = None,
    ) -> Any:
        """What of a call decides how it is computed: shapes and dtypes, and which options are given."""
        key: Any = tuple([(tensor.shape, tensor.dtype) for tensor in tensors])
        if named:
            key = key, tuple([(name, getattr(value, "shape", None)) for name, value in named.items()])
        if padding_mask is None and initial_state is None and not return_state and chunk_size is None:
            return key
        mask = None if padding_mask is None else (padding_mask.shape, padding_mask.dtype)
        state = None if initial_state is None else tuple([(x.shape, x.dtype) for x in initial_state])
        return key, mask, type(initial_state), state, bool(return_state), type(chunk_size), chunk_size

    def remember(self, key: Any, found: Any) -> None:
        """Keep what was found for calls of a key, if they have one."""
        if key is None:
            return
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[key] = found

    # -------------------------------------------------------------- streaming

    def plan(
        self, arrays: Sequence[Any], padded: bool, initial_state: Any, return_state: bool, chunk_size: int | None
    ) -> Plan:
        """Check shapes, dtypes, states and options, and choose the form that is cheapest at these sizes."""
        resuming = initial_state is not None or return_state
        streaming = resuming or chunk_size is not None
        options: dict[str, Any] = {} if chunk_size is None else {"chunk_size": chunk_size}
        self.check_options(resuming, chunk_size)
        generated, streams, sizes = self.select(arrays, padded, streaming=streaming)
        if streams is None or not resuming:
            return Plan(generated, options, None)
        if initial_state is not None:
            check_state(self.__name__, streams, initial_state, sizes, self.leading(arrays) if sizes else None)
        if not return_state:
            return Plan(generated, options, None)
        return Plan(generated, {**options, "return_state": True}, streams.kind)

    def check_options(self, resuming: bool, chunk_size: Any) -> None:
        """Refuse a chunk size that is none, and options of another kind of operator."""
        if chunk_size is not None and (
            isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1
        ):
            raise ValueError(f"{self.__name__}: chunk_size={chunk_size!r} is not an integer >= 1")
        if resuming or chunk_size is not None:
            self.check_streams(resuming)

    def check_streams(self, resuming: bool) -> None:
        """Refuse what only an operator that is computed in chunks has: a chunk size, a state if ``resuming``."""
        if self._streamed is None:
            what = "has no state" if resuming else "is not computed in chunks"
            raise ValueError(f"{self.__name__} {what}: {self._why_whole}")
        if resuming and not self._streamed.resumable:
            raise ValueError(f"{self.__name__}: there is no state to hand on, it needs the whole sequence at once")

    def streams(self, *, complex_input: bool) -> Streamed | None:
        """How the operator streams; None if it does not."""
        if complex_input not in self._streams:
            chunked = candidates(self.operator.program, complex_input)[0].chunked
            program = self.operator.program
            self._streams[complex_input] = None if chunked is None else streamed(program, chunked.stream)
        return self._streams[complex_input]

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
        """
        self.check_streams(resuming=True)
        found, scalars = self.bind(tensors, named)
        none = list(self.convert(found))
        for number, places in enumerate(self._token_places):
            for place in places:
                none[number] = none[number][(..., slice(0, 0), *[slice(None)] * (-place - 1))]
        return self(*none, return_state=True, **scalars)[1]

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
            ``(o_t[..., e], state)``.
        """
        self.check_streams(resuming=True)
        found, scalars = self.bind(tensors, named)
        one = list(self.convert(found))
        for number, places in enumerate(self._token_places):
            for place in reversed(places):
                one[number] = self.arrays.expand(one[number], place)
        result, state = self(*one, initial_state=state, return_state=True, **scalars)
        outputs = result if isinstance(result, tuple) else (result,)
        last = [
            self.arrays.squeeze(y, place) if place else y for y, place in zip(outputs, self.result_places, strict=True)
        ]
        return (last[0] if len(last) == 1 else tuple(last)), state

    def place(self, axes: tuple[str, ...]) -> int:
        """Where the streamed axis is in a tensor over ``axes``, counted from the end; 0 when it is not."""
        return next(iter(self.token_places(axes)), 0)

    def token_places(self, axes: tuple[str, ...]) -> tuple[int, ...]:
        """Every place of the streamed axis in a tensor over ``axes``, counted from the end."""
        full = axes_of(self.operator.program, axes, self.layout)
        streamed = self._streamed
        return tuple(place - len(full) for place, axis in enumerate(full) if streamed and axis == streamed.axis)

    @staticmethod
    def tracing() -> bool:
        """Whether shapes may be symbolic just now, and must not be remembered."""
        return False

    def bind(self, tensors: Sequence[Any], named: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Sort arguments given by name."""
        if not named and len(tensors) == len(self._tensors):
            return tuple(tensors), {}
        named = dict(named)
        found = list(tensors)
        if len(found) > len(self._tensors):
            raise TypeError(f"{self.__name__} takes {len(self._tensors)} tensors {self._tensors}, got {len(found)}")
        for name in self._tensors[len(found) :]:
            if name not in named:
                raise TypeError(f"{self.__name__}: tensor argument {name} is missing")
            found.append(named.pop(name))
        unexpected = [name for name in named if name not in self._scalars]
        if unexpected:
            known = ", ".join((*self._tensors, *self._scalars))
            raise TypeError(f"{self.__name__}: unexpected argument {unexpected[0]!r}; known: {known}")
        return tuple(found), named

    def scalar_values(self, named: Mapping[str, Any], tensors: Sequence[Any], *, new: bool) -> list[Any]:
        """The scalar arguments in order, bound ones filled in, tensors in the dtype computed in.

        ``new`` says whether these shapes are: then they are checked, and a decay is read even where that takes
        waiting for an accelerator.
        """
        values = []
        for name in self._scalars:
            value = named.get(name, self.operator.scalars.get(name))
            if value is None:
                raise TypeError(f"{self.__name__}: scalar argument {name} is missing")
            if isinstance(value, int | float | complex):
                if name in self._decays and not (isinstance(value, int | float) and 0 < value <= 1):
                    raise ValueError(f"{self.__name__}: {name}={value!r} is outside (0, 1]")
            elif not hasattr(value, "shape"):
                raise TypeError(f"{self.__name__}: {name} is a {type(value).__name__}, expected a number or a tensor")
            else:
                if new:
                    self.check_scalar_shape(name, tuple(value.shape), tensors)
                if name in self._decays:
                    self.check_decays(name, self.arrays.numbers(value, wait=new))
                value = self.cast_scalar(value, tensors)
            values.append(value)
        return values

    def check_scalar_shape(self, name: str, shape: tuple[Any, ...], tensors: Sequence[Any]) -> None:
        """Refuse a tensor of scalars that is not one per leading index."""
        leading = self.leading(tensors)
        if not broadcasts(shape, leading):
            raise ShapeError(
                f"{self.__name__}: {name} has shape {shape} but the tensors' leading axes are {leading}; "
                "a scalar is a number or has one value per leading index"
            )

    def check_decays(self, name: str, values: np.ndarray | None) -> None:
        """Refuse decays outside (0, 1]; those that are not known yet are not."""
        if values is not None and not ((values > 0) & (values <= 1)).all():
            raise ValueError(f"{self.__name__}: {name}={values.tolist()} is outside (0, 1]")

    def leading(self, tensors: Sequence[Any]) -> tuple[Any, ...]:
        """The leading axes of the operator's tensors, which come first in ``tensors``."""
        shapes = [tuple(tensor.shape) for tensor in tensors[: len(self._tensors)]]
        return leading_axes(self.operator.program, shapes, self.layout)

    def cast_scalar(self, value: Any, tensors: Sequence[Any]) -> Any:
        """A tensor of scalars in the dtype computed in; implemented by each backend."""
        raise CompileError(f"{type(self).__name__} does not say how scalars are cast")

    def convert(self, tensors: Sequence[Any]) -> tuple[Any, ...]:
        """Arguments as the framework's tensors."""
        return tuple(tensors)

    def run(self, generated: Callable[..., Any], arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Call generated source."""
        return generated(*arguments, **options)

    def is_complex(self, names: Sequence[str], arrays: Sequence[Any]) -> bool:
        """Whether any array is complex; refuses dtypes that are neither floating nor complex.

        Implemented by each backend.
        """
        raise CompileError(f"{type(self).__name__} does not say which dtypes are complex")

    def select(
        self, arrays: Sequence[Any], padded: bool, *, streaming: bool = False
    ) -> tuple[Callable[..., Any], Streamed | None, dict[str, Any] | None]:
        """The generated function for these arguments, how it streams, and the sizes of the axes.

        Checks shapes and dtypes; the sizes are None where they may not be looked at.
        """
        program = self.program(padded)
        shapes = [tuple(array.shape) for array in arrays]
        sizes = axis_sizes(program, shapes, self.layout)
        leading_axes(program, shapes, self.layout)
        complex_input = self.check_dtypes(arrays)
        forms = candidates(program, complex_input)
        known = not streaming and all(size is not None for size in sizes.values())
        form = self.choose(forms, sizes if known else None)
        streams = self.streams(complex_input=complex_input)
        if streaming and (form.chunked is None or streams is None or form.chunked.stream.resumable < streams.resumable):
            raise ValueError(f"{self.__name__}: with a padding_mask it needs the whole sequence at once")
        return self.load(form, widen=not self.is_wide(self.typed(arrays)[1])), streams, sizes

    def choose(self, forms: tuple[Lowered, ...], sizes: Mapping[str, int] | None) -> Lowered:
        """The form to compute: the cheapest at ``sizes``, the one for long sequences where they are not known."""
        return forms[0] if sizes is None else choose(forms, sizes)

    def typed(self, arrays: Sequence[Any]) -> tuple[list[str], list[Any]]:
        """Names and arrays of the tensors that are not masks."""
        pairs = [(n, a) for n, a in zip(self._tensors, arrays, strict=False) if n not in self._masks]
        return [name for name, _ in pairs], [array for _, array in pairs]

    def check_dtypes(self, arrays: Sequence[Any]) -> bool:
        """Whether any tensor is complex; refuses dtypes that the operator is not defined for."""
        complex_input = self.is_complex(*self.typed(arrays))
        if complex_input:
            self.check_complex()
        return complex_input

    def is_wide(self, arrays: Sequence[Any]) -> bool:
        """Whether all arrays have one dtype that sums may be taken in."""
        first = arrays[0].dtype
        return all(array.dtype == first for array in arrays) and str(first).split(".")[-1].strip("'>") in WIDE

    def check_complex(self) -> None:
        """Refuse complex input where the operator has a function of real numbers only."""
        used = _functions(self.operator.program)
        real_only = sorted(name for name in used if not FUNCTIONS[name].holomorphic)
        if real_only:
            raise TypeError(f"{self.__name__}: {real_only[0]} is not defined for complex input")

    # -------------------------------------------------------------- compiling

    def program(self, padded: bool) -> Program:
        """The definition, with or without a padding mask."""
        return _padded(self.operator.program) if padded else self.operator.program

    def text(self, form: Lowered, *, widen: bool = True) -> str:
        """Source text of one form."""
        if form.chunked is not None:
            return emit_chunked(self.target, form, scalars=self.operator.scalars, layout=self.layout, widen=widen)
        return emit_program(
            self.target,
            form.definition,
            form.program,
            scalars=self.operator.scalars,
            layout=self.layout,
            complex_input=form.complex_input,
            widen=widen,
        )

    def load(self, form: Lowered, *, widen: bool = True) -> Callable[..., Any]:
        """The Python function of one form, made once; its source is shown in tracebacks."""
        found = self._loaded.get((form, widen))
        if found is None:
            found = self._loaded[form, widen] = self.make(form, widen=widen)
        return found

    def make(self, form: Lowered, *, widen: bool) -> Callable[..., Any]:
        """Emit and compile one form."""
        order = tuple(param.name for param in form.definition.params)
        tensors = [name for name in order if name in self._tensors or name == MASK]
        wanted = (*tensors, *self._scalars)
        generated = _load(
            self.text(form, widen=widen),
            form.program.name,
            f"<dtn {ir_hash(form.definition)} {self.target.name}>",
        )
        if wanted == order:
            return generated
        places = [wanted.index(name) for name in order]
        return lambda *values, **extra: generated(*[values[place] for place in places], **extra)

    @cached_property
    def source(self) -> str:
        """The generated text for real arguments of any dtype and long sequences.

        Where arguments have one dtype of 32 bits or more the same text runs without its conversions.
        """
        return self.text(candidates(self.operator.program)[0])

    def explain(self, *tensors: Any, sizes: Mapping[str, int] | None = None) -> Explanation:
        """Which form runs for these tensors (or axis sizes), step by step, with its cost and certificate."""
        dtype = "float32"
        if tensors:
            arrays = self.convert(tensors)
            found = axis_sizes(self.operator.program, [tuple(array.shape) for array in arrays], self.layout)
            sizes = {axis: size for axis, size in found.items() if size is not None}
            dtype = dtype_name(arrays[0])
        long = self.kernels is not None
        explained = explain(self.operator, sizes, dtype=dtype, backend=self.target.name, long=long)
        if self.kernels is None:
            return explained
        leading = self.leading(arrays) if tensors else ()
        batch, heads = flat_leading(leading)
        given = {axis: explained.sizes[axis] for axis in self.operator.program.axes}
        ran = self.kernels.describe({"batch": batch, "heads": heads, **given}, dtype)
        form = f"one kernel for all steps; {ran}; {describe_options(self)}"
        return replace(explained, implementation=str(self.implementation), form=form)

    def __repr__(self) -> str:
        return f"<{self.__name__} compiled for {self.target.framework}, layout {self.layout!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.operator, self.layout, self.implementation)


@lru_cache(maxsize=512)
def _padded(program: Program) -> Program:
    return pad(program)


@lru_cache(maxsize=1024)
def _load(source: str, name: str, filename: str) -> Callable[..., Any]:
    """Compile generated source (never a user's text) and keep it for tracebacks."""
    filename = f"{filename[:-1]} {_digest(source)}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    module = types.ModuleType(f"dtn_generated_{name}_{_digest(source)}")
    sys.modules[module.__name__] = module  # torch.compile imports the module of what it traces
    exec(compile(source, filename, "exec"), module.__dict__)  # noqa: S102 - text made by the emitter from verified IR
    return getattr(module, name, None) or getattr(module, f"{name}_")  # type: ignore[no-any-return]


def _digest(source: str) -> str:
    """Eight digits that name a text."""
    return hashlib.sha256(source.encode()).hexdigest()[:8]


def _decays(program: Program) -> set[str]:
    return {
        relation.decay.tensor
        for statement in program.statements
        for relation in statement.order
        if isinstance(relation.decay, Read)
    }


def _functions(program: Program) -> set[str]:
    found: set[str] = set()
    stack: list[Any] = [statement.value for statement in program.statements]
    while stack:
        expr = stack.pop()
        if isinstance(expr, Apply):
            found.add(expr.function)
        stack.extend(children(expr))
    return found
