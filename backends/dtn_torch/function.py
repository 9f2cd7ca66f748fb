"""Compiled operators in PyTorch."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from operator import index
from typing import Any

import numpy as np
import torch

from dtn_codegen.function import Function
from dtn_codegen.functional import SCALARS, Functional
from dtn_codegen.implementations import PLAIN, Kernels, Variant
from dtn_codegen.kernel_calls import as_kernels
from dtn_codegen.python import ir_hash
from dtn_codegen.shapes import shapes_of
from dtn_codegen.state import Streamed
from dtn_codegen.torch import TARGET
from dtn_core.operators import PARAMETER, Operator, catalogue

from .operation import in_turns, operation

_TENSORS = (torch.Tensor, torch.nn.Parameter)
_NEVER = (lambda: None), 0


class TorchArrays:
    """Implements :class:`dtn_codegen.arrays.Arrays`."""

    def expand(self, x: torch.Tensor, place: int) -> torch.Tensor:
        return x.unsqueeze(place)

    def squeeze(self, x: torch.Tensor, place: int) -> torch.Tensor:
        return x.squeeze(place)

    def move(self, x: torch.Tensor, place: int, to: int) -> torch.Tensor:
        return x.movedim(place, to)

    def take(self, x: torch.Tensor, rows: np.ndarray, place: int) -> torch.Tensor:
        flat = x.index_select(place, self.constant(rows.reshape(-1), x))
        return flat if rows.ndim == 1 else flat.unflatten(place, rows.shape)

    def joined(self, pieces: list[torch.Tensor], place: int) -> torch.Tensor:
        return torch.cat(pieces, dim=place)

    def merged(self, x: torch.Tensor, place: int) -> torch.Tensor:
        return x.flatten(place - 1, place)

    def constant(self, values: np.ndarray, like: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(values).to(like.device)

    def numbers(self, x: Any, *, wait: bool) -> np.ndarray | None:
        if isinstance(x, np.ndarray):
            return x
        concrete = type(x) in _TENSORS and not torch.compiler.is_compiling()
        if not concrete or x.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(x):
            return None
        return np.asarray(x.tolist()) if wait or x.is_cpu else None


class TorchFunction(Function):
    """A compiled operator on torch tensors, with torch's own autograd, ``torch.func`` and ``torch.compile``.

    Under autocast it runs in the dtype of its arguments: products are summed in float32, as by
    ``torch.autocast`` for operators that need the range.

    Examples
    --------
    >>> import torch
    >>> import dtn_torch as dtn
    >>> f = dtn.compile("gram(x[n,d]) -> g[d,d]:  g[a,b] = x[i,a] * x[i,b]")
    >>> f
    <gram(x[n,d]) -> g[d,d], compiled for torch>
    >>> f(torch.ones(5, 2)).tolist()
    [[5.0, 5.0], [5.0, 5.0]]
    >>> f([[1.0]])
    Traceback (most recent call last):
    TypeError: gram: x is a list, expected a torch.Tensor
    """

    target = TARGET
    arrays = TorchArrays()

    def __init__(self, operator: Operator, layout: str = "... n d", implementation: str | None = None) -> None:
        super().__init__(operator, layout, implementation)
        self._prepared: dict[tuple[bool, bool, bool], tuple[Callable[..., Any], Streamed | None]] = {}
        self._entry = f"{ir_hash(operator.program)} {layout} {implementation}"
        self._entries: dict[int, str] = {}  # by the kernels' identity
        self._seen: dict[str, tuple[Callable[[], Any], int]] = {}  # decays that were read, in which version
        self._packs: dict[tuple[bool, bool, bool, int | None], tuple[str, Any]] = {}
        if self.kernels is not None:
            self.enter(PLAIN)

    def convert(self, tensors: Sequence[Any], names: Sequence[str] = ()) -> tuple[Any, ...]:
        """The tensors themselves; anything else is refused."""
        for name, tensor in zip(names or self.signature.tensors, tensors, strict=True):
            if not isinstance(tensor, torch.Tensor):
                raise TypeError(f"{self.__name__}: {name} is a {type(tensor).__name__}, expected a torch.Tensor")
        return tuple(tensors)

    def cast_scalar(self, value: Any, tensors: Sequence[Any]) -> Any:
        """A tensor of scalars in the dtype computed in."""
        wide, device = _wide(tensors), tensors[0].device
        if isinstance(value, torch.Tensor) and value.dtype is wide and value.device == device:
            return value
        return torch.as_tensor(value, device=device).to(wide)  # an array of NumPy, or a number

    def check_decays(self, name: str, value: Any, *, wait: bool) -> bool:
        """Refuse decays outside (0, 1]; a tensor that was read and not written to since is not read again."""
        if type(value) not in _TENSORS or torch.compiler.is_compiling() or value.is_inference():
            return super().check_decays(name, value, wait=wait)
        seen, version = self._seen.get(name, _NEVER)
        if seen() is value and version == value._version:
            return True
        read = super().check_decays(name, value, wait=wait)
        if read:
            self._seen[name] = weakref.ref(value), value._version
        return read

    def scalar_values(
        self, named: Mapping[str, Any], tensors: Sequence[Any], shapes: Sequence[tuple[Any, ...]] | None = None
    ) -> list[Any]:
        """The scalar arguments; while ``torch.compile`` traces, a number may be a symbol, which a tensor never is."""
        values = super().scalar_values(named, tensors, shapes)
        return [_tensor(x, tensors) for x in values] if torch.compiler.is_compiling() else values

    def is_complex(self, names: Sequence[str], arrays: Sequence[Any]) -> bool:
        """Whether any tensor is complex; refuses integers and booleans."""
        for name, array in zip(names, arrays, strict=True):
            if not (array.is_floating_point() or array.is_complex()):
                raise TypeError(f"{self.__name__}: {name} has dtype {array.dtype}; expected floating or complex")
        return any(array.is_complex() for array in arrays)

    def run(self, generated: Callable[..., Any], arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Call generated source, outside autocast: it chooses its own dtypes."""
        first = arguments[0]
        device = "cpu" if first.is_cpu else first.device.type  # a device object costs microseconds
        if (first.is_cpu or torch.amp.is_autocast_available(device)) and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return generated(*arguments, **options)
        return generated(*arguments, **options)

    def run_kernels(
        self, kernels: Kernels, arguments: Sequence[Any], leading: Sequence[Any], sizes: Mapping[str, Any]
    ) -> Sequence[Any]:
        """Call kernels through the operators that are registered for them."""
        from .kernels import call

        return call(self._entries[id(kernels)], arguments, leading, dict(sizes))

    def variant(self, variant: Variant) -> Kernels:
        """The kernels for such calls; while ``torch.compile`` traces, making them is not traced."""
        if torch.compiler.is_compiling():
            _enter(self, variant.padded, variant.resumed, variant.chunk)
            return self._variants[variant]
        return self.enter(variant)

    def enter(self, variant: Variant) -> Kernels:
        """The kernels for such calls, as operators that graphs know by name."""
        from .kernels import ENTRIES, Entry

        kernels = super().variant(variant)
        if id(kernels) not in self._entries:
            name = self._entry if variant == PLAIN else f"{self._entry} {variant}"
            if name not in ENTRIES:
                ENTRIES[name] = Entry(self.kernel_shapes(kernels), as_kernels(self.native, kernels))
            self._entries[id(kernels)] = name
        return kernels

    tracing = staticmethod(torch.compiler.is_compiling)

    def packed(self, tensors: Sequence[Any], named: Mapping[str, Any], cu_seqlens: Any, *options: Any) -> Any:
        """Evaluate packed sequences; while ``torch.compile`` traces, as one operation, which reads ``cu_seqlens``."""
        if not torch.compiler.is_compiling():
            return super().packed(tensors, named, cu_seqlens, *options)
        initial_state, return_state, chunk_size = options
        tensors, named = self.signature.bind(tensors, named)
        tensors = self.convert(tensors)
        complex_input = any(tensor.is_complex() for tensor in tensors)
        key = complex_input, initial_state is not None, return_state, chunk_size
        _enter_packed(self, *key)
        name, streams = self._packs[key]
        starts = cu_seqlens if isinstance(cu_seqlens, torch.Tensor) else torch.as_tensor(cu_seqlens)
        scalars = self.scalar_values(named, tensors, shapes_of(tensors))
        results = torch.ops.dtn.packed([*tensors, *scalars, *(initial_state or ())], starts, name)
        count = len(self.operator.program.outputs)
        value = results[0] if count == 1 else tuple(results[:count])
        return (value, streams.kind(*results[count:])) if return_state else value

    def select(
        self, arrays: Sequence[Any], named: Mapping[str, Any], padded: bool, *, streaming: bool = False
    ) -> tuple[Callable[..., Any], Streamed | None, dict[str, Any] | None]:
        """The generated function; while ``torch.compile`` traces, sizes may be symbolic and none is looked at."""
        if not torch.compiler.is_compiling():
            return super().select(arrays, named, padded, streaming=streaming)
        complex_input = any(array.is_complex() for array in arrays)
        if streaming:  # the state after zeros that fill a chunk is another: it is compiled for this length
            for array, places in zip(arrays, self.tokens.every_place, strict=False):
                for place in places:
                    index(array.shape[place])
        alone = False
        turns = self.tokens.streamed is not None and not streaming and not complex_input
        if turns and in_turns(arrays, named.values()):
            alone = True  # a branch makes a condition on a size that is a symbol a guard
        alone = _prepare(self, padded, complex_input, alone)
        return (*self._prepared[padded, complex_input, alone], None)


def _wide(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    """The dtype computed in."""
    wide = torch.float32
    for tensor in tensors:
        wide = torch.promote_types(wide, tensor.dtype)
    return wide


def _tensor(number: Any, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """A scalar as a tensor of the dtype computed in: a wider one of no axes would promote other scalars."""
    if isinstance(number, torch.Tensor):
        return number
    return torch.as_tensor(number, dtype=_wide(tensors), device=tensors[0].device)


def constant(function: Callable[..., bool]) -> Callable[..., bool]:
    """``torch.compiler.assume_constant_result``, which would import the compiler: twice the time of ``import torch``.

    Plain Python while tracing: the passes run, they are not traced.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant
def _enter(function: TorchFunction, padded: bool, resumed: bool, chunk: int | None) -> bool:
    function.enter(Variant(padded, resumed, chunk))
    return True


@constant
def _enter_packed(
    function: TorchFunction, complex_input: bool, resumed: bool, return_state: bool, chunk: int | None
) -> bool:
    """Name calls of packed sequences with these options."""
    from . import packs

    key = complex_input, resumed, return_state, chunk
    if key not in function._packs:
        name = f"{function._entry} {key}"
        packs.ENTRIES[name] = packs.Entry(function, resumed, return_state, chunk)
        function._packs[key] = name, function.tokens.streams(complex_input=complex_input)
    return True


@constant
def _prepare(function: TorchFunction, padded: bool, complex_input: bool, alone: bool) -> bool:
    """Compile for these arguments; whether as an operation of its own, which has no rule under ``torch.func``."""
    form = function.choose(function.forms.candidates(padded, complex_input), None)
    alone = alone and form.chunked is not None and torch._C._functorch.peek_interpreter_stack() is None
    key = padded, complex_input, alone
    if key not in function._prepared:
        generated = function.forms.function(form)
        if alone:
            generated = operation(form.definition, generated, function.layout)
        function._prepared[key] = generated, function.tokens.streams(complex_input=complex_input)
    return alone


class TorchFunctional(Functional):
    """The catalogue as functions that ``torch.compile`` traces through."""

    def look_up(
        self, name: str, knobs: dict[str, Any], layout: str, implementation: str | None, scalars: dict[str, Any]
    ) -> Function:
        """The compiled operator; while ``torch.compile`` traces, compiling it is not traced."""
        if not torch.compiler.is_compiling():
            return super().look_up(name, knobs, layout, implementation, scalars)
        parameters = tuple(scalars)
        static = tuple(
            (knob, index(value) if type(value) is int else value)  # an order may be a symbol
            for knob, value in knobs.items()
            if knob not in SCALARS
        )
        _prepare_catalogue(self, name, static, parameters, layout, implementation)
        return self.prepared[name, static, parameters, layout, implementation]

    def __init__(self, function_type: type[Function]) -> None:
        super().__init__(function_type)
        self.prepared: dict[tuple[Any, ...], Function] = {}


@constant
def _prepare_catalogue(
    functional: TorchFunctional,
    name: str,
    static: tuple[tuple[str, Any], ...],
    parameters: tuple[str, ...],
    layout: str,
    implementation: str | None,
) -> bool:
    given = {**SCALARS, **dict(static), **dict.fromkeys(parameters, PARAMETER)}
    knobs = {knob: given[knob] for knob in catalogue[name].knobs}
    found = Functional.look_up(functional, name, knobs, layout, implementation, {})
    functional.prepared[name, static, parameters, layout, implementation] = found
    return True
