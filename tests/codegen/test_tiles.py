"""Tile programs: how many walks over the sequence, and what shares an accumulator; numbers are held in tests/tvm."""

from __future__ import annotations

import numpy as np
import pytest

from dtn_codegen.tensorir.layout import choose
from dtn_codegen.tensorir.one_token import one_token
from dtn_codegen.tensorir.steps import fuse
from dtn_codegen.tensorir.tiles import backward, backward_by_rows, forward, forward_by_rows
from dtn_core.errors import CompileError
from dtn_core.interpret import interpret
from dtn_core.notation import parse
from dtn_core.operators import as_operator, catalogue, tensor_attention, tensor_interaction
from dtn_core.passes.padding import pad
from dtn_core.passes.pipeline import candidates
from oracle.by_rows import BOTH_SIDES


def form(operator):
    return candidates(operator.program)[0]


def causal(**knobs):
    return form(tensor_attention(mask="causal", **knobs))


def test_a_causal_operator_is_one_walk_that_reads_its_arguments_once():
    program = forward(causal(normalize=None))
    (walk,) = program.walks
    assert walk.reads(["q", "k", "v"]) == ("q", "k", "v")
    assert walk.results == ("o",)
    assert [(state.name, state.total) for state in walk.carried] == [("o_state_past", False), ("o_past", False)]


def test_what_is_within_a_chunk_and_before_it_shares_an_accumulator():
    (walk,) = forward(causal(normalize=None)).walks
    sums = {step.name: len(step.contractions) for step in walk.body}
    assert sums == {
        "q_k_masked": 1, "o_state": 2, "q_o_state_masked": 1, "o": 2, "o_state_past": 1, "o_past": 1,
    }  # fmt: skip
    assert all(step.is_matmul for step in walk.body)


def test_decays_and_normalisers_are_factors_of_the_accumulator():
    (walk,) = forward(causal(decay=0.9)).walks
    (result,) = (step for step in walk.body if step.name == "o")
    before, within = result.groups
    assert [read.tensor for read in before.contractions[0].factors] == ["q", "o_state_past"]
    assert str(before.factor).count("rise") == 1
    assert str(within.factor).count("recip") == 1


def test_without_order_sums_come_first_and_results_in_a_second_walk():
    sums, results = forward(form(tensor_attention())).walks
    assert [carried.name for carried in sums.carried] == ["k_k", "q_q", "q_v"]
    assert all(carried.total for carried in sums.carried)
    assert sums.results == ()
    assert results.results == ("o",)
    assert results.reads(["q", "k", "v"]) == ("q",)


def test_a_mask_on_the_whole_has_its_sums_before_the_causal_walk():
    sums, chunks = forward(form(tensor_attention(mask="tril"))).walks
    assert all(carried.total for carried in sums.carried)
    assert chunks.results == ("o",)


def test_the_gradient_keeps_states_forward_and_returns():
    there, back = backward(causal(normalize=None)).walks
    assert there.saved == back.loaded == ("o_state_past", "o_past")
    assert (there.reverse, back.reverse) == (False, True)
    assert back.results == ("d_q", "d_k", "d_v")


def test_a_state_is_overwritten_after_its_last_read():
    for operator in (causal(normalize="row", decay=0.9), form(tensor_interaction(mask="causal"))):
        (walk,) = forward(operator).walks
        names = [step.name for step in walk.body]
        for carried in walk.carried:
            written = names.index(carried.name)
            assert all(carried.name not in {r.tensor for r in step.reads} for step in walk.body[written + 1 :])


@pytest.mark.parametrize(("order", "walks"), [(1, 2), (2, 3), (3, 3)])
def test_a_sequence_in_parts_is_a_walk_for_each_level_of_states(order, walks):
    program = forward(causal(normalize=None, order=order), split=True)
    assert len(program.walks) == walks
    *sums, last = program.walks
    assert all(any(carried.partial for carried in walk.carried) for walk in sums)
    assert last.results == ("o",)
    assert not any(carried.partial for carried in last.carried)


def test_the_gradient_of_a_sequence_in_parts_is_walks_for_each_level_both_ways():
    walks = backward(causal(normalize=None), split=True).walks
    assert [walk.reverse for walk in walks] == [False] * 3 + [True] * 3
    sums, saves, back = walks[0:2], walks[2], walks[3:]
    assert [{c.name for c in walk.carried if c.partial} for walk in sums] == [{"o_state_past"}, {"o_past"}]
    assert (saves.saved, saves.stored) == (("o_state_past", "o_past"), ())
    assert [{c.name for c in walk.carried if c.partial} for walk in back] == [
        {"d_o_added"},
        {"d_o_state_added"},
        set(),
    ]
    assert [walk.results for walk in back] == [(), (), ("d_q", "d_k", "d_v")]
    assert sums[1].stored == ("o_state",)
    assert all("o_state" in walk.loaded for walk in (saves, back[-1]))


def test_parts_compute_nothing_twice_but_sums_of_states():
    program = forward(causal(normalize=None), split=True)
    made = [step.name for walk in program.walks for step in walk.body]
    assert {name for name in made if made.count(name) > 1} == {"o_state_past", "o_past"}


def test_states_are_arguments_and_results_where_a_call_asks_for_them():
    program = forward(causal(normalize=None), resumed=True)
    assert [param.name for param in program.inputs[3:]] == ["o_state_past_first", "o_past_first"]
    assert [param.name for param in program.outputs[1:]] == ["o_state_past_last", "o_past_last"]
    assert all(map(program.is_wide, (*program.inputs[3:], *program.outputs[1:])))
    (walk,) = program.walks
    assert [(state.first, state.last) for state in walk.carried] == [
        ("o_state_past_first", "o_state_past_last"),
        ("o_past_first", "o_past_last"),
    ]


def test_the_gradient_takes_cotangents_of_the_last_states_back_to_the_first():
    there, back = backward(causal(normalize=None), resumed=True).walks
    assert [(state.first, state.last) for state in there.carried] == [("o_state_past_first", ""), ("o_past_first", "")]
    assert [(state.first, state.last) for state in back.carried if not state.total] == [
        ("d_o_state_past_last", "d_o_state_past_first"),
        ("d_o_past_last", "d_o_past_first"),
    ]


def test_parts_that_are_lowered_one_by_one_keep_their_tensors_apart():
    sums, chunks = forward(candidates(pad(tensor_attention(mask="tril").program))[0]).walks
    assert "chain" in {carried.name for carried in sums.carried}
    assert "chain" not in {step.name for step in chunks.body}


ONE_AT_A_TIME = {
    "two simplicial": catalogue["two_simplicial"].build(),
    "decay": tensor_attention(mask="causal", decay=0.9, residual=0.5),
    "hadamard": tensor_attention(mask="causal", product="hadamard"),
    "interaction": tensor_interaction(mask="causal"),
}


@pytest.mark.parametrize("name", ONE_AT_A_TIME)
def test_a_chunk_of_one_token_is_the_operator_token_by_token(name, rng):
    operator = ONE_AT_A_TIME[name]
    stream = form(operator).chunked.stream
    program = one_token(stream)
    sizes = dict(zip(operator.program.axes, (5, 3, 2), strict=False))
    given = {p.name: rng.uniform(0.1, 1.0, [sizes[a] for a in p.axes]) for p in operator.program.tensors}
    states = {state.name: np.zeros([sizes[axis] for axis in state.axes]) for state in stream.states}
    rows = []
    for token in range(sizes[stream.axis]):
        now = {name: x[token] for name, x in given.items()} | states | dict(operator.scalars)
        row, *after = interpret(program, **{param.name: now[param.name] for param in program.params})
        states = dict(zip(states, after, strict=True))
        rows.append(row)
    np.testing.assert_allclose(rows, interpret(operator.program, **given, **operator.scalars), rtol=1e-12)


def test_a_product_of_two_states_has_a_walk_of_one_token_a_chunk():
    program = forward(form(catalogue["two_simplicial"].build()))
    assert program.by_token
    assert program.axes["q"] == ("d",)
    (walk,) = program.walks
    assert [state.name for state in walk.carried] == ["o_state_past", "o_past"]
    assert max(len(step.indices) for step in walk.steps) == 2


@pytest.mark.parametrize("knobs", [{}, {"decay": 0.9}, {"normalize": "row"}], ids=str)
def test_a_state_over_a_pair_of_features_is_a_matrix(knobs):
    program = forward(causal(product="hadamard", **knobs))
    assert not program.by_token
    assert program.pairs["d*d"] == ("d", "d")
    (walk,) = program.walks
    assert ("d*d", "e") in {carried.axes for carried in walk.carried}
    assert max(len(step.indices) for step in walk.steps) == 2


def test_a_pair_of_features_that_is_taken_apart_has_no_kernel():
    apart = """apart(q[n,d], k[n,d], v[n,e]) -> o[n,e]:
        T[t,a,b,c] = k[i,a] * k[i,b] * v[i,c]   where i <= t
        o[t,c] = exp(q[t,a]) * T[t,a,b,c] * T[t,b,a,c]"""
    with pytest.raises(CompileError, match="a tile has 2"):
        forward(form(as_operator(apart)))


def test_a_function_of_a_matrix_is_a_step_of_its_own():
    program = forward(form(tensor_attention(activation="expm")))
    (step,) = (step for step in program.steps if step.is_matrix_function)
    assert [read.tensor for read in step.reads] == ["E_gram"]
    assert step in program.walks[-1].setup  # between the walk that sums and the one that has the results


def test_one_argument_is_turned_for_the_causal_operator():
    layout = choose(forward(causal(normalize=None)))
    both = [name for name, forms in layout.forms.items() if len(forms) > 1]
    assert both == ["q"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f(x[n,d]) -> y[n,n]: y[i,j] = x[i,a] * x[j,a]", "two axes n|is not"),
        ("f(x[n,d]) -> y[d]: y[a] = x[i,a]", "0 sequence axes"),
        ("f(x[n,d,e]) -> y[n,d,e]: y[i,a,b] = 2 * x[i,a,b]", r"x\[n,d,e\] is not \[n, features\]"),
    ],
)
def test_what_has_no_tile_form_says_why(text, message):
    with pytest.raises(CompileError, match=message):
        forward(form(as_operator(text)))


def test_sums_that_are_scaled_differently_are_two_steps():
    program = parse(
        """f(x[n,d], y[d,e], z[d,e], s[n], t[n]) -> o[n,e]:
        a[i,c] = x[i,b] * y[b,c]
        b[i,c] = x[i,a] * z[a,c]
        p[i,c] = s[i] * a[i,c]
        r[i,c] = t[i] * b[i,c]
        o[i,c] = p[i,c] + r[i,c]"""
    )
    steps = fuse(program.statements, ["o"])
    assert len(steps) == 2
    assert steps[-1].name == "o"


def test_a_scale_that_another_statement_computes_stays_a_factor_of_the_accumulator():
    program = parse("f(x[n,d], r[n]) -> o[n]:\n    s[i] = exp(r[i])\n    o[i] = s[i] * x[i,a] * x[i,a]")
    (step,) = fuse(program.statements, ["o"])
    assert {read.tensor for read in step.reads} == {"x", "r"}


def test_what_reads_the_new_value_of_a_state_comes_after_it_and_reads_the_state():
    program = parse(
        """f(x[d], y[e], s[d,e]) -> o[e], t[d,e]:
        t[a,c] = s[a,c] + x[a] * y[c]
        before[c] = x[a] * s[a,c]
        o[c] = x[a] * t[a,c] + before[c]"""
    )
    steps = fuse(program.statements, ["o"], {"t": "s"})
    assert [step.name for step in steps] == ["before", "s", "o"]
    assert {read.tensor for read in steps[-1].reads} == {"x", "s", "before"}


def test_the_gradient_of_one_token_a_chunk_computes_the_states_of_a_segment_once_more():
    program = backward(form(catalogue["two_simplicial"].build()))
    there, back = program.walks
    assert program.by_token
    assert there.saved == back.loaded == ("o_state_past", "o_past")
    assert back.replay == there.body
    assert back.results == ("d_q", "d_k", "d_l", "d_v", "d_w")


@pytest.mark.parametrize("knobs", [{}, {"decay": 0.9}, {"normalize": "row"}], ids=str)
def test_the_gradient_by_one_feature_of_a_pair_sums_over_the_other(knobs):
    program = backward(causal(product="hadamard", **knobs))
    assert program.pairs == {"d*d": ("d", "d")}
    apart = [step for step in program.walks[1].body if step.takes_apart]
    assert len(apart) == 4  # each of two pairs, by the first and by the second
    assert all(len(contraction.summed) == 1 for step in apart for contraction in step.contractions)


ROW = """row(q[n,d], k[n,d], v[n,e]) -> o[n,e]:
    z[i,j] = q[i,a] * k[j,a]
    s[i,j] = exp(z[i,j])
    o[i,c] = s[i,j] * v[j,c]   where {order}"""


@pytest.mark.parametrize(
    ("order", "side", "other"), [("j <= i", "before", "after"), ("i <= j", "after", "before"), ("", "all", "all")]
)
def test_no_matrix_is_there_whole(order, side, other):
    """Each has one axis along a chunk of rows, the other along a chunk of the tokens that a row takes part with."""
    lowered = form(as_operator(ROW.format(order=order).removesuffix("   where ")))
    forth, back = forward_by_rows(lowered), backward_by_rows(lowered, split=True)
    for walk in (*forth.walks, *back.walks):
        assert {tuple(sorted(index.axis for index in step.indices)) for step in walk.body} <= {
            ("n", "n_row"), ("d", "n_row"), ("e", "n_row"),
        }  # fmt: skip
    (walk,) = forth.walks
    assert (walk.rows.side, walk.rows.read) == (side, {"q_row": "q"})
    results = {walk.rows.side: set(walk.rows.results) for walk in back.walks}
    if side == other:
        assert results == {"all": {"d_q", "d_k", "d_v"}}
    else:
        assert results == {side: {"d_q"}, other: {"d_k", "d_v"}}


@pytest.mark.parametrize(("order", "side"), [("j <= i", "after"), ("i <= j", "before"), ("", "all")])
def test_matrices_that_are_summed_both_ways_are_computed_once(order, side):
    """Scores, their gradient, and dQ, dK and dV: five products, where parts of the rows side by side take seven."""
    lowered = form(as_operator(ROW.format(order=order).removesuffix("   where ")))
    (walk,) = backward_by_rows(lowered).walks
    assert (walk.rows.side, set(walk.rows.results), walk.rows.gathered) == (side, {"d_k", "d_v"}, ("d_q",))
    assert sum(len(step.contractions) for step in walk.body) == 5
    apart = backward_by_rows(lowered, split=True).walks
    assert sum(len(step.contractions) for walk in apart for step in walk.body) == 7


def test_a_matrix_that_is_a_sum_of_both_sides_is_on_neither():
    """The cotangent of ``s`` has what is before a token from ``x`` and what is after it from ``y``."""
    walks = backward_by_rows(form(BOTH_SIDES), split=True).walks
    sides = {name: walk.rows.side for walk in walks if walk.rows for name in walk.rows.results}
    assert sides == {"d_q": "all", "d_k": "all", "d_v": "after", "d_w": "before"}


def test_what_a_token_sums_up_is_computed_once_for_all_rows():
    """A product of two matrices is one of a matrix and a tensor of tokens, which a walk over rows of its own sums."""
    first, second = forward_by_rows(causal(activation="exp", normalize=None)).walks
    assert set(first.rows.stored.values()) == set(second.loaded) == {"k_k_q_masked"}
    assert (first.rows.side, second.rows.side) == ("before", "before")


def test_results_that_follow_from_the_sums_of_a_row_are_made_with_them():
    (walk,) = forward_by_rows(causal(product="hadamard", normalize="row")).walks
    assert [step.name for step in walk.rows.tail] == ["o_row"]
    assert not walk.rows.stored


def test_tensors_along_rows_are_the_ones_held_both_ways():
    """They are read from memory once for a whole walk over the tokens."""
    program = forward_by_rows(causal(product="hadamard", normalize=None))
    twice = {name for name, forms in choose(program).forms.items() if len(forms) > 1}
    assert twice == {"q_row", "k_row"}


@pytest.mark.parametrize(
    ("operator", "reason"),
    [
        (tensor_attention(activation="expm", product="hadamard"), "E is a function of an n×n matrix"),
        (
            (
                "square(s[n,d]) -> o[n]:\n z[i,j] = s[i,a] * s[j,a]\n x[i,j] = exp(z[i,j])\n y[i,j] = x[i,l] * x[l,j]\n"
                " u[i,j] = relu(y[i,j])\n o[i] = u[i,j]"
            ),
            "multiplies n×n matrices",
        ),
        (
            "diagonal(s[n,d]) -> o[n]:\n z[i,j] = s[i,a] * s[j,a]\n x[i,j] = exp(z[i,j])\n o[i] = x[i,i] * x[i,j]",
            "diagonal",
        ),
    ],
)
def test_matrices_that_rows_do_not_make_up(operator, reason):
    with pytest.raises(CompileError, match=reason):
        forward_by_rows(candidates(as_operator(operator).program)[0])


@pytest.mark.parametrize("order", [2, 3])
def test_gradients_of_sums_over_the_whole_come_after_the_walk_back(order):
    program = backward(form(tensor_attention(mask="tril", order=order)))
    (back,) = (walk for walk in program.walks if walk.reverse)
    later = program.walks[program.walks.index(back) + 1 :]
    assert back.results == ("d_v",)
    assert "o_whole" in back.loaded
    assert set(back.stored) <= {name for walk in later for name in walk.loaded}
    assert {name for walk in later for name in walk.results} == {"d_q", "d_k"}
    parts = {
        name: name.removesuffix("_causal") for name in back.stored if name.removesuffix("_causal") in ("d_q", "d_k")
    }
    assert parts
    for part, whole in parts.items():
        assert all(part in walk.loaded for walk in later if whole in walk.results)
