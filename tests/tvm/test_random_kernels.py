"""Random programs: a kernel computes what the dense interpreter does, or is refused before it runs.

``--programs 1000`` (or ``DTN_PROGRAMS=1000``) draws as many instead of a few, from ``--first-seed`` on.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("tvm.tirx", reason="Apache TVM is not installed")  # this folder is called tvm as well
pytest.importorskip("hypothesis")
torch = pytest.importorskip("torch")

from hypothesis import HealthCheck, Phase, assume, given, seed, settings  # noqa: E402

import dtn_torch as dtn  # noqa: E402
from dtn_core.interpret import interpret  # noqa: E402
from dtn_core.printer import to_notation  # noqa: E402
from oracle.cases import case, cases  # noqa: E402
from oracle.rounding import Rounding, as_tuple, largest  # noqa: E402

FEW = 40
LENGTHS = (5, 33, 70, 1)
WIDTHS = (2, 9, 16)
SINGLE = 2.0**29
"""How much coarser float32 is than float64."""


def gradients(outputs, weights, leaves):
    total = sum((y * weight).sum() for y, weight in zip(outputs, weights, strict=True))
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return [torch.zeros_like(x) if d is None else d for x, d in zip(leaves, found, strict=True)]


FOUND = {
    "a result that no token is read for": case(
        """
        f(x[n,d]) -> o[n], p[d]:
            o[t] = one[t:n] * d
            p[a] = x[i,a]""",
        {"n": 33, "d": 9},
    ),
    "a gradient that is the same for every token": case(
        """
        f(x[n,d], z[n,e]) -> o[e]:
            s = x[i,a] * x[i,a] + x[j,b]
            o[c] = s * z[t,c]""",
        {"n": 33, "d": 9, "e": 2},
    ),
    "a sum over one of two features that are selected by": case(
        """
        f(x[n,d]) -> o[n]:
            o[t] = select(x[t,a], x[t,b]) * x[t,a]""",
        {"n": 33, "d": 9},
    ),
    "an argument that nothing reads": case(
        """
        f(x[n,d], z[n,e], m[d,e], lam) -> o[n]:
            o[t] = x[t,a] * z[i,c] * n   where i <= t decay 0.9""",
        {"n": 33, "d": 9, "e": 2},
    ),
    "an argument that nothing reads, a token at a time": case(
        """
        f(x[n,d], z[n,e], m[d,e]) -> o[n,d]:
            o[t,a] = select(x[t,a], x[t,b]) * select(x[t,a], x[t,b]) * select(x[i,a], x[i,b])   where i <= t""",
        {"n": 33, "d": 9, "e": 2},
    ),
    "nothing but the length before the chunks": case(
        """
        f(x[n,d], z[n,e]) -> o[n,e]:
            o[t,c] = x[t,a] * x[i,a] * z[i,c] * tanh(n)   where i <= t""",
        {"n": 70, "d": 9, "e": 2},
    ),
    "weights before the chunks that are tested alone": case(
        """
        f(x[n,d], u[d]) -> o[n,d]:
            m[a] = relu(u[a])
            o[t,a] = select(m[a], x[i,a])   where i <= t""",
        {"n": 70, "d": 9},
    ),
    "a result without a gradient beside one that has one": case(
        """
        f(x[n,d], z[n,e], w[n]) -> o[n], p[n]:
            p[t] = one[t:n] * silu(sqrt(n)) / step(w[i])   where i <= t decay 0.5
            o[t] = one[t:n] * x[i,a] * e   where i <= t""",
        {"n": 33, "d": 9, "e": 2},
    ),
}


class Held:
    """Holds the kernel of one case to the interpreter, and its gradient to that of the generated source."""

    def __init__(self, case, seen):
        self.case, self.seen = case, seen
        self.program, self.arguments = case.program, case.arguments()

    def check(self):
        """Whether there was a kernel to hold."""
        try:
            kernel = dtn.compile(self.program, implementation="tvm")
        except ValueError:
            self.seen["refused"] += 1
            return False
        expected = as_tuple(interpret(self.program, **self.arguments))
        bounds = Rounding(self.program, dict(self.case.sizes), self.case.rng).bounds(self.arguments, expected)
        if bounds is None or max(map(largest, expected), default=0) > 1e6:  # far from what float32 is for
            return False
        given = self.tensors()
        try:
            got = as_tuple(kernel(**given))
        except ValueError as error:
            assert "a kernel does not" in str(error), to_notation(self.program)  # longer sequences than it is for
            return False
        for output, y, wanted, bound in zip(self.program.outputs, got, expected, bounds, strict=True):
            found = y.detach().double().numpy()
            assert found.shape == wanted.shape, self.said(output.name, found, wanted)
            allowed = 4 * SINGLE * bound + 1e-5 * max(1, largest(wanted))
            assert largest(found - wanted) <= allowed, self.said(output.name, found, wanted)
        self.seen["values"] += 1
        self.gradient(got, given)
        return True

    def tensors(self):
        names = {param.name for param in self.program.tensors}
        made = {name: torch.tensor(np.asarray(x, np.float32)) for name, x in self.arguments.items()}
        return {name: x.requires_grad_(name in names) for name, x in made.items()}

    def gradient(self, got, given):
        native = self.tensors()
        outputs = as_tuple(dtn.compile(self.program)(**native))
        if not any(y.requires_grad for y in outputs):
            return
        weights = [torch.tensor(self.case.rng.uniform(0.5, 1.5, y.shape), dtype=y.dtype) for y in outputs]
        names = [param.name for param in self.program.tensors]
        wanted = gradients(outputs, weights, [native[name] for name in names])
        found = gradients(got, weights, [given[name] for name in names])
        for name, a, b in zip(names, found, wanted, strict=True):
            if b.numel() and bool(torch.isfinite(b).all()) and largest(b.numpy()) > 1e-3:
                assert largest((a - b).numpy()) <= 1e-3 * largest(b.numpy()), self.said(f"d_{name}", a, b)
        self.seen["gradients"] += 1

    def said(self, name, got, expected):
        return f"{name}\n{to_notation(self.program)}\n{dict(self.case.sizes)}, seed={self.case.seed}\n{got}\n{expected}"


@pytest.mark.parametrize("found", FOUND.values(), ids=FOUND)
def test_what_was_wrong_agrees(found):
    Held(found, Counter()).check()


def test_a_kernel_agrees_with_the_interpreter_or_is_refused(request):
    count = request.config.getoption("--programs") or FEW
    seen = Counter()

    def check(case):
        assume(not case.complex and not any(case.batches))
        Held(case, seen).check()

    options = settings(
        max_examples=2 * count,  # half are drawn with leading axes or complex numbers
        derandomize=not request.config.getoption("--programs"),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    test = options(given(cases(LENGTHS, WIDTHS))(check))
    if request.config.getoption("--programs"):
        test = seed(request.config.getoption("--first-seed"))(test)
    test()
    assert seen["values"] >= count // 10, dict(seen)
    assert seen["gradients"] > 0
