"""Random programs, of every construct of the notation, in every backend against the dense interpreter.

``--programs 10000`` (or ``DTN_PROGRAMS=10000``) draws as many instead of a few, in pieces with seeds of their own,
shrinks what fails and prints how far it is; ``--first-seed`` starts elsewhere.
"""

from __future__ import annotations

import time
from collections import Counter

import frameworks
import pytest

pytest.importorskip("hypothesis")

from agreement import Agreement
from hypothesis import HealthCheck, Phase, assume, given, seed, settings

from oracle.cases import cases

SHORT = {"numpy": 150, "torch": 80, "jax": 15, "tensorflow": 15}[frameworks.chosen()]
PIECE = 250
LOOSE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]


def test_a_program_agrees_with_the_interpreter(backend, request, capsys):
    wanted = request.config.getoption("--programs")
    first = request.config.getoption("--first-seed")
    seen, start = Counter(), time.monotonic()

    def check(case):
        assume(Agreement(backend, case, seen).check())
        seen["programs"] += 1

    if not wanted:
        few = settings(max_examples=SHORT, suppress_health_check=LOOSE)
        few(given(cases())(check))()
        assert seen["programs"] >= SHORT // 2
        return
    many = settings(
        derandomize=False, suppress_health_check=LOOSE, phases=[Phase.generate, Phase.shrink], print_blob=False
    )
    piece = 0
    while seen["programs"] < wanted:
        count = min(PIECE, wanted - seen["programs"])
        seed(first + piece)(settings(many, max_examples=count)(given(cases())(check)))()
        piece += 1
        with capsys.disabled():
            took = time.monotonic() - start
            left = took / seen["programs"] * (wanted - seen["programs"])
            counts = ", ".join(f"{what} {number:,}" for what, number in sorted(seen.items()) if what != "programs")
            print(
                f"\n{backend.name}: {seen['programs']:,} of {wanted:,} programs, {took:.0f} s, {left:.0f} s left ({counts})",
                end="",
                flush=True,
            )
