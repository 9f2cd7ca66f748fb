"""Kernels of other implementations as operators of PyTorch, with derivatives, for eager use and ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import torch
from torch.autograd import forward_ad

from dtn_codegen.dtypes import dtype_name
from dtn_codegen.implementations import Kernels
from dtn_codegen.kernel_shapes import KernelShapes
from dtn_codegen.plans import remember
from dtn_core.ir.nodes import Param

from .function import constant

MAX_REMEMBERED = 1024
Shape = tuple[Any, ...]
Found = TypeVar("Found")


class Sizes(NamedTuple):
    """Of a kernel's arguments: all axes, and of the results their shapes and whether they are float32 in any case."""

    axes: dict[str, Any]
    results: list[tuple[Shape, bool]]


class Places(NamedTuple):
    """Of a call's arguments, the shapes outside of a kernel and inside, and whether float32 whatever the tensors are.

    Of its results, the shapes outside, and whether they keep the dtype that they are computed in.
    """

    given: list[tuple[Shape, Shape, bool]]
    results: list[tuple[Shape, bool]]


@dataclass(frozen=True)
class Entry:
    """What a name in a graph stands for.

    Attributes
    ----------
    shapes : KernelShapes
        Of its arrays; made before anything is traced, which cannot follow a property that is computed once.
    native : callable
        The same operator as generated source, called as the kernels are; it differentiates where no kernel does.
    known_sizes, known_places : dict
        What :meth:`sizes` and :meth:`places` gave so far.
    """

    shapes: KernelShapes
    native: Callable[..., tuple[torch.Tensor, ...]]
    known_sizes: dict[Any, Sizes] = field(default_factory=dict, repr=False, compare=False)
    known_places: dict[Any, Places] = field(default_factory=dict, repr=False, compare=False)

    @property
    def kernels(self) -> Kernels:
        """Forward and backward."""
        return self.shapes.kernels

    def sizes(self, tensors: Sequence[torch.Tensor]) -> Sizes:
        """Sizes of all axes and results, from the kernel's arguments."""

        def found() -> Sizes:
            axes = self.shapes.sizes([tuple(tensor.shape) for tensor in tensors])
            results = [(self.shapes.inside(p, axes), self.shapes.is_wide(p)) for p in self.kernels.outputs]
            return Sizes(axes, results)

        return _remembered(self.known_sizes, tuple([tensor.shape for tensor in tensors]), found)

    def lacks_gradient(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether there is no kernel of the gradient for such arguments."""
        first = self.tensor(tensors)
        why = self.kernels.why_no_gradient(self.sizes(tensors).axes, dtype_name(first), _device(first))
        return bool(why)

    def places(self, leading: Shape, sizes: Mapping[str, Any]) -> Places:
        """The shapes of a call at these leading axes and sizes of the operator's axes."""

        def found() -> Places:
            full = self.shapes.with_leading(leading, sizes)
            outside, kernels = self.shapes.outside, self.kernels
            given = [
                (outside(p, leading, sizes), self.shapes.inside(p, full), self.shapes.is_wide(p))
                for p in kernels.inputs
            ]
            return Places(given, [(outside(p, leading, sizes), p.name in kernels.states) for p in kernels.outputs])

        return _remembered(self.known_places, (leading, tuple(sizes.values())), found)

    def results(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Tensors for the results, not filled."""
        return self.empty(self.tensor(tensors), self.sizes(tensors))

    def empty(self, like: torch.Tensor, sizes: Sizes) -> list[torch.Tensor]:
        """Tensors for the results of a call with such arguments, not filled."""
        dtype = like.dtype
        return [like.new_empty(shape, dtype=torch.float32 if wide else dtype) for shape, wide in sizes.results]

    def tensor(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """An argument that is no scalar."""
        return next(x for p, x in zip(self.kernels.inputs, tensors, strict=False) if p.axes)


ENTRIES: dict[str, Entry] = {}
"""By the name that graphs carry."""


def run(tensors: Sequence[torch.Tensor], name: str) -> list[torch.Tensor]:
    """The results of a kernel for ``[batch, heads, ...]`` arguments."""
    entry = ENTRIES[name]
    like, sizes = entry.tensor(tensors), entry.sizes(tensors)
    results = entry.empty(like, sizes)
    given = [_written_out(x) for x in tensors]
    entry.kernels.forward(sizes.axes, dtype_name(like), _device(like), given, results)
    return results


kernel = torch.library.custom_op("dtn::kernel", run, mutates_args=())


@kernel.register_fake
def _(tensors: Sequence[torch.Tensor], name: str) -> list[torch.Tensor]:
    return ENTRIES[name].results(tensors)


@kernel.register_vmap
def _(
    info: Any, places: tuple[Sequence[int | None], None], tensors: Sequence[torch.Tensor], name: str
) -> tuple[list[torch.Tensor], list[int]]:
    """The axis that is mapped over is one more of the batch."""
    results, axes = unfold(kernel(fold(tensors, places[0], info.batch_size), name), info.batch_size)
    return list(results), list(axes)


def fold(tensors: Sequence[torch.Tensor], places: Sequence[int | None], count: int) -> list[torch.Tensor]:
    """Tensors whose batch has the axis of ``count`` that each has at its place, or has none of."""
    flat = []
    for x, place in zip(tensors, places, strict=True):
        first = x.expand(count, *x.shape) if place is None else x.movedim(place, 0)
        flat.append(first.flatten(0, 1))
    return flat


def unfold(results: Sequence[torch.Tensor], count: int) -> tuple[tuple[torch.Tensor, ...], tuple[int, ...]]:
    """Results with the axis of ``count`` that their batch has, and where it is."""
    return tuple(x.unflatten(0, (count, x.shape[0] // count)) for x in results), (0,) * len(results)


def run_gradient(tensors: Sequence[torch.Tensor], cotangents: Sequence[torch.Tensor], name: str) -> list[torch.Tensor]:
    """A cotangent for every argument; those of scalars and masks are 0."""
    entry = ENTRIES[name]
    kernels = entry.kernels
    results = {
        p.name: torch.empty_like(x, memory_format=torch.contiguous_format)
        if p.name in kernels.gradients
        else torch.zeros_like(x, memory_format=torch.contiguous_format)
        for p, x in _named(entry, tensors)
    }
    like = entry.tensor(tensors)
    given = [_written_out(x) for x in (*tensors, *cotangents)]
    wanted = [results[gradient] for gradient in kernels.gradients]
    kernels.backward(entry.sizes(tensors).axes, dtype_name(like), _device(like), given, wanted)
    return list(results.values())


kernel_gradient = torch.library.custom_op("dtn::kernel_gradient", run_gradient, mutates_args=())


@kernel_gradient.register_vmap
def _(
    info: Any,
    places: tuple[Sequence[int | None], Sequence[int | None], None],
    tensors: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    name: str,
) -> tuple[list[torch.Tensor], list[int]]:
    """The axis that is mapped over is one more of the batch."""
    count = info.batch_size
    found = kernel_gradient(fold(tensors, places[0], count), fold(cotangents, places[1], count), name)
    results, axes = unfold(found, count)
    return list(results), list(axes)


@kernel_gradient.register_fake
def _(tensors: Sequence[torch.Tensor], cotangents: Sequence[torch.Tensor], name: str) -> list[torch.Tensor]:
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in tensors]


def _remembered(known: dict[Any, Found], key: tuple[Shape, ...], find: Callable[[], Found]) -> Found:
    """What ``find`` returns for a key, looked for once; always where sizes are symbols."""
    if torch.compiler.is_compiling() or not set(map(type, chain.from_iterable(key))) <= {int}:
        return find()
    found = known.get(key)
    if found is None:
        found = find()
        remember(known, key, found, MAX_REMEMBERED)
    return found


def _named(entry: Entry, tensors: Sequence[torch.Tensor]) -> list[tuple[Param, torch.Tensor]]:
    return list(zip(entry.kernels.inputs, tensors, strict=True))


def _written_out(x: torch.Tensor) -> torch.Tensor:
    """A tensor whose memory is what a kernel reads: a contiguous one may still be negated as it is read."""
    return (x.detach() if x.requires_grad else x).contiguous().resolve_neg()


def _is_recorded(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether a gradient is recorded of what is called with these."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def _is_plain(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether nothing but autograd looks at what is called with these: nothing is traced or transformed."""
    return (
        not torch.compiler.is_compiling()
        and all(type(x) in (torch.Tensor, torch.nn.Parameter) for x in tensors)
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._get_tracing_state() is None
    )


def _has_tangent(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether any is differentiated in forward mode, by ``forward_ad`` or ``torch.func``."""
    if forward_ad._current_level < 0:
        return False
    # below a level of ``torch.func`` there may be one that is not seen from here
    return _is_transformed() or any(forward_ad.unpack_dual(x).tangent is not None for x in tensors)


def _is_transformed() -> bool:
    """Whether ``torch.func`` differentiates or maps what is called, and nothing is traced."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def _is_differentiated_in_a_graph() -> bool:
    """Whether ``torch.func`` differentiates what ``torch.compile`` traces: no operator of a graph has a rule for it."""
    return torch.compiler.is_compiling() and _has_level_of_gradients()


@constant
def _has_level_of_gradients() -> bool:
    levels = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key() == torch._C._functorch.TransformType.Grad for level in levels)


def _device(tensor: torch.Tensor) -> str:
    """The name that kernels are chosen by."""
    if not (tensor.is_cpu or tensor.is_cuda):
        raise ValueError(f"implementation='tvm' has no kernels for {tensor.device}; implementation='native' has")
    return "cpu" if tensor.is_cpu else torch.cuda.get_device_name(tensor.device)


# ---------------------------------------------------------------------------------------------------- derivatives


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors, name = inputs
    ctx.save_for_backward(*tensors)
    ctx.entry = name
    entry = ENTRIES[name]
    ctx.scalars = any(x.requires_grad for p, x in _named(entry, tensors) if entry.shapes.is_scalar(p))


def _backward(ctx: Any, cotangents: Sequence[torch.Tensor]) -> tuple[Any, None]:
    entry, tensors = ENTRIES[ctx.entry], list(ctx.saved_tensors)
    # what ``is_grads_batched`` maps over asks for no rule
    batched = any(map(torch._C._functorch.is_legacy_batchedtensor, cotangents))
    if batched or ctx.scalars or entry.lacks_gradient(tensors):
        return _native_gradient(entry, tensors, cotangents, again=torch.is_grad_enabled()), None
    cotangents = [x.contiguous() for x in cotangents]
    every = (*tensors, *cotangents)
    gradient = run_gradient if _is_plain(every) and not _is_recorded(every) else kernel_gradient
    return gradient(tensors, cotangents, ctx.entry), None


kernel.register_autograd(_backward, setup_context=_remember)


class Recorded(torch.autograd.Function):
    """``kernel`` where nothing is traced: of an operator of Python, autograd costs more than many a kernel."""

    @staticmethod
    def forward(ctx: Any, name: str, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        _remember(ctx, (tensors, name), None)
        return tuple(run(tensors, name))

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[Any, ...]:
        return (None, *_backward(ctx, cotangents)[0])


def _remember_gradient(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors, cotangents, name = inputs
    ctx.save_for_backward(*tensors, *cotangents)
    ctx.entry = name


def _backward_gradient(ctx: Any, second: Sequence[torch.Tensor]) -> tuple[Any, Any, None]:
    entry = ENTRIES[ctx.entry]
    count = len(entry.kernels.inputs)
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        first = _native_gradient(entry, leaves[:count], leaves[count:], again=True)
        found = torch.autograd.grad(first, leaves, list(second), allow_unused=True, materialize_grads=True)
    return list(found[:count]), list(found[count:]), None


kernel_gradient.register_autograd(_backward_gradient, setup_context=_remember_gradient)


def _native_gradient(
    entry: Entry, tensors: Sequence[torch.Tensor], cotangents: Sequence[torch.Tensor], *, again: bool
) -> list[torch.Tensor]:
    """Cotangents by differentiating generated source."""
    if _is_transformed():
        return [x.contiguous() for x in pulled_back(entry, tensors, cotangents)]
    with torch.enable_grad():
        leaves = [x if again and x.requires_grad else x.detach().requires_grad_() for x in tensors]
        pairs = zip(entry.native(*leaves), cotangents, strict=True)
        differentiable = [(y, cotangent) for y, cotangent in pairs if y.requires_grad]  # not what only counts tokens
        found = torch.autograd.grad(
            [y for y, _ in differentiable],
            leaves,
            [cotangent for _, cotangent in differentiable],
            create_graph=again,
            allow_unused=True,
            materialize_grads=True,
        )
    return [x.contiguous() for x in found]


def pulled_back(
    entry: Entry, tensors: Sequence[torch.Tensor], cotangents: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """As :func:`_native_gradient`, by ``torch.func``: any of its levels may differentiate it again."""
    found: tuple[torch.Tensor, ...] = torch.func.vjp(entry.native, *tensors)[1](tuple(cotangents))
    return found


# ---------------------------------------------------------------------------------------------------- calls


def call(name: str, arguments: Sequence[Any], leading: Sequence[Any], sizes: dict[str, Any]) -> list[torch.Tensor]:
    """Call kernels with tensors of any leading axes.

    Parameters
    ----------
    name : str
        In ``ENTRIES``.
    arguments : sequence
        Tensors, and scalars and states that are numbers or tensors, in the kernels' order.
    leading : sequence of int
        The leading axes that they broadcast to.
    sizes : dict
        Of the operator's axes.
    """
    entry = ENTRIES[name]
    places = entry.places(tuple(leading), sizes)
    like = next(x for p, x in zip(entry.kernels.inputs, arguments, strict=True) if p.axes)
    flat = []
    for x, (outside, inside, is_wide) in zip(arguments, places.given, strict=True):
        dtype = torch.float32 if is_wide else like.dtype
        if not isinstance(x, torch.Tensor):
            x = like.new_full((), x, dtype=dtype)
        elif x.dtype is not dtype:
            x = x.to(dtype)
        if x.shape != inside:
            x = x.expand(outside).reshape(inside)
        flat.append(x.contiguous())
    found: Sequence[torch.Tensor]
    if _is_differentiated_in_a_graph() or _has_tangent(flat):  # which a kernel would drop in silence
        found = entry.native(*flat)
    elif _is_transformed():
        from .transforms import Transformed  # loaded by the first that asks

        found = Transformed.apply(name, *flat)
    elif not _is_plain(flat):
        found = kernel(flat, name)
    else:
        found = Recorded.apply(name, *flat) if _is_recorded(flat) else run(flat, name)
    results = []
    for result, (outside, kept) in zip(found, places.results, strict=True):
        if result.shape != outside:
            result = result.reshape(outside)
        results.append(result if kept or result.dtype is like.dtype else result.to(like.dtype))
    return results
