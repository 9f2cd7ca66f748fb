"""Names of an operator in generated source, kept apart from those that the source itself uses."""

from __future__ import annotations

import builtins
import keyword

RESERVED = frozenset(
    {"np", "torch", "jax", "jnp", "tf", "math", *dir(builtins), *keyword.kwlist}
    | {"batch", "chunk_size", "chunks", "constants", "d_results", "d_states", "dtype"}
    | {"initial_state", "return_state", "size", "states", "tokens", "walk", "wide"}
)
"""Names that generated functions use beside those of the operator; those that begin with _ or so are theirs too."""
FALLOFF = "falloff"
"""What names of powers of a decay begin with."""


def python_name(name: str) -> str:
    """The name in generated source of what the operator calls ``name``, another for each.

    Examples
    --------
    >>> python_name("q"), python_name("np"), python_name("np_"), python_name("_lift")
    ('q', 'np_', 'np__', '_lift_')
    """
    return f"{name}_" if name.startswith(("_", FALLOFF)) or name.rstrip("_") in RESERVED else name
