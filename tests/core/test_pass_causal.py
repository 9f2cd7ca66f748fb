"""causal: taking a tree of ordered tokens apart changes nothing, exactly; what is not a tree stays as it is."""

from __future__ import annotations

import pytest

from dtn_core.notation import parse
from dtn_core.passes.causal import causal
from dtn_core.passes.flatten import flatten
from oracle.exact import assert_same_value

SIZES = {"n": 4, "d": 2, "e": 2}
TREES = {
    "one relation": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*v[i,c] where i <= t",
    "a chain": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*q[i,b]*k[j,b]*v[j,c] where j <= i <= t",
    "a chain with decay": "f(q[n,d], k[n,d], v[n,e], g) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*q[i,b]*k[j,b]*v[j,c] where j <= i <= t decay g",
    "two branches": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*k[j,a]*v[i,c]*v[j,c] where i <= t, j <= t",
    "branches with decays of their own": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*k[j,a]*v[i,c] where i <= t decay 0.5, j <= t decay 0.25",
    "a relation that the chain implies": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*q[i,b]*k[j,b]*v[j,c] where j <= i <= t, j <= t",
    "two relations of the same tokens, with decays": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*v[i,c] where i <= t decay 0.5, i < t, i <= t decay 0.25",
    "a relation that decays and that a chain implies": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*q[i,b]*k[j,b]*v[j,c] where j <= i decay 0.5, i < t, j < t decay 0.25",
    "strict relations": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*q[i,b]*k[j,b]*v[j,c] where j < i <= t decay 0.5, j < t",
    "a token that nothing carries but the order": "f(x[n,d]) -> o[n,d]: o[t,a] = x[t,a]*one[i:n] where i <= t decay 0.5",
    "a tensor squared at the token, and a weight": "f(x[n,d], m[d]) -> o[n]: o[t] = x[t,a]*x[t,a]*x[i,a]*m[a] where i <= t",
    "a weight squared": "f(x[n,d], m[d]) -> o[n]: o[t] = x[t,a]*x[i,a]*m[a]*m[a] where i <= t",
    "free tokens above": "f(x[n], y[n]) -> s: s = x[i]*y[j] where i <= j",
}  # fmt: skip


@pytest.mark.parametrize("text", TREES.values(), ids=TREES.keys())
def test_a_tree_keeps_its_value(rng, text):
    program = parse(text)
    made, reasons = causal(flatten(program, complex_input=False))
    assert reasons == {}
    assert_same_value(program, made, rng, SIZES)


@pytest.mark.parametrize("decays", [("g", "0.5"), ("g", "h"), ("0.9", "0.5"), ("s", "g"), ("g", "g")], ids=str)
def test_the_decays_of_a_relation_and_of_the_chain_that_implies_it_are_multiplied(rng, decays):
    chain, implied = decays
    program = parse(f"""f(q[n,d], k[n,d], v[n,e], g, h) -> o[n,e]:
        s = g*h
        o[t,c] = q[t,a]*k[i,a]*q[i,b]*k[j,b]*v[j,c]   where j <= i <= t decay {chain}, j <= t decay {implied}""")
    made, reasons = causal(flatten(program, complex_input=False))
    assert not reasons
    assert all(len(statement.order) <= 1 for statement in made.statements)
    assert_same_value(program, made, rng, SIZES)


def test_a_strict_relation_is_not_implied_by_a_chain_that_is_not(rng):
    program = parse(
        "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*k[j,a]*v[j,c] where j <= i <= t, j < t"
    )
    made, reasons = causal(flatten(program, complex_input=False))
    assert "is not a tree" in reasons["o"]
    assert_same_value(program, made, rng, SIZES)
