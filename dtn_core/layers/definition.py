"""What a layer is, without a framework."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, TypeAlias

from ..operators import Operator
from .initialise import Initialiser

Array: TypeAlias = Any  # a framework's own tensor
State: TypeAlias = Any  # tensors in tuples and dicts: a pytree in every framework


@dataclass(frozen=True)
class Parameter:
    """A trainable tensor.

    Attributes
    ----------
    axes : tuple of (str, int)
        Name and size of each axis.
    initialiser : callable
        ``initialiser(generator, shape)`` draws its initial value.
    """

    axes: tuple[tuple[str, int], ...]
    initialiser: Initialiser

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(size for _, size in self.axes)

    @property
    def axis_names(self) -> tuple[str, ...]:
        """Names of the axes."""
        return tuple(name for name, _ in self.axes)


@dataclass(frozen=True)
class Call:
    """Something a layer runs: an operator or index notation, and how its tensors lie."""

    source: str | Operator
    layout: str = "... n d"


class Ops(Protocol):
    """What a framework gives to ``forward``; everything else is index notation.

    ``own`` is always the framework's layer that the definition belongs to.
    """

    def call(self, own: Any, name: str, *arrays: Array, **keywords: Any) -> Array:
        """Run the compiled operator ``name`` of the layer."""

    def value(self, own: Any, name: str) -> Array:
        """The parameter ``name`` of the layer, in the type it computes with."""

    def cast(self, x: Array, like: Array) -> Array:
        """``x`` in the type of ``like``."""

    def reshape_last(self, x: Array, count: int, shape: Sequence[int]) -> Array:
        """``x`` with its last ``count`` axes replaced by ``shape``."""

    def constant(self, values: Sequence[float], like: Array) -> Array:
        """A vector of real numbers, as wide as those of ``like`` and at least float32."""

    def step(self, own: Any, name: str, state: State, *tokens: Array, **keywords: Any) -> tuple[Array, State]:
        """One token more of the compiled operator ``name`` of the layer, and the state after it."""

    def take(self, own: Any, name: str, places: Array) -> Array:
        """Rows of the parameter ``name`` of the layer at the integers ``places[...]``."""


class Definition(ABC):
    """Base of every layer's definition: a frozen dataclass whose fields are the hyperparameters."""

    keeps_tokens: ClassVar[bool] = True  # whether a padding mask of the input fits the output
    reads_integers: ClassVar[bool] = False  # whether the input is tokens[..., n] of integers, not x[..., n, embed]

    def parameters(self) -> Mapping[str, Parameter]:
        """The layer's own parameters by name."""
        return {}

    def children(self) -> Mapping[str, Definition | tuple[Definition, ...]]:
        """The layers inside, by attribute name; a tuple becomes the framework's list of layers."""
        return {}

    def calls(self) -> Mapping[str, Call]:
        """What ``forward`` runs, by name; adapters compile it once, when the layer is made."""
        return {}

    @abstractmethod
    def forward(self, ops: Ops, own: Any, x: Array, **tokens: Any) -> Array:
        """The layer's value.

        Parameters
        ----------
        ops : Ops
            The framework.
        own : Any
            The framework's layer: children are its attributes, and callable.
        x : Array
            Input.
        **tokens : Any
            What is said of the tokens, as operators take it, and where it is given only: ``padding_mask[..., n]``,
            true for a real token; ``cu_seqlens[N + 1]``, where each of N packed sequences starts and the last ends.
            A layer of single tokens needs none of it, every other hands on all of it.
        """

    def resume(self, ops: Ops, own: Any, x: Array, state: State) -> tuple[Array, State]:
        """The value of tokens that follow others, and the state after them.

        Parameters
        ----------
        ops, own
            As in :meth:`forward`.
        x : Array
            Input, the next tokens alone.
        state : State
            What was returned for the tokens before; None if there are none.

        Raises
        ------
        ValueError
            If the layer needs the whole sequence at once; says why.
        """
        raise ValueError(f"{type(self).__name__} cannot stream: {self.why_not()}")

    def step(self, ops: Ops, own: Any, x: Array, state: State) -> tuple[Array, State]:
        """The value of one token more, which has no axis of tokens, and the state after it; else as :meth:`resume`."""
        y, state = own.resume(x[..., None] if self.reads_integers else x[..., None, :], state)
        return y[..., 0, :], state

    def why_not(self) -> str:
        """Why the layer cannot stream."""
        return "it is not a layer that maps tokens to tokens, one after the other"

    def config(self) -> dict[str, Any]:
        """The hyperparameters as plain values: ``type(self)(**self.config()) == self``."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Dot-separated path and parameter of everything trainable in the layer and below it."""
        for name, parameter in self.parameters().items():
            yield prefix + name, parameter
        for name, child in self.children().items():
            if isinstance(child, Definition):
                yield from child.named_parameters(f"{prefix}{name}.")
            else:
                for number, item in enumerate(child):
                    yield from item.named_parameters(f"{prefix}{name}.{number}.")
