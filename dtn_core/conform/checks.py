"""The checks: each calls an operator in one form and mode, and holds what comes back to the policy of bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir.axes import sequence_axes
from ..ir.nodes import Param
from .adapter import Adapter, Array, Computed, Native
from .bounds import FACTORS, SECOND, Errors, Verdict, errors, judge
from .dense import rounded
from .inputs import Inputs, broadcasting, ill_scaled, well_scaled
from .operators import Case
from .reference import Reference, Values, has_matrix_function, sensitivity, yardsticks
from .sizes import place, tokens
from .structure import decays, has_heads

LEADING = (2,)
BROADCAST = ((3, 1), (2,), ())
HEADS = 2
PLAIN, HEADS_AFTER = "... n d", "... n h d"

Expected = tuple[Values, list[Errors]]


@dataclass
class Evaluation:
    """One operator in one backend and dtype; remembers what all its forms and modes are held to.

    Parameters
    ----------
    adapter : Adapter
        The backend.
    case : Case
        The operator.
    dtype : str
        Of the arrays.
    """

    adapter: Adapter
    case: Case
    dtype: str
    left_out: list[str] = field(default_factory=list)
    _known: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reference = Reference(self.case)
        self.program = self.case.operator.program
        self.axis = next(iter(sequence_axes(self.program)), "")

    # ------------------------------------------------------------- expectations

    def remembered(self, key: Any, make: Callable[[], Any]) -> Any:
        """``make()``, once a key."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def well(self, count: int, leading: tuple[int, ...] = LEADING) -> Inputs:
        """The well scaled inputs of a sequence of ``count`` tokens."""
        made: Inputs = self.remembered(
            ("well", count, leading),
            lambda: well_scaled(self.case, self.dtype, self.reference.value, count, leading),
        )
        return made

    def ill(self, count: int) -> tuple[list[Inputs], list[str]]:
        """The ill scaled inputs that are used, and the labels of those that are not."""
        made: tuple[list[Inputs], list[str]] = self.remembered(
            ("ill", count), lambda: ill_scaled(self.reference, self.dtype, self.well(count), count)
        )
        return made

    def value(self, drawn: Inputs) -> Expected:
        """The outputs at an input, and the yardstick's errors."""
        key = ("value", drawn.label, drawn.tensors[0].shape)
        found: Expected = self.remembered(key, lambda: self.expected(drawn.tensors))
        return found

    def expected(self, tensors: Sequence[np.ndarray]) -> Expected:
        """The outputs at tensors, and the yardstick's errors."""
        dense = lambda dtype: self.reference.dense_values(tensors, self.einsum(dtype), dtype)  # noqa: E731
        return self.measured(self.reference.value, dense, tensors)

    def measured(
        self, oracle: Callable[..., Values], dense: Callable[[str], Iterable[Values]], tensors: Sequence[np.ndarray]
    ) -> Expected:
        """The oracle's value and the errors of plain dense evaluations, in float32 where 16 bits overflow."""
        expected = oracle(*tensors)
        found = yardsticks(dense(self.dtype), expected)
        if self.dtype in ("float16", "bfloat16") and not all(np.isfinite(each.largest) for each in found):
            found = yardsticks(dense("float32"), expected)
        if self.dtype in ("float64", "complex128"):  # here the oracle's own rounding is as large
            own = sensitivity(oracle, expected, tensors, normwise=has_matrix_function(self.program))
            found = [Errors(max(a.largest, b.largest), max(a.rms, b.rms)) for a, b in zip(found, own, strict=True)]
        return expected, found

    def einsum(self, dtype: str) -> Callable[[str, Sequence[np.ndarray]], np.ndarray]:
        """The framework's einsum in a dtype, NumPy in and out."""

        def run(spec: str, arrays: Sequence[np.ndarray]) -> np.ndarray:
            kind = dtype
            if not dtype.startswith("complex") and any(x.dtype.kind == "c" for x in arrays):
                kind = {"float64": "complex128"}.get(dtype, "complex64")
            return self.adapter.numpy(self.adapter.einsum(spec, *(self.adapter.array(x, kind) for x in arrays)))

        return run

    def weights(self, expected: Values) -> list[np.ndarray]:
        """What the outputs are weighted by in a gradient."""
        rng = np.random.default_rng(5)
        made = []
        for y in expected:
            c = rng.normal(size=y.shape)
            made.append(rounded(c + 1j * rng.normal(size=y.shape) if y.dtype.kind == "c" else c, self.dtype))
        return made

    # ------------------------------------------------------------------- calls

    def natives(self, tensors: Sequence[np.ndarray]) -> list[Array]:
        """Arrays of the framework in this dtype."""
        return [self.adapter.array(x, self.dtype) for x in tensors]

    def numpy(self, results: Sequence[Array]) -> Values:
        """Arrays of NumPy in double precision."""
        made = (self.adapter.numpy(x) for x in results)
        return tuple(x.astype(np.complex128 if x.dtype.kind == "c" else np.float64) for x in made)

    def run(self, mode: str, function: Native, arrays: Sequence[Array]) -> Native:
        """``function`` in a mode."""
        return function if mode == "eager" else self.adapter.transform(mode, function, arrays)

    def tokens(self, form: str) -> int:
        """How long sequences are in a form."""
        return tokens(form, self.adapter.chunk)

    def tokens_of(self, x: np.ndarray, axes: tuple[str, ...], which: Any) -> np.ndarray:
        """The tokens ``which`` of a tensor over ``axes``."""
        return np.asarray(x[place(axes, self.axis, which)]) if self.axis in axes else x

    def factor(self, what: str) -> float:
        """The factor of the policy for a result of this operator."""
        names = [what, "matrix exponential"] if has_matrix_function(self.program) else [what]
        return max(FACTORS[name] for name in names)

    def verdicts(
        self, got: Values, expected: Values, allowed: Sequence[Errors], what: str = "value"
    ) -> Iterator[Verdict]:
        """One for each output."""
        for a, b, each in zip(got, expected, allowed, strict=True):
            yield judge(a, b, each, self.dtype, self.factor(what))


Check = Callable[[Evaluation, Computed, str, str], Iterator[Verdict]]


def check_value(e: Evaluation, call: Computed, form: str, mode: str) -> Iterator[Verdict]:
    """Well scaled inputs, and where nothing is compiled ill scaled ones."""
    count = e.tokens(form)
    drawn = [e.well(count)]
    if mode == "eager":
        kept, e.left_out = e.ill(count)
        drawn += kept
    run: Native | None = None
    for each in drawn:
        arrays = e.natives(each.tensors)
        run = run or e.run(mode, call, arrays)
        what = "state at ill scaled inputs" if each is not drawn[0] and form != "dense" else "value"
        yield from e.verdicts(e.numpy(run(*arrays)), *e.value(each), what)


def check_gradient(e: Evaluation, call: Computed, form: str, mode: str) -> Iterator[Verdict]:
    """By every tensor."""
    drawn = e.well(e.tokens(form))
    weights = e.weights(e.value(drawn)[0])

    def make() -> Expected:
        e.reference.check_rules(drawn.tensors, weights)
        dense = lambda d: e.reference.dense_gradients(drawn.tensors, weights, e.einsum(d), d)  # noqa: E731
        return e.measured(lambda *t: e.reference.gradient(t, weights), dense, drawn.tensors)

    expected: Expected = e.remembered(("gradient", e.tokens(form)), make)
    arrays = e.natives(drawn.tensors)
    run = e.adapter.gradient(mode, call, weights, arrays)
    yield from e.verdicts(e.numpy(run(*arrays)), *expected, "gradient")


def check_second(e: Evaluation, call: Computed, form: str, mode: str) -> Iterator[Verdict]:
    """The Hessian times a direction, against differences."""
    drawn = e.well(e.tokens(form))
    weights = e.weights(e.value(drawn)[0])
    rng = np.random.default_rng(6)
    directions = [rng.normal(size=x.shape) for x in drawn.tensors]
    expected: Values = e.remembered(
        ("second", e.tokens(form)), lambda: e.reference.second(drawn.tensors, weights, directions)
    )
    arrays = e.natives(drawn.tensors)
    got = e.numpy(e.adapter.second(mode, call, weights, directions, arrays)(*arrays))
    top = max(float(np.max(np.abs(x), initial=0.0)) for x in expected) or 1.0
    for a, b in zip(got, expected, strict=True):  # of one that vanishes, differences leave rounding
        scale = float(np.max(np.abs(b), initial=0.0)) or 1.0
        yield Verdict(errors(a, b).largest * scale, SECOND * top, "largest")


def check_resume(e: Evaluation, call: Computed, form: str, mode: str) -> Iterator[Verdict]:
    """Two pieces are the whole; also where the second begins inside a chunk."""
    count = e.tokens(form)
    drawn = e.well(count)
    arrays = e.natives(drawn.tensors)
    for at in (1, count // 2):
        run = e.run(mode, lambda *t, at=at: call.resumed(t, at), arrays)
        yield from e.verdicts(e.numpy(run(*arrays)), *e.value(drawn))


def check_causality(e: Evaluation, call: Computed, form: str, mode: str) -> Iterator[Verdict]:
    """Other tokens after the first few leave the results of those as they were, and as they should be."""
    count = e.tokens(form)
    drawn = e.well(count)
    seen, later = slice(0, count // 2), slice(count // 2, None)
    changed = [np.array(x) for x in drawn.tensors]
    for x, param in zip(changed, e.program.tensors, strict=True):
        if e.axis in param.axes:
            part = place(param.axes, e.axis, later)
            x[part] = rounded(-3 * x[part] + 1, e.dtype)
    arrays = e.natives(changed)
    got = e.numpy(e.run(mode, call, arrays)(*arrays))
    expected, allowed = e.value(drawn)
    for a, b, each, output in zip(got, expected, allowed, e.program.outputs, strict=True):
        one, other = (e.tokens_of(x, output.axes, seen) for x in (a, b))
        yield judge(one, other, each, e.dtype, e.factor("value"))


def check_padding(e: Evaluation, call: Computed, form: str, mode: str) -> Iterator[Verdict]:
    """As the oracle without the padded tokens, whatever those hold, and exactly 0 at them; so are its gradients."""
    count = e.tokens(form)
    drawn = e.well(count)
    keep = np.arange(count) < count - 3
    if not decays(e.program):  # a decay counts places, so tokens in the middle matter to it
        keep[[0, count // 2]] = False
    tensors = [np.array(x) for x in drawn.tensors]
    for x, param in zip(tensors, e.program.tensors, strict=True):
        if e.axis in param.axes:
            x[place(param.axes, e.axis, ~keep)] = np.nan
    mask = e.adapter.array(np.broadcast_to(keep, (*LEADING, count)))
    arrays = [*e.natives(tensors), mask]
    got = e.numpy(e.run(mode, lambda *t: call(*t[:-1], padding_mask=t[-1]), arrays)(*arrays))
    real = [e.tokens_of(x, p.axes, keep) for x, p in zip(drawn.tensors, e.program.tensors, strict=True)]
    expected, allowed = e.expected(real)
    yield from kept(e, keep, got, expected, allowed, e.program.outputs, "value")
    if "gradient" not in e.adapter.lacks and mode == "eager":
        weights = e.weights(expected)
        dense = lambda d: e.reference.dense_gradients(real, weights, e.einsum(d), d)  # noqa: E731
        expected, allowed = e.measured(lambda *t: e.reference.gradient(t, weights), dense, real)
        padded = [filled(e, keep, w, p.axes) for w, p in zip(weights, e.program.outputs, strict=True)]
        gradient = e.adapter.gradient(mode, lambda *t: call(*t, padding_mask=mask), padded, arrays[:-1])
        found = e.numpy(gradient(*arrays[:-1]))
        yield from kept(e, keep, found, expected, allowed, e.program.tensors, "gradient")


def kept(
    e: Evaluation,
    keep: np.ndarray,
    got: Values,
    expected: Values,
    allowed: Sequence[Errors],
    params: Sequence[Param],
    what: str,
) -> Iterator[Verdict]:
    """The tokens that are kept as expected, the others 0."""
    for a, b, each, param in zip(got, expected, allowed, params, strict=True):
        yield judge(e.tokens_of(a, param.axes, keep), b, each, e.dtype, e.factor(what))
        if e.axis in param.axes:
            yield Verdict(float(np.max(np.abs(e.tokens_of(a, param.axes, ~keep)))), 0.0, "largest")


def filled(e: Evaluation, keep: np.ndarray, x: np.ndarray, axes: tuple[str, ...]) -> np.ndarray:
    """``x``, which has the tokens that are kept, among ones."""
    if e.axis not in axes:
        return x
    shape = list(x.shape)
    shape[axes.index(e.axis) - len(axes)] = len(keep)
    full = np.ones(shape, x.dtype)
    full[place(axes, e.axis, keep)] = x
    return full


def check_batching(e: Evaluation, call: Computed, form: str, mode: str) -> Iterator[Verdict]:
    """Leading axes that differ from tensor to tensor."""
    drawn = broadcasting(e.well(e.tokens(form), ()), e.dtype, BROADCAST)
    arrays = e.natives(drawn.tensors)
    got = e.numpy(e.run(mode, call, arrays)(*arrays))
    yield from e.verdicts(got, *e.value(drawn))


def check_layout(e: Evaluation, call: Computed, form: str, mode: str) -> Iterator[Verdict]:
    """Heads after tokens, compared with the oracle's heads before tokens."""
    drawn = e.well(e.tokens(form), (2, HEADS))
    moved = []
    for x, param in zip(drawn.tensors, e.program.tensors, strict=True):
        if has_heads(e.program, param.axes):
            moved.append(x.swapaxes(-2, -3))
        else:  # a leading axis of its own for the heads would be read as a batch's
            moved.append(x if param.axes[0] == e.axis else x[0, 0])
    full = [x if m.ndim > len(p.axes) else m for x, m, p in zip(drawn.tensors, moved, e.program.tensors, strict=True)]
    expected, allowed = e.expected(full)
    arrays = e.natives(moved)
    got = e.numpy(e.run(mode, call, arrays)(*arrays))
    for a, b, each, output in zip(got, expected, allowed, e.program.outputs, strict=True):
        yield judge(a.swapaxes(-2, -3) if has_heads(e.program, output.axes) else a, b, each, e.dtype, e.factor("value"))


def check_zero(e: Evaluation, call: Computed, form: str, mode: str) -> Iterator[Verdict]:
    """All tensors 0: the oracle's value, and finite gradients where there are any."""
    tensors = [np.zeros_like(x) for x in e.well(e.tokens(form)).tensors]
    expected = e.reference.value(*tensors)
    arrays = e.natives(tensors)
    got = e.numpy(e.run(mode, call, arrays)(*arrays))
    yield from e.verdicts(got, expected, [Errors(0.0, 0.0)] * len(expected))
    if "gradient" not in e.adapter.lacks and mode == "eager":
        for x in e.numpy(e.adapter.gradient(mode, call, e.weights(expected), arrays)(*arrays)):
            yield Verdict(0.0 if np.all(np.isfinite(x)) else np.inf, 0.0, "largest")


CHECKS: dict[str, Check] = {
    "value": check_value,
    "gradient": check_gradient,
    "second gradient": check_second,
    "split-resume": check_resume,
    "causality": check_causality,
    "padding": check_padding,
    "batching": check_batching,
    "layout": check_layout,
    "zero input": check_zero,
}


def layout_of(check: str) -> str:
    """The layout that a check compiles for."""
    return HEADS_AFTER if check == "layout" else PLAIN
