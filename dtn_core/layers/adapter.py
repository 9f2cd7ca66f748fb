"""What the three frameworks' adapters share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache, reduce
from typing import Any, ClassVar

from .definition import Definition
from .initialise import Seed


class _ConstructorSignature:
    """What ``inspect.signature`` and ``help`` show of a native layer's class, and of the class only.

    Found on an instance it would be taken for the signature of calling the layer, by ``tf.function`` for one.
    """

    def __get__(self, instance: object, owner: type[Adapter]) -> inspect.Signature:
        if instance is not None or "definition_type" not in owner.__dict__:
            raise AttributeError("__signature__")
        return signature(owner.definition_type, owner.keywords)


class Adapter:
    """Mixin of the adapters' base classes: knows which native class stands for which definition.

    A framework's base class sets ``natives = {}`` and ``keywords`` (its own constructor keywords and their
    defaults); each of its layers sets ``definition_type`` and is entered into ``natives``.
    """

    definition_type: ClassVar[type[Definition]]
    natives: ClassVar[dict[type[Definition], type[Any]]]
    keywords: ClassVar[dict[str, Any]]
    definition: Definition
    __signature__ = _ConstructorSignature()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "definition_type" in cls.__dict__:
            cls.natives[cls.definition_type] = cls

    def make_children(self, seed: Seed, listed: Callable[[list[Any]], Any], **keywords: Any) -> None:
        """Set the definition's children as attributes; ``listed`` makes the framework's list of layers."""

        def native(child: Definition, *path: str | int) -> Any:
            return self.natives[type(child)](**child.config(), seed=seed.child(*path), **keywords)

        for name, child in self.definition.children().items():
            if isinstance(child, Definition):
                setattr(self, name, native(child, name))
            else:
                setattr(self, name, listed([native(item, name, number) for number, item in enumerate(child)]))


@lru_cache(maxsize=4096)
def compiled(definition: Definition, compiler: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """What the layer runs, by name, compiled by a backend's ``compile``; do not modify the result."""
    return {name: compiler(call.source, layout=call.layout) for name, call in definition.calls().items()}


def signature(definition_type: type[Definition], keywords: dict[str, Any]) -> inspect.Signature:
    """Constructor signature of a native layer: hyperparameters, ``seed``, and the framework's ``keywords``.

    Examples
    --------
    >>> from dtn_core.layers import TensorInteraction
    >>> list(signature(TensorInteraction, {"dtype": None}).parameters)[:2]
    ['embed_dim', 'num_heads']
    """
    own = inspect.signature(definition_type).parameters.values()
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in {"seed": None, **keywords}.items()
    ]
    return inspect.Signature([*own, *extra])


def given(**tokens: Any) -> dict[str, Any]:
    """What a definition's ``forward`` is told of the tokens: what is not None.

    Examples
    --------
    >>> given(padding_mask=None, cu_seqlens=[0, 3, 5])
    {'cu_seqlens': [0, 3, 5]}
    """
    return {name: value for name, value in tokens.items() if value is not None}


def parameter_of(layer: Any, path: str) -> Any:
    """The native parameter of ``layer`` at a dot-separated path such as ``blocks.0.mlp.output_bias``."""

    def step(at: Any, part: str) -> Any:
        return at[int(part)] if part.isdigit() else getattr(at, part)

    return reduce(step, path.split("."), layer)
