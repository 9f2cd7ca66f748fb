"""contract: binary steps only, the cheapest order at the given sizes, the same value exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dtn_core.cost import flops
from dtn_core.ir.nodes import reads
from dtn_core.notation import parse
from dtn_core.operators import tensor_attention
from dtn_core.passes.contract import contract
from dtn_core.passes.flatten import flatten
from dtn_core.printer import to_notation
from oracle.exact import assert_same_value
from oracle.knobs import attention_knobs, sample, shown

LONG = {"n": 65_536, "d": 64, "e": 64}
SHORT = {"n": 16, "d": 1024, "e": 1024}
THIN = {"n": 4096, "d": 64, "e": 1}
WIDE = {"n": 4096, "d": 2, "e": 4096}
REGIMES = {"long": LONG, "short": SHORT, "thin": THIN, "wide": WIDE}
SMALL = {"n": 3, "d": 2, "e": 2}


def body(text, sizes):
    """The statements of the program after flatten and contract."""
    return [line.strip() for line in to_notation(contract(flatten(parse(text)), sizes)).splitlines()[1:]]


class TestOrderOfEvaluation:
    CHAIN = "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[i,c] = q[i,a] * k[j,a] * v[j,c]"

    def test_long_sequences_contract_features_first(self):
        assert body(self.CHAIN, LONG) == ["k_v[a,c] = k[j,a] * v[j,c]", "o[i,c] = q[i,a] * k_v[a,c]"]

    def test_short_sequences_contract_tokens_last(self):
        assert body(self.CHAIN, SHORT) == ["q_k[i,j] = q[i,a] * k[j,a]", "o[i,c] = v[j,c] * q_k[i,j]"]

    def test_a_thin_result_is_reached_through_vectors(self):
        text = "f(q[n,d], k[n,d], v[n]) -> o[n]: o[i] = q[i,a] * k[j,a] * k[j,b] * q[l,b] * v[l]"
        for statement in contract(flatten(parse(text)), THIN).statements:
            assert len(statement.axes) == 1

    def test_a_shared_product_is_computed_once(self):
        text = "f(q[n,d], k[n,d], v[n,e]) -> o[n,e], r: o[i,c] = q[i,a]*k[j,a]*k[j,b]*v[i,c]*q[i,b]; r = k[j,a]*k[j,b]*q[i,a]*q[i,b]"
        grams = [line for line in body(text, LONG) if "k[j,a] * k[j,b]" in line]
        assert len(grams) == 1

    def test_a_number_is_multiplied_into_the_smallest_result(self):
        text = "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[i,c] = 2 * q[i,a] * k[j,a] * v[j,c]"
        assert "k_v_scaled[a,c] = 2 * k_v[a,c]" in body(text, LONG)

    def test_scalars_are_multiplied_together_first(self):
        text = "f(q[n,d], k[n,d], v[n,e], g, h) -> o[n,e]: o[i,c] = g * h * q[i,a] * k[j,a] * v[j,c]"
        assert body(text, LONG)[-2:] == ["k_v_scaled[a,c] = g_h * k_v[a,c]", "o[i,c] = q[i,a] * k_v_scaled[a,c]"]

    def test_an_index_of_one_tensor_alone_is_summed_first(self):
        text = "f(x[n,d], y[n,d]) -> s[n]: s[i] = x[i,a] * y[i,b]"
        assert body(text, LONG) == ["x_sum[i] = x[i,a]", "y_sum[i] = y[i,b]", "s[i] = x_sum[i] * y_sum[i]"]


@pytest.mark.parametrize("sizes", REGIMES.values(), ids=REGIMES.keys())
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_no_step_reads_more_than_two_tensors(order, sizes):
    program = contract(flatten(tensor_attention(order=order).program), sizes)
    assert all(len(reads(statement.value)) <= 2 for statement in program.statements)


def brute_force(text, sizes):
    """Fewest multiplications over all orders of binary steps of one contraction ``o[..] = a[..]*b[..]*…``, by recursion."""
    statement = parse(text).statements[0]
    out = frozenset(index.name for index in statement.indices)
    extents = {index.name: sizes[index.axis] for read in reads(statement.value) for index in read.indices}
    operands = tuple(frozenset(index.name for index in read.indices) for read in reads(statement.value))

    def cost(remaining):
        if len(remaining) == 1:
            return 0
        best = None
        for a, b in itertools.combinations(range(len(remaining)), 2):
            rest = [x for place, x in enumerate(remaining) if place not in (a, b)]
            joined = remaining[a] | remaining[b]
            kept = joined & (out.union(*rest))
            here = int(np.prod([extents[index] for index in joined], dtype=object)) * (2 if kept < joined else 1)
            total = here + cost((*rest, kept))
            best = total if best is None else min(best, total)
        return best

    return cost(operands)


@pytest.mark.parametrize("sizes", REGIMES.values(), ids=REGIMES.keys())
@pytest.mark.parametrize(
    "text",
    [
        "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[i,c] = q[i,a] * k[j,a] * v[j,c]",
        "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[i,c] = q[i,a] * k[l,a] * k[l,b] * q[j,b] * v[j,c]",
        "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[i,c] = q[i,a] * k[j,a] * q[j,b] * k[i,b] * v[j,c]",
    ],
)
def test_the_order_is_at_most_a_tenth_above_the_fewest_flops(text, sizes):
    # memory traffic counts too, so the fewest flops alone need not win
    program = contract(flatten(parse(text)), sizes)
    assert sum(flops(s).at(sizes) for s in program.statements) <= 1.1 * brute_force(text, sizes)


CASES = {
    "chain": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[i,c] = q[i,a]*k[l,a]*k[l,b]*q[j,b]*v[j,c]",
    "shared products": "f(q[n,d], k[n,d]) -> o, r: o = q[i,a]*k[i,a]*q[j,b]*k[j,b]; r = q[i,a]*k[i,a]",
    "numbers and scalars": "f(q[n,d], k[n,d], g) -> o[n]: o[i] = -1.5 * g * q[i,a] * k[j,a] * g",
    "only a scalar": "f(x[n], g) -> o: o = 2 * g",
    "a scalar conjugated": "f(x[n], g) -> o[n]: o[i] = conj(g) * x[i]",
    "a number over an axis": "f(x[n]) -> o[n]: o[i] = 2 * x[i] * x[j] / n",
    "a diagonal": "f(m[n,n], x[n]) -> o[n]: o[i] = m[i,i] * x[i] * x[j]",
    "an outer product": "f(x[n], w[d]) -> o[d,n]: o[a,i] = x[i] * w[a] * x[j]",
    "a broadcast": "f(x[n], w[d]) -> o[n,d]: o[i,a] = x[i] * w[b] * w[a] * w[b]",
    "a transpose scaled": "f(x[n,d]) -> o[d,n]: o[a,i] = 3 * x[i,a]",
    "an order": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*v[i,c] where i <= t",
    "a mirrored order": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*v[i,c] where t <= i",
    "an order with decay": "f(q[n,d], k[n,d], v[n,e], g) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*v[i,c] where i <= t decay g",
    "an equality": "f(q[n,d], v[n,e]) -> o[d,e]: o[a,c] = q[i,a]*v[j,c] where i == j",
    "a chain of orders": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*q[i,b]*k[j,b]*v[j,c] where j <= i <= t",
    "two orders": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*k[j,a]*v[i,c] where i <= t, j <= t",
    "an order of one tensor": "f(x[n,d]) -> o[n]: o[t] = x[i,a] where i <= t",
    "an order between two outputs": "f(x[n], y[n]) -> o[n,n]: o[i,j] = x[i] * y[j] where j <= i",
    "a diagonal times a scalar": "f(m[d,e], g) -> y[e,d]: t[a,p,b] = m[a,p] + 2 * m[b,p]; y[c,b] = g * t[b,c,b]",
    "an order of the outputs alone": "f(x[n]) -> o[n,n]: o[i,j] = x[i] where j <= i",
}  # fmt: skip


@pytest.mark.parametrize("sizes", REGIMES.values(), ids=REGIMES.keys())
@pytest.mark.parametrize("text", CASES.values(), ids=CASES.keys())
def test_value_is_kept(rng, text, sizes):
    program = parse(text)
    assert_same_value(program, contract(flatten(program), sizes), rng, SMALL)


RATIONAL = [k for k in attention_knobs() if k["activation"] in (None, "relu") and "scale" not in k]


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("knobs", sample(RATIONAL, 40, seed=5), ids=shown)
def test_value_of_tensor_attention_is_kept(rng, knobs, regime):
    flat = flatten(tensor_attention(**knobs).program)
    assert_same_value(flat, contract(flat, REGIMES[regime]), rng, {"n": 3, "d": 2, "e": 1}, times=1)
