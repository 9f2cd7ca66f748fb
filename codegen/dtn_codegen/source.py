"""Operators to source text, and the frameworks there are tables for."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import Program
from dtn_core.operators import Operator, as_operator
from dtn_core.passes.pipeline import candidates, lower

from .python import emit_program
from .streaming import emit_chunked
from .target import Target

GROUP = "dtn.backends"


def targets() -> dict[str, Target]:
    """The installed backends' tables by name, found through the entry points ``dtn.backends``.

    Examples
    --------
    >>> {"jax", "numpy", "tensorflow", "torch"} <= set(targets())
    True
    """
    return _installed()[0]


def broken_targets() -> dict[str, str]:
    """The installed backends whose tables cannot be loaded, by name, and why.

    Examples
    --------
    >>> broken_targets().get("numpy", "it works")
    'it works'
    """
    return _installed()[1]


@lru_cache(maxsize=1)
def _installed() -> tuple[dict[str, Target], dict[str, str]]:
    found, broken = {}, {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            table = entry.load()
        except Exception as error:  # noqa: BLE001 - another's package: whatever it raises, the others work
            broken[entry.name] = f"entry point {entry.value}: {type(error).__name__}: {error}"
            continue
        if isinstance(table, Target):
            found[entry.name] = table
        else:
            broken[entry.name] = f"entry point {entry.value} is not a dtn_codegen Target"
    return found, broken


def target(name: str) -> Target:
    """The table of backend ``name``.

    Raises
    ------
    ValueError
        If there is none; lists those there are.
    CompileError
        If it cannot be loaded.

    Examples
    --------
    >>> target("numpy").package
    'dtn_numpy'
    """
    known, broken = _installed()
    if name in broken:
        raise CompileError(f"backend {name}: {broken[name]}")
    if name not in known:
        raise ValueError(f"unknown backend {name!r}; known: {', '.join(known) or 'none, is the package installed?'}")
    return known[name]


def emit(
    operator: Operator | Program | str,
    backend: str,
    *,
    complex: bool = False,
    layout: str = "... n d",
    sizes: dict[str, int] | None = None,
) -> str:
    """Source text of an operator for one backend; it needs nothing but the framework.

    Parameters
    ----------
    operator : Operator, Program or str
        A catalogue operator, IR or index notation.
    backend : str
        ``"numpy"``, ``"torch"``, ``"jax"``, ``"tensorflow"`` or another installed one.
    complex : bool
        For complex arguments.
    layout : {"... n d", "... n h d"}
        Where the head axis is.
    sizes : dict, optional
        Axis sizes to optimise for, where no token is ordered before another (default: long sequences).

    Returns
    -------
    str
        A Python module, whose last function is the operator.

    Raises
    ------
    NotationError
        For index notation that cannot be read.
    ValueError
        For an unknown backend or layout.
    CompileError
        If the backend cannot be loaded.

    Examples
    --------
    >>> print(emit("total(x[n]) -> s: s = x[i]", "numpy").splitlines()[-1].strip())
    return s.astype(dtype, copy=False)
    """
    operator = as_operator(operator)
    form = candidates(operator.program, complex, target(backend).costs)[0]
    if form.chunked is not None:
        return emit_chunked(target(backend), form, scalars=operator.scalars, layout=layout)
    lowered = lower(operator.program, sizes, complex_input=complex)
    return emit_program(
        target(backend),
        operator.program,
        lowered.program,
        scalars=operator.scalars,
        layout=layout,
        complex_input=complex,
    )
