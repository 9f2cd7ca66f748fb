"""The operators of the matrix: knobs of the catalogue in every pair of values, and some that a user might write."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ..operators import Operator, as_operator, catalogue, load
from ..operators.catalogue import Entry
from ..operators.knobs import CHOICES

LEVELS: dict[str, tuple[Any, ...]] = {
    **CHOICES,
    "order": (2, 1, 3, 4),
    "asymmetric": (False, True),
    "scale": (1.0, 0.7),
    "residual": (0.0, 0.5),
    "decay": (None, 0.9),
    "eps": (0.0, 0.1),
}
"""The values of every knob that are combined."""

WRITTEN = (
    "projection(x[n,d], w[d,e]) -> y[n,e]: y[i,c] = x[i,a] * w[a,c]",
    "centred(x[n,d]) -> y[n,d]: m[a] = x[i,a] / n; y[i,a] = x[i,a] - m[a]",
    """softmax(q[n,d], v[n,e]) -> o[n,e]:
    S[i,j] = q[i,a] * q[j,a]; E[i,j] = exp(S[i,j]); r[i] = E[i,j]; o[i,c] = E[i,j] * v[j,c] / r[i]""",
    """gated(q[n,d], k[n,d], v[n,e], g[n]) -> o[n,e]:
    T[i,j] = q[i,a] * conj(k[j,a]); s[j] = sigmoid(g[j]); o[i,c] = T[i,j] * s[j] * v[j,c]""",
    "forgetting(k[n,d], v[n,e], g) -> o[n,e]: o[t,c] = k[t,a] * k[j,a] * v[j,c] where j <= t decay g",
    "moments(x[n,d]) -> y[n,d], s[d]: s[a] = x[i,a] * conj(x[i,a]); y[i,a] = x[i,a] * s[a]",
    "repeated(x[n,d]) -> y[n,d]: y[t,c] = x[t,a] * x[i,a] * x[i,b] * x[j,b] * x[j,c] where j <= i <= t",
    """past(q[n,d], k[n,d], v[n,e], g) -> o[n,e]:
    o[t,c] = q[t,a] * conj(k[i,a]) * k[i,b] * conj(q[j,b]) * v[j,c] where j <= i < t decay g""",
    """mixer(x[n,d], w[d,e], u[e,d]) -> y[n,d]:
    h[i,c] = x[i,a] * w[a,c]; g[i,c] = gelu(h[i,c]); y[i,b] = x[i,b] + g[i,c] * u[c,b]""",
)
"""Index notation of its own: weights, the size of an axis, functions, scalars, two outputs, repeated operands."""

SCALARS = {"g": 0.9}


@dataclass(frozen=True)
class Case:
    """An operator of the matrix.

    Attributes
    ----------
    text : str
        What ``dtn conform --ops`` takes: a name of the catalogue with the knobs that differ from their defaults.
    operator : Operator
        The definition, scalars bound.
    knobs : Mapping[str, Any]
        The knobs in ``text``.
    """

    text: str
    operator: Operator
    knobs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The operator's name."""
        return self.operator.name


@lru_cache(maxsize=1)
def cases() -> tuple[Case, ...]:
    """Every operator of the full matrix."""
    found: dict[str, Case] = {}
    for entry in catalogue.values():
        combinations = covering(entry)
        if entry.knobs:  # those that stream, in every pair too: most pairs above have a function of an n×n matrix
            combinations += covering(entry, {"mask": "causal", "activation": None})
        for knobs in combinations:
            made = Case(shown(entry.name, knobs), entry.build(**knobs), knobs)
            found[made.text] = made
    return (*found.values(), *map(written, WRITTEN))


def written(definition: str) -> Case:
    """A case of index notation; its scalars get the values of ``SCALARS``."""
    operator = as_operator(definition)
    values = {param.name: SCALARS.get(param.name, 0.7) for param in operator.program.scalars}
    return Case(operator.name, Operator(operator.program, {**values, **operator.scalars}), {})


def case(text: str) -> Case:
    """The case that ``text`` names: one of the matrix, an operator of the catalogue with knobs, or a file of notation.

    Raises
    ------
    ValueError
        As :func:`dtn_core.operators.load`.
    """
    known = {each.text: each for each in cases()}
    if text in known:
        return known[text]
    made = load(text)
    if made.knobs:
        entry = catalogue[made.name]
        knobs = {name: made.knobs[name] for name in entry.knobs if made.knobs[name] != entry.knobs[name].default}
        return Case(shown(made.name, knobs), made, knobs)
    values = {param.name: SCALARS.get(param.name, 0.7) for param in made.program.scalars}
    return Case(text, Operator(made.program, values), {})


def shown(name: str, knobs: Mapping[str, Any]) -> str:
    """``tensor_attention:order=3,mask=causal``."""
    return name + (":" if knobs else "") + ",".join(f"{knob}={value}" for knob, value in knobs.items())


def covering(entry: Entry, fixed: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Knobs of an operator such that every pair of values that do not clash is in one of them.

    The combination that covers most pairs still missing is taken each time, the first of several; the defaults are
    always the first.

    Parameters
    ----------
    entry : Entry
        An operator of the catalogue; its own check decides which values clash.
    fixed : Mapping, optional
        Knobs that have one value in all of them.

    Returns
    -------
    list of dict
        The knobs that differ from their defaults.

    Examples
    --------
    >>> from dtn_core.operators import catalogue
    >>> covering(catalogue["ahla"])
    [{}]
    """
    names, fixed = list(entry.knobs), fixed or {}
    levels = {name: (fixed[name],) if name in fixed else LEVELS[name] for name in names}
    place = {pair: bit for bit, pair in enumerate((name, value) for name in names for value in levels[name])}
    count = len(place)
    pairs: list[tuple[int, dict[str, Any]]] = []
    for values in itertools.product(*levels.values()):
        knobs = dict(zip(names, values, strict=True))
        try:
            entry.check(knobs)
        except ValueError:
            continue
        bits = [place[name, value] for name, value in knobs.items()]
        pairs.append((sum(1 << (a * count + b) for a, b in itertools.combinations(bits, 2)), knobs))
    missing = 0
    for covered, _ in pairs:
        missing |= covered
    chosen = [pairs[0][1]]
    missing &= ~pairs[0][0]
    while missing:
        covered, knobs = max(pairs, key=lambda pair: (pair[0] & missing).bit_count())
        chosen.append(knobs)
        missing &= ~covered
    return [{k: v for k, v in knobs.items() if v != entry.knobs[k].default} for knobs in chosen]
