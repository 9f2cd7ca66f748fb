"""What must agree of a program however it is computed: value, gradient, chunks, pieces, steps, padding, packing.

The oracle is the dense interpreter in float64; how far two results may be apart is measured by ``oracle.rounding``.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np

from dtn_core.interpret import interpret
from dtn_core.ir.axes import sequence_axes
from dtn_core.notation import parse
from dtn_core.passes.differentiate import differentiate
from dtn_core.passes.pipeline import candidates
from dtn_core.printer import to_notation
from oracle.differences import direction_like, inner
from oracle.rounding import CHANGE, ROUNDINGS, WORST, Rounding, as_tuple, largest

STENCIL = {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}
STEP = 1e-3


class Agreement:
    """Holds one case to the interpreter in one backend.

    Parameters
    ----------
    backend : frameworks.Framework
    case : oracle.cases.Case
    seen : Counter
        Counts what was compared, for the report of a long run.
    """

    def __init__(self, backend, case, seen=None):
        self.backend = backend
        self.case = case
        self.seen = Counter() if seen is None else seen
        self.program = case.program
        self.sizes = dict(case.sizes)
        self.rng = np.random.default_rng(case.seed + 1)
        self.arguments = case.arguments()
        self.function = backend.dtn.compile(case.program)

    def check(self, *, everything=False):
        """Whether the value has digits to compare (else False); raises where something that applies disagrees.

        Padding, packing and a gradient's program are programs of their own to compile: unless ``everything`` is
        asked for, the seed picks one of them.
        """
        self.notation()
        self.rounding = Rounding(self.program, self.sizes, self.rng)
        self.expected = as_tuple(interpret(self.program, **self.arguments))
        got = self.call(self.arguments)
        self.bounds = self.rounding.bounds(self.arguments, self.expected)
        if self.bounds is None:
            self.seen["ill-conditioned"] += 1
            return False
        self.same("value", got, self.expected)
        self.streaming()
        kind = self.case.seed % 3
        if everything or kind == 0:
            self.padding()
        if everything or kind == 1:
            self.packing()
        if everything or kind == 2 or self.backend.differentiable:
            self.gradient()
        return True

    # ---------------------------------------------------------------- values

    def notation(self):
        """Printed and parsed, it is the same program."""
        assert parse(to_notation(self.program)) == self.program, "printing and parsing gave another program"

    def native(self, arguments):
        return {name: self.backend.array(x) for name, x in arguments.items()}

    def call(self, arguments, **options):
        """The outputs in NumPy."""
        return self.numpy(self.compiled(**options)(**self.native(arguments)))

    def compiled(self, **options):
        """The function with these options, as users of the framework call it."""
        return self.backend.compiled(lambda **arguments: self.function(**arguments, **options))

    def numpy(self, outputs):
        return [self.backend.numpy(y) for y in as_tuple(outputs)]

    def same(self, what, got, expected, bounds=None):
        """Equal up to rounding."""
        self.seen[what] += 1
        for output, a, b, bound in zip(self.program.outputs, got, expected, bounds or self.bounds, strict=True):
            assert a.shape == b.shape, f"{what}: {output.name} has shape {a.shape}, expected {b.shape}"
            error = largest(a - b)
            assert error <= bound, (
                f"{what}: {output.name} is wrong by {error:.2e}, rounding explains {bound:.2e}\n{a}\n{b}"
            )

    # ------------------------------------------------------------- streaming

    def streaming(self):
        """Chunks of any size, pieces one after another, single steps."""
        form = candidates(self.program, self.case.complex)[0]
        if form.chunked is None:
            return
        axis = form.chunked.stream.axis
        length = self.sizes[axis]
        self.chunk_size = int(self.rng.integers(1, length + 2))
        self.same("chunks", self.call(self.arguments, chunk_size=self.chunk_size), self.expected)
        if not form.chunked.stream.resumable:
            return
        cut = int(self.rng.integers(0, length + 1))
        first, state = self.compiled(return_state=True)(**self.native(self.part(axis, slice(0, cut))))
        second = self.compiled()(**self.native(self.part(axis, slice(cut, None))), initial_state=state)
        self.same("pieces", self.joined(axis, [self.numpy(first), self.numpy(second)]), self.expected)
        state = self.function.init_state(**self.native(self.arguments))
        steps = []
        for token in range(min(3, length)):
            output, state = self.function.step(state, **self.native(self.part(axis, token)))
            steps.append(
                [self.at_one(axis, y, o) for y, o in zip(self.numpy(output), self.program.outputs, strict=True)]
            )
        if steps:
            outputs = zip(self.expected, self.program.outputs, strict=True)
            early = [self.along(axis, y, o, slice(0, 3)) for y, o in outputs]
            self.same("steps", self.joined(axis, steps), early)

    def part(self, axis, which):
        """The arguments at some places of an axis."""
        return {p.name: self.along(axis, self.arguments[p.name], p, which) for p in self.program.params}

    @staticmethod
    def along(axis, x, param, which):
        """``x[which]`` on every axis of that name."""
        for place in range(len(param.axes)):  # from the left: a token taken leaves those to the right where they are
            if param.axes[place] == axis:
                x = x[(..., which, *[slice(None)] * (len(param.axes) - place - 1))]
        return x

    @staticmethod
    def at_one(axis, y, output):
        """A result of one token with the axis of tokens, if it has one."""
        return np.expand_dims(y, output.axes.index(axis) - len(output.axes)) if axis in output.axes else y

    def joined(self, axis, pieces):
        """Outputs one after another along an axis, an output without it from the last piece."""
        found = []
        for output, column in zip(self.program.outputs, zip(*pieces, strict=True), strict=True):
            if axis not in output.axes:
                found.append(column[-1])
                continue
            core = len(output.axes)
            batch = np.broadcast_shapes(*(y.shape[: y.ndim - core] for y in column))
            column = [np.broadcast_to(y, batch + y.shape[y.ndim - core :]) for y in column]
            found.append(np.concatenate(column, axis=output.axes.index(axis) - core))
        return found

    # ------------------------------------------------------- padding, packing

    @property
    def takes_sequences(self):
        """Whether tokens may be padded or packed."""
        tensors = (*self.program.params, *self.program.outputs)
        return sequence_axes(self.program) == ("n",) and all(t.axes.count("n") < 2 for t in tensors)

    def padding(self):
        """Padded tokens count for nothing: the tokens in one range are kept, since decays count places."""
        if not self.takes_sequences:
            return
        start, stop = sorted(self.rng.integers(0, self.sizes["n"] + 1, 2).tolist())
        real = np.zeros(self.sizes["n"], bool)
        real[start:stop] = True
        arguments = self.part("n", slice(start, stop))
        expected, bounds = self.evaluate(arguments, {**self.sizes, "n": stop - start})
        if bounds is None:
            return
        got = self.call(self.arguments, padding_mask=self.backend.array(real))
        outside = [
            self.along("n", y, o, ~real) for o, y in zip(self.program.outputs, got, strict=True) if "n" in o.axes
        ]
        assert all(np.all(y == 0) for y in outside), "a padded token has an output that is not 0"
        self.same(
            "padding",
            [self.along("n", y, o, real) for o, y in zip(self.program.outputs, got, strict=True)],
            expected,
            bounds,
        )
        if self.backend.differentiable:
            self.gradient(real)

    def packing(self):
        """Packed sequences are computed as if each were alone."""
        if not self.takes_sequences or any(self.case.batches):
            return
        n = self.sizes["n"]
        starts = [0, *sorted(self.rng.integers(0, n + 1, int(self.rng.integers(0, 3))).tolist()), n]
        alone = [self.evaluate(self.part("n", slice(a, b)), {**self.sizes, "n": b - a}) for a, b in pairwise(starts)]
        if any(bounds is None for _, bounds in alone):
            return
        bounds = [max(column) for column in zip(*(bounds for _, bounds in alone), strict=True)]
        got = self.call(self.arguments, cu_seqlens=starts)
        joined = self.joined("n", [values for values, _ in alone])
        for place, output in enumerate(self.program.outputs):
            if "n" not in output.axes:
                joined[place] = np.stack([values[place] for values, _ in alone])
        self.same("packing", got, joined, bounds)

    def evaluate(self, arguments, sizes):
        """The interpreter's outputs and how wrong they may be."""
        expected = as_tuple(interpret(self.program, **arguments))
        return expected, Rounding(self.program, sizes, self.rng).bounds(arguments, expected)

    # -------------------------------------------------------------- gradient

    def gradient(self, real=None):
        """Along one random direction of all arguments, against differences of the interpreter at the ``real`` tokens."""
        if not self.backend.differentiable and any(self.case.batches):
            return  # the gradient's program leaves summing over broadcast axes to who calls it
        names = list(self.arguments)
        weights = [direction_like(self.rng, y) for y in self.expected]
        directions = {name: direction_like(self.rng, x) for name, x in self.arguments.items()}
        rounding = self.rounding
        if real is not None:
            rounding = Rounding(self.program, {**self.sizes, "n": int(real.sum())}, self.rng)

        def kept(x, param):
            return x if real is None else self.along("n", x, param, real)

        def loss(t, evaluate):
            moved = {p.name: kept(self.arguments[p.name] + t * directions[p.name], p) for p in self.program.params}
            pairs = zip(self.program.outputs, weights, evaluate(moved), strict=True)
            return sum(inner(kept(w, output), y) for output, w, y in pairs)

        slope, bound = self.slope(loss, rounding)
        what = "gradient" if real is None else "padded gradient"
        if slope is None:
            self.seen[f"no slope: {what}"] += 1
            return
        options = {"chunk_size": self.chunk_size} if hasattr(self, "chunk_size") else {}
        if real is not None:
            padded = candidates(self.function.forms.program(True), self.case.complex)[0]
            options = options if padded.chunked is not None else {}
            options["padding_mask"] = self.backend.array(real)
        got = self.found_gradients(names, weights, options)
        found = sum(inner(g, directions[name]) for name, g in zip(names, got, strict=True))
        self.seen[what] += 1
        assert abs(found - slope) <= bound, f"{what}: {found} along a direction, expected {slope} ± {bound:.2e}"

    def slope(self, loss, rounding):
        """The derivative of ``loss`` at 0 and how wrong it may be; None at kinks, poles and where rounding rules."""

        def plain(arguments):
            return as_tuple(interpret(self.program, **arguments))

        places = sorted({sign * scale * k for sign in (-1, 1) for scale in (1, 2) for k in STENCIL})
        at = {k: loss(k * STEP, plain) for k in places}
        noisy = {k: loss(k * STEP, rounding.evaluate) for k in (-3, -2, -1, 1, 2, 3)}
        slopes = [
            sum(w * (values[s * k] - values[-s * k]) for k, w in STENCIL.items()) / (s * STEP)
            for values, s in ((at, 1), (at, 2), (noisy, 1))
        ]
        size = abs(slopes[0]) + max(map(abs, at.values()), default=0.0)
        smooth = abs(slopes[1] - slopes[0])
        if not np.isfinite(sum(slopes)) or smooth > 1e-6 * size or abs(slopes[2] - slopes[0]) > WORST * CHANGE * size:
            return None, None
        eps = np.finfo(float).eps
        rounding = ROUNDINGS * eps * abs(slopes[2] - slopes[0]) / CHANGE
        return slopes[0], smooth + rounding + ROUNDINGS * eps * size / STEP

    def found_gradients(self, names, weights, options):
        """By the framework, or by the gradient's own program where it has none."""
        if not self.backend.differentiable:
            program = differentiate(self.program, names)
            cotangents = {p.name: w for p, w in zip(program.params[len(self.program.params) :], weights, strict=True)}
            function = self.backend.dtn.compile(program)
            given = {**self.arguments, **cotangents}
            return self.numpy(function(**self.native(given)))

        def total(*values):
            outputs = as_tuple(self.function(**dict(zip(names, values, strict=True)), **options))
            return sum(self.backend.loss(y, repeated(w, y.shape)) for y, w in zip(outputs, weights, strict=True))

        return self.backend.gradients(total, [self.arguments[name] for name in names])


def repeated(weights, shape):
    """Weights of an output without a batch for the output repeated along one: their sum stays what it was."""
    full = np.broadcast_to(np.asarray(weights), np.broadcast_shapes(np.shape(weights), tuple(shape)))
    return np.asarray(full * (np.size(weights) / max(1, full.size)))
