"""What runs, why, and what it costs: the text behind ``dtn explain`` and ``f.explain``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .cost import Polynomial, flops, live_elements, peak_elements, traffic
from .ir.axes import sequence_axes
from .ir.nodes import Apply, MatrixFunction, Program, Statement
from .operators import Operator
from .passes.pipeline import COSTS, Costs, Lowered, assumed_sizes, candidates, choose
from .printer import print_statement

ITEM_SIZE = {"float16": 4, "bfloat16": 4, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16}
"""Bytes of the dtype computed in: 16-bit input is widened to float32."""


@dataclass(frozen=True)
class Step:
    """One statement as it is executed.

    Attributes
    ----------
    text, rule : str
        The statement, and the pass that produced it.
    flops, bytes, live : Polynomial
        Floating-point operations, bytes read and written, bytes held by computed tensors meanwhile.
    """

    text: str
    rule: str
    flops: Polynomial
    bytes: Polynomial
    live: Polynomial


@dataclass(frozen=True)
class Explanation:
    """The steps of the chosen form in execution order, with closed-form costs a batch entry and head.

    ``str`` of it, and what a prompt shows, is the report that ``dtn explain`` prints.

    Attributes
    ----------
    operator, backend, dtype : str
        What was explained, for which framework and dtype of the arguments.
    sizes : Mapping[str, int]
        The axis sizes the form was chosen for.
    steps : tuple[Step, ...]
        In execution order.
    peak : Polynomial
        Peak bytes of computed tensors, results included, arguments not.
    certificate : str
        Whether an intermediate has two sequence axes, and if so why.
    linear : bool
        True when none has.
    form : str
        Whole sequence at once, or chunk by chunk with which states.
    implementation : str
        ``"native"``, or whose kernels run.

    Examples
    --------
    >>> from dtn_core.operators import as_operator
    >>> explain(as_operator("gram(x[n,d]) -> g[d,d]:  g[a,b] = x[i,a] * x[i,b]"), {"n": 1000, "d": 8})
    gram: native numpy, float32, n=1000, d=8
    costs are per batch entry and head; memory is of computed tensors, the result included
    <BLANKLINE>
    step                      rule        flops     bytes
    -------------------------------------------------------------
    g[a,b] = x[i,a] * x[i,b]  as written  2*d**2*n  4*d*(d + 2*n)
    <BLANKLINE>
    flops        2*d**2*n = 128,000
    bytes moved  4*d*(d + 2*n) = 62.75 KiB
    peak memory  4*d**2 bytes = 256 B
    form         the whole sequence at once
    certificate  no intermediate has two sequence axes
    """

    operator: str
    backend: str
    dtype: str
    sizes: Mapping[str, int]
    steps: tuple[Step, ...]
    peak: Polynomial
    certificate: str
    linear: bool
    form: str
    implementation: str = "native"

    @property
    def flops(self) -> Polynomial:
        """Total floating-point operations."""
        return sum((step.flops for step in self.steps), Polynomial())

    @property
    def bytes(self) -> Polynomial:
        """Total bytes read and written."""
        return sum((step.bytes for step in self.steps), Polynomial())

    def __str__(self) -> str:
        sizes = ", ".join(f"{axis}={size}" for axis, size in self.sizes.items())
        rows = [("step", "rule", "flops", "bytes")]
        rows += [(step.text, step.rule, str(step.flops), str(step.bytes)) for step in self.steps]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        table = [
            " ".join(cell.ljust(width + 1) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        table.insert(1, "-" * max(map(len, table)))
        return "\n".join(
            [
                f"{self.operator}: {self.implementation} {self.backend}, {self.dtype}, {sizes}",
                "costs are per batch entry and head; memory is of computed tensors, the result included",
                "",
                *table,
                "",
                f"flops        {self.flops} = {self.flops.at(self.sizes):,}",
                f"bytes moved  {self.bytes} = {_bytes(self.bytes.at(self.sizes))}",
                f"peak memory  {self.peak} bytes = {_bytes(self.peak.at(self.sizes))}",
                f"form         {self.form}",
                f"certificate  {self.certificate}",
            ]
        )

    __repr__ = __str__  # at a prompt, the report


def explain(
    operator: Operator,
    sizes: Mapping[str, int] | None = None,
    dtype: str = "float32",
    backend: str = "numpy",
    long: bool = False,
    costs: Costs = COSTS,
) -> Explanation:
    """Explain how an operator is computed.

    Parameters
    ----------
    operator : Operator
        The definition.
    sizes : Mapping[str, int], optional
        Axis sizes; those not given are assumed (sequences long, features 64).
    dtype : str
        Dtype of the arguments.
    backend : str
        Named in the heading.
    long : bool
        Explain the form for long sequences, whatever the sizes; kernels have no other.
    costs : Costs
        What chunks cost that backend.

    Returns
    -------
    Explanation
        Its text is the report.

    Raises
    ------
    ValueError
        For an axis that the operator does not have, a size that is not a natural number, or an unknown dtype.

    Examples
    --------
    >>> from dtn_core.operators import tensor_attention
    >>> explain(tensor_attention(), {"n": 4096, "d": 64, "e": 64}).certificate
    'no intermediate has two sequence axes'
    """
    program = operator.program
    for axis, size in (sizes or {}).items():
        if axis not in program.axes:
            raise ValueError(f"{program.name} has no axis {axis!r}; its axes are {', '.join(program.axes)}")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ValueError(f"axis {axis}: size {size!r} is not a natural number")
    if dtype not in ITEM_SIZE:
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(ITEM_SIZE)}")
    full = assumed_sizes(program, sizes)
    forms = candidates(program, dtype.startswith("complex"), costs)
    form = forms[0] if long else choose(forms, full)
    item = ITEM_SIZE[dtype]
    if form.chunked is None:
        steps = _steps(form, form.program, item, None)
        peak = peak_elements(form.program, full)
    else:
        chunked = form.chunked
        full = {**full, **chunked.walk(full)}
        updates = replace(chunked.chunk, statements=tuple(state.update for state in chunked.stream.states))
        chunks = chunked.stream.axis, chunked.axes[0]
        parts = [(chunked.before, None), (chunked.chunk, chunks), (updates, chunks), (chunked.after, None)]
        steps = tuple(step for part, along in parts if part for step in _steps(form, part, item, along))
        peak = chunked.peak_elements(full)
    return Explanation(
        operator=operator.name,
        backend=backend,
        dtype=dtype,
        sizes=full,
        steps=steps,
        peak=peak * item,
        certificate=certificate(form, forms, full),
        linear=not two_sequence_axes(form),
        form=form_of(form),
    )


def _steps(form: Lowered, program: Program, item: int, along: tuple[str, str] | None) -> tuple[Step, ...]:
    """The steps of one part; those of a chunk (``along``: the axis of tokens, its name in a chunk) count for all."""
    steps = []
    for statement, live in zip(program.statements, live_elements(program), strict=True):
        costs = [flops(statement), traffic(statement) * item, live * item]
        rule = form.rules.get(statement.name, "contraction path")
        if along is not None:
            axis, chunk = along
            costs[:2] = [cost.rename(axis, chunk).times_count(chunk, axis) for cost in costs[:2]]
            costs[2] = costs[2].rename(axis, chunk)
            rule = f"chunk: {rule}"
        steps.append(Step(print_statement(statement), rule, *costs))
    return tuple(steps)


def form_of(form: Lowered) -> str:
    """How a form walks the sequence."""
    if form.chunked is None:
        return "the whole sequence at once"
    states = ", ".join("×".join(state.axes) or "1" for state in form.chunked.stream.states)
    chunk, group = form.chunked.axes
    walk = f"those of {group} tokens at once" if form.chunked.parallel else "one after another"
    stream = form.chunked.stream
    turned = {new for new, _ in stream.mirrored}
    both = any(param.name not in turned for param in stream.results)
    way = f", {'both ways' if both else 'from the last to the first'}" if turned else ""
    return f"chunks of {chunk} tokens{way}, {walk}; states {states}"


def two_sequence_axes(form: Lowered) -> tuple[Statement, ...]:
    """The statements that run over the whole sequence and have a result with two sequence axes."""
    long = sequence_axes(form.definition)
    programs = (form.program,) if form.chunked is None else form.chunked.wholes
    return tuple(s for p in programs for s in p.statements if sum(axis in long for axis in s.axes) > 1)


def certificate(form: Lowered, forms: tuple[Lowered, ...], sizes: Mapping[str, int]) -> str:
    """One sentence: no intermediate has two sequence axes, or which one has and why."""
    wide = two_sequence_axes(form)
    if not wide:
        return "no intermediate has two sequence axes"
    first = wide[0]
    axes = " × ".join(first.axes)
    for statement in wide:
        value = statement.value
        if isinstance(value, MatrixFunction):
            reason = form.dense_reasons.get(statement.name, "it is a function of a whole matrix")
            return (
                f"{first.name} has two sequence axes ({axes}): {value.function} of {statement.name} is dense, {reason}"
            )
        if isinstance(value, Apply) and value.function not in ("conj", "real"):
            return f"{first.name} has two sequence axes ({axes}): {value.function} acts on every element of it"
    if any(not two_sequence_axes(other) for other in forms):
        other = next(other for other in forms if not two_sequence_axes(other))
        ratio = other.score(sizes) / max(1, form.score(sizes))
        cheaper = f"at these sizes it is {ratio:.2g} times cheaper than the linear form"
        return f"{first.name} has two sequence axes ({axes}): {cheaper}"
    ordered = next((s for s in wide if s.order), None)
    if ordered is not None:
        why = form.dense_reasons.get("order", f"the order in {ordered.name} is evaluated densely")
        return f"{first.name} has two sequence axes ({axes}): {why}"
    return f"{first.name} has two sequence axes ({axes}): no cheaper order of evaluation was found"


def _bytes(count: int) -> str:
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.4g} {units[0]}"
