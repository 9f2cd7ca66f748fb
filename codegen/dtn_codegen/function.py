"""What ``compile`` returns in every framework: a callable that checks its arguments and picks a form."""

from __future__ import annotations

import hashlib
import linecache
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from dtn_core.errors import CompileError, ShapeError
from dtn_core.explain import Explanation, explain
from dtn_core.ir.functions import FUNCTIONS
from dtn_core.ir.nodes import Apply, Program, Read, children
from dtn_core.operators import Operator
from dtn_core.passes.padding import MASK, pad
from dtn_core.passes.pipeline import Lowered, candidates, choose

from .python import HEADS, LAYOUTS, emit_program, has_heads, ir_hash, masks_of
from .state import check_state, state_type
from .streaming import emit_chunked
from .target import Target

IMPLEMENTATIONS = (None, "native")
MAX_REMEMBERED = 4096
WIDE = ("float32", "float64", "complex64", "complex128")


class Function:
    """An operator compiled for one framework.

    Call it with the tensors in the operator's order; scalar parameters by keyword.

    Parameters
    ----------
    operator : Operator
        The definition, with some scalars bound.
    layout : {"... n d", "... n h d"}
        Where the head axis of tensors with a sequence axis is.
    implementation : {None, "native"}
        ``"native"`` is generated source of the framework; None picks the best there is.

    Raises
    ------
    ValueError
        For an unknown layout, or an implementation that cannot run.
    """

    target: Target

    def __init__(self, operator: Operator, layout: str = "... n d", implementation: str | None = None) -> None:
        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout!r} is not one of {', '.join(map(repr, LAYOUTS))}")
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(
                f"implementation={implementation!r} cannot run {operator.name} in {self.target.framework}; "
                f"available: {', '.join(map(repr, IMPLEMENTATIONS))}"
            )
        self.operator = operator
        self.layout = layout
        self.implementation = implementation
        self.__name__ = operator.name
        self.__doc__ = f"{operator.notation}\n"
        self._remembered: dict[Any, Callable[..., Any]] = {}
        self._loaded: dict[tuple[Lowered, bool], Callable[..., Any]] = {}
        self._prepared: dict[tuple[bool, bool], Callable[..., Any]] = {}
        self._tensors = tuple(param.name for param in operator.program.tensors)
        self._scalars = tuple(param.name for param in operator.program.scalars)
        self._decays = _decays(operator.program)
        self._masks = masks_of(operator.program)
        self.form(padded=False, complex_input=False)

    # ---------------------------------------------------------------- calling

    def __call__(
        self,
        *tensors: Any,
        padding_mask: Any = None,
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
        """
        streaming = initial_state is not None or return_state or chunk_size is not None
        if padding_mask is None and not named and not streaming and not self.tracing():
            try:  # repeated shapes cost one dictionary look-up
                generated = self._remembered.get(tuple([(tensor.shape, tensor.dtype) for tensor in tensors]))
            except (AttributeError, TypeError, ValueError):
                generated = None
            if generated is not None:
                if self._scalars:
                    tensors = (*tensors, *self.scalar_values(named, tensors))
                return self.run(generated, tensors)
        tensors, named = self.bind(tensors, named)
        arrays = self.convert(tensors)
        if padding_mask is not None:
            arrays = (*arrays, *self.convert((padding_mask,)))
        arguments = (*arrays, *self.scalar_values(named, arrays))
        if streaming:
            return self.stream(arrays, arguments, padding_mask is not None, initial_state, return_state, chunk_size)
        return self.run(self.callable_for(arrays, padding_mask is not None), arguments)

    # -------------------------------------------------------------- streaming

    def stream(
        self,
        arrays: Sequence[Any],
        arguments: Sequence[Any],
        padded: bool,
        initial_state: Any,
        return_state: bool,
        chunk_size: int | None,
    ) -> Any:
        """Evaluate chunk by chunk, from a state and to a state."""
        form, sizes, widen = self.inspect(arrays, padded, streaming=True)
        assert form.chunked is not None
        extra: dict[str, Any] = {}
        if chunk_size is not None:
            if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
                raise ValueError(f"{self.__name__}: chunk_size={chunk_size!r} is not an integer >= 1")
            extra["chunk_size"] = chunk_size
        if initial_state is not None or return_state:
            if not form.chunked.stream.resumable:
                raise ValueError(f"{self.__name__}: there is no state to hand on, it needs the whole sequence at once")
            check_state(self.__name__, form.chunked.stream.states, initial_state, sizes)
            extra |= {"initial_state": initial_state, "return_state": return_state}
        generated = self.load(form, widen=widen)
        result = self.run(lambda *values: generated(*values, **extra), arguments)
        if not return_state:
            return result
        names = tuple(state.name.removesuffix("_past") for state in form.chunked.stream.states)
        return result[0], state_type(self.__name__, names)(*result[1])

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
        found, scalars = self.bind(tensors, named)
        axis = self.token_axis()
        none = [
            x[(..., slice(0, 0), *[slice(None)] * (-place - 1))] if (place := self.place(p.axes, axis)) else x
            for p, x in zip(self.operator.program.tensors, self.convert(found), strict=True)
        ]
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
        found, scalars = self.bind(tensors, named)
        axis = self.token_axis()
        one = [
            x[(..., None, *[slice(None)] * (-place - 1))] if (place := self.place(p.axes, axis)) else x
            for p, x in zip(self.operator.program.tensors, self.convert(found), strict=True)
        ]
        result, state = self(*one, initial_state=state, return_state=True, **scalars)
        outputs = result if isinstance(result, tuple) else (result,)
        last = [
            y[(..., 0, *[slice(None)] * (-place - 1))] if (place := self.place(o.axes, axis)) else y
            for o, y in zip(self.operator.program.outputs, outputs, strict=True)
        ]
        return (last[0] if len(last) == 1 else tuple(last)), state

    def token_axis(self) -> str:
        """The axis along which the operator streams."""
        form = candidates(self.operator.program)[0]
        if form.chunked is None:
            raise ValueError(f"{self.__name__} has no state: {form.dense_reasons.get('order', 'it is not causal')}")
        return form.chunked.stream.axis

    def place(self, axes: Sequence[str], axis: str) -> int:
        """Where ``axis`` is in a tensor over ``axes``, counted from the end; 0 when it is not."""
        if axis not in axes:
            return 0
        moved = self.layout == HEADS and has_heads(self.operator.program, axes)
        return axes.index(axis) - len(axes) - moved

    @staticmethod
    def tracing() -> bool:
        """Whether shapes may be symbolic just now, and must not be remembered."""
        return False

    def bind(self, tensors: Sequence[Any], named: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Sort arguments given by name."""
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

    def scalar_values(self, named: Mapping[str, Any], arrays: Sequence[Any]) -> list[Any]:
        """The scalar arguments in order, bound ones filled in, tensors in the dtype computed in."""
        values = []
        for name in self._scalars:
            value = named.get(name, self.operator.scalars.get(name))
            if value is None:
                raise TypeError(f"{self.__name__}: scalar argument {name} is missing")
            if name in self._decays and isinstance(value, int | float) and not 0 < value <= 1:
                raise ValueError(f"{self.__name__}: {name}={value!r} is outside (0, 1]")
            if not isinstance(value, int | float | complex):
                value = self.scalar_tensor(name, value, arrays)
            values.append(value)
        return values

    def scalar_tensor(self, name: str, value: Any, arrays: Sequence[Any]) -> Any:
        """A tensor of scalars, one per leading index, in the dtype computed in."""
        leading: list[Any] = []
        for param, array in zip(self.operator.program.tensors, arrays, strict=False):
            axes = len(param.axes) + (self.layout == HEADS and has_heads(self.operator.program, param.axes))
            shape = tuple(array.shape)
            batch = [*shape[: len(shape) - axes], *([shape[1 - axes]] if axes > len(param.axes) else [])]
            leading = batch if len(batch) > len(leading) else leading
        shape = tuple(value.shape)
        for place, size in enumerate(reversed(shape)):
            other = leading[-place - 1] if place < len(leading) else None
            if other is not None and size is not None and 1 not in (size, other) and size != other:
                raise ShapeError(
                    f"{self.__name__}: {name} has shape {shape} but the tensors' leading axes are {tuple(leading)}; "
                    "a scalar is a number or has one value per leading index"
                )
        return self.cast_scalar(value, arrays)

    def cast_scalar(self, value: Any, arrays: Sequence[Any]) -> Any:
        """A tensor of scalars in the dtype computed in; implemented by each backend."""
        raise CompileError(f"{type(self).__name__} does not say how scalars are cast")

    def convert(self, tensors: Sequence[Any]) -> tuple[Any, ...]:
        """Arguments as the framework's tensors."""
        return tuple(tensors)

    def run(self, generated: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        """Call generated source."""
        return generated(*arguments)

    def is_complex(self, names: Sequence[str], arrays: Sequence[Any]) -> bool:
        """Whether any array is complex; refuses dtypes that are neither floating nor complex.

        Implemented by each backend.
        """
        raise CompileError(f"{type(self).__name__} does not say which dtypes are complex")

    def callable_for(self, arrays: Sequence[Any], padded: bool) -> Callable[..., Any]:
        """The generated function for these arguments."""
        if self.tracing():
            return self.select(arrays, padded)
        key = tuple([(array.shape, array.dtype) for array in arrays])  # a mask makes it longer
        found = self._remembered.get(key)
        if found is None:
            found = self.select(arrays, padded)
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = found
        return found

    def select(self, arrays: Sequence[Any], padded: bool) -> Callable[..., Any]:
        """Check shapes and dtypes, and choose the form that is cheapest at these sizes."""
        form, _, widen = self.inspect(arrays, padded)
        return self.load(form, widen=widen)

    def inspect(
        self, arrays: Sequence[Any], padded: bool, *, streaming: bool = False
    ) -> tuple[Lowered, dict[str, Any], bool]:
        """The form for these arguments, the axis sizes, and whether dtypes must be converted."""
        names = (*self._tensors, MASK) if padded else self._tensors
        program = self.program(padded)
        sizes = axis_sizes(program, dict(zip(names, [tuple(a.shape) for a in arrays], strict=True)), self.layout)
        typed = [(n, a) for n, a in zip(names, arrays, strict=True) if n not in self._masks and n != MASK]
        complex_input = self.is_complex([n for n, _ in typed], [a for _, a in typed])
        if complex_input:
            self.check_complex()
        forms = candidates(program, complex_input)
        if streaming and forms[0].chunked is None:
            reason = forms[0].dense_reasons.get("order", "nothing in it is ordered")
            raise ValueError(f"{self.__name__} is not computed in chunks: {reason}")
        known = not streaming and all(size is not None for size in sizes.values())
        form = choose(forms, sizes) if known else forms[0]
        return form, sizes, not self.is_wide([a for _, a in typed])

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

    def form(self, *, padded: bool, complex_input: bool) -> Callable[..., Any]:
        """The generated function of the form for long sequences."""
        return self.load(candidates(self.program(padded), complex_input)[0])

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
            shapes = {name: tuple(a.shape) for name, a in zip(self._tensors, arrays, strict=True)}
            sizes = {a: s for a, s in axis_sizes(self.operator.program, shapes, self.layout).items() if s is not None}
            dtype = str(getattr(arrays[0].dtype, "name", arrays[0].dtype)).removeprefix("torch.")
        return explain(self.operator, sizes, dtype=dtype, backend=self.target.name)

    def __repr__(self) -> str:
        return f"<{self.__name__} compiled for {self.target.framework}, layout {self.layout!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.operator, self.layout, self.implementation)


def axis_sizes(program: Program, shapes: Mapping[str, tuple[Any, ...]], layout: str) -> dict[str, Any]:
    """The size of every axis, from the tensors' shapes (None where a shape is not known).

    Raises
    ------
    ShapeError
        A tensor with too few axes, an axis of two sizes, or leading axes that do not broadcast.
    """
    sizes: dict[str, Any] = {}
    seen: dict[str, str] = {}
    leading: list[tuple[Any, ...]] = []
    for param in program.tensors:
        shape = shapes[param.name]
        axes: tuple[str, ...] = param.axes
        if layout == HEADS and has_heads(program, axes):
            axes = (axes[0], "h", axes[1])
        if len(shape) < len(axes):
            raise ShapeError(f"{program.name}: {param.name} needs axes [..., {', '.join(axes)}], got shape {shape}")
        core = shape[len(shape) - len(axes) :]
        batch = shape[: len(shape) - len(axes)]
        for axis, size in zip(axes, core, strict=True):
            if axis == "h" and layout == HEADS and "h" not in param.axes:
                batch = (*batch, size)
                continue
            known = sizes.get(axis)
            if known is None:
                sizes[axis], seen[axis] = size, param.name
            elif size is not None and known != size:
                first = seen[axis]
                raise ShapeError(
                    f"{program.name}: axis {axis} has size {known} in {first} (shape {shapes[first]}) "
                    f"but {size} in {param.name} (shape {shape})"
                )
        leading.append(batch)
    _check_broadcast(program, shapes, leading)
    return sizes


def _check_broadcast(
    program: Program, shapes: Mapping[str, tuple[Any, ...]], leading: Sequence[tuple[Any, ...]]
) -> None:
    result: list[tuple[Any, str]] = []
    for param, batch in zip(program.tensors, leading, strict=True):
        for place, size in enumerate(reversed(batch)):
            if place == len(result):
                result.append((size, param.name))
            elif (
                size is not None
                and result[place][0] is not None
                and 1 not in (size, result[place][0])
                and size != result[place][0]
            ):
                other, name = result[place]
                raise ShapeError(
                    f"{program.name}: leading axis {-place - 1} has size {other} in {name} (shape {shapes[name]}) "
                    f"but {size} in {param.name} (shape {shapes[param.name]}); leading axes broadcast"
                )
            elif result[place][0] in (1, None):
                result[place] = (size, param.name)


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
