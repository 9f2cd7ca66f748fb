"""stream: the recurrent step, token after token, against the whole sequence evaluated densely."""

from __future__ import annotations

import numpy as np
import pytest

from dtn_core.errors import CompileError
from dtn_core.interpret import interpret
from dtn_core.notation import parse
from dtn_core.operators import load
from dtn_core.passes.pipeline import CHUNKS, MANY, Costs, candidates, choose, lower_chunked

N, SIZES = 7, {"n": 7, "d": 3, "e": 2}
OPERATORS = {
    "exponential of a token": "tensor_interaction:mask=causal,activation=expm,normalize=row",
    "trace": "tensor_attention:mask=causal",
    "row": "tensor_attention:mask=causal,normalize=row",
    "hadamard": "tensor_attention:mask=causal,product=hadamard",
    "third order": "tensor_attention:mask=causal,order=3,normalize=none",
    "decay": "tensor_attention:mask=causal,decay=0.75",
    "interaction": "tensor_interaction:mask=causal",
    "ahla": "ahla",
    "two-simplicial": "two_simplicial",
}
WRITTEN = {
    "two decays": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*k[j,a]*v[i,c] where i <= t decay 0.5, j <= t decay 0.25",
    "counted tokens": "f(x[n,d]) -> o[n,d]: o[t,a] = x[t,a]*one[i:n] where i <= t decay 0.5",
    "two results": "f(q[n,d], k[n,d]) -> o[n,d], p[n,d]: o[t,a] = k[i,a] where i <= t; p[t,a] = q[t,b]*o[t,b]*k[i,a] where i <= t",
    "a decay that is given": "f(q[n,d], k[n,d], v[n,e], g) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*v[i,c] where i <= t decay g",
}  # fmt: skip


def assert_steps_are_the_whole(program, scalars, rng):
    chunked = lower_chunked(program).chunked
    token, stream = chunked.token, chunked.stream
    tensors = {p.name: rng.standard_normal([SIZES[axis] for axis in p.axes]) for p in program.tensors}
    whole = interpret(program, *tensors.values(), **scalars)
    whole = whole if isinstance(whole, tuple) else (whole,)
    states = [np.zeros([SIZES[axis] for axis in state.axes]) for state in stream.states]
    for place in range(N):
        given = {p.name: tensors[p.name][place] for p in stream.tokens}
        given |= {p.name: tensors[p.name] if p.name in tensors else scalars[p.name] for p in stream.constants}
        given |= {state.name: value for state, value in zip(stream.states, states, strict=True)}
        made = interpret(token, *(given[p.name] for p in token.params))
        results, states = made[: len(stream.results)], made[len(stream.results) :]
        for result, wanted in zip(results, whole, strict=True):
            np.testing.assert_allclose(result, wanted[place], rtol=1e-9, atol=1e-9 * np.abs(wanted).max())


@pytest.mark.parametrize("name", OPERATORS.values(), ids=OPERATORS.keys())
def test_steps_of_the_catalogue_are_the_whole(rng, name):
    operator = load(name)
    assert_steps_are_the_whole(operator.program, operator.scalars, rng)


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN.keys())
def test_steps_of_written_operators_are_the_whole(rng, text):
    program = parse(text)
    assert_steps_are_the_whole(program, {p.name: 0.75 for p in program.scalars}, rng)


def test_a_step_reads_no_token_but_its_own():
    token = lower_chunked(load("tensor_attention:mask=causal,decay=0.9").program).chunked.token
    assert all("n" not in statement.axes for statement in token.statements)


@pytest.mark.parametrize(
    ("text", "resumable"),
    [
        ("f(q[n,d], k[n,d], w[d]) -> o[n]:\n    g[a] = sigmoid(w[a])\n    o[t] = q[t,a]*g[a]*k[i,a] where i <= t", True),
        ("f(q[n,d], k[n,d], w[d,d]) -> o[n], g[d]:\n    g[a] = w[a,a]\n    o[t] = q[t,a]*k[i,a] where i <= t", True),
        ("f(q[n,d], k[n,d]) -> o[n]:\n    o[t] = q[t,a]*k[i,a]/sqrt(d) where i <= t", True),
        ("f(q[n,d], k[n,d], g) -> o[n]:\n    o[t] = q[t,a]*k[i,a]/g where i <= t", True),
        ("f(q[n,d], k[n,d]) -> o[n], s[d]:\n    s[a] = k[i,a]\n    o[t] = q[t,a]*k[i,a] where i <= t", False),
        ("f(q[n,d], k[n,d]) -> o[n]:\n    o[t] = q[t,a]*k[i,a]/n where i <= t", False),
    ],
)  # fmt: skip
def test_sequences_come_in_pieces_where_nothing_before_the_chunks_reads_tokens(text, resumable):
    stream = lower_chunked(parse(text)).chunked.stream
    assert stream.before is not None
    assert stream.resumable is resumable


BACKWARDS = (
    "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*q[i,b]*k[j,b]*v[j,c] where t <= i <= j decay 0.5"
)


def test_what_runs_backwards_is_chunks_of_the_tokens_from_the_last_to_the_first(rng):
    program = parse(BACKWARDS)
    chunked = lower_chunked(program).chunked
    assert chunked.stream.mirrored
    assert not chunked.stream.resumable
    tensors = {p.name: rng.standard_normal([SIZES[axis] for axis in p.axes]) for p in program.tensors}
    turned = dict(chunked.stream.mirrored)
    given = {p.name: tensors[turned[p.name]][::-1] for p in chunked.stream.tokens}
    given |= {s.name: np.zeros([SIZES[axis] for axis in s.axes]) for s in chunked.stream.states}
    for weights in chunked.stream.weights:
        given |= {weights.rise: 0.5 ** np.arange(1, N + 1), weights.fall: 0.5 ** np.arange(N)[::-1]}
    found = interpret(chunked.chunk, *(given[p.name] for p in chunked.chunk.params))[0]
    np.testing.assert_allclose(found[::-1], interpret(program, *tensors.values()), rtol=1e-9)


def test_what_runs_both_ways_is_one_walk_over_tokens_as_they_are_and_turned_round():
    program = parse("f(q[n,d], k[n,d]) -> o[n]: o[t] = q[t,a]*k[i,a]*q[t,b]*k[j,b] where i <= t <= j")
    stream = lower_chunked(program).chunked.stream
    assert {p.name for p in stream.tokens} == {"k", "k_mirrored"}
    turned = dict(stream.mirrored)
    assert turned.pop("k_mirrored") == "k"
    assert turned.keys() < {p.name for p in stream.results}


def test_a_sum_of_one_way_in_the_other_says_so():
    program = parse(
        "f(q[n,d], k[n,d]) -> o[n]: s[t] = q[t,a]*k[i,a] where i <= t; o[t] = s[i]*q[i,a]*k[t,a] where t <= i"
    )
    with pytest.raises(CompileError, match="sums what runs one way in the other; chunks run one way at a time"):
        lower_chunked(program)


def test_tokens_that_are_single_numbers_stay_a_chunk_of_one():
    assert lower_chunked(parse("f(x[n]) -> y[n]: y[t] = x[i] where i <= t")).chunked.token is None


class TestTokensOfAChunk:
    """Chosen by the cost model: products of tokens grow with a chunk, states are read and written once for each."""

    PROGRAM = load("tensor_attention:mask=causal,normalize=none").program
    COSTS = Costs(among=100_000, state=100)

    def size(self, n, features):
        forms = tuple(form for form in candidates(self.PROGRAM, costs=self.COSTS) if form.chunked)
        return choose(forms, {"n": n, "d": features, "e": features}).chunked.size

    def test_there_is_a_form_of_each_size_and_the_cheapest_for_usual_features_is_the_first(self):
        sizes = [form.chunked.size for form in candidates(self.PROGRAM, costs=self.COSTS) if form.chunked]
        assert sorted(sizes) == list(CHUNKS)
        assert sizes[0] == self.size(1 << 16, 64)

    def test_it_is_longer_where_features_are_wider(self):
        sizes = [self.size(1 << 16, features) for features in (4, 16, 64, 256, 1024)]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[-1]

    @pytest.mark.parametrize("features", [128, 1024])
    def test_of_few_chunks_it_is_the_usual_one(self, features):
        special = self.size(1 << 16, features)
        assert special != self.size(1 << 16, 64)
        assert self.size(MANY * special, features) == special
        assert self.size(MANY * special - 1, features) != special

    def test_states_that_cost_nothing_make_it_short(self):
        forms = candidates(self.PROGRAM, costs=Costs(among=0, state=0))
        assert forms[0].chunked.size == min(CHUNKS)
