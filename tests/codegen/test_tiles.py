"""Tile programs: how many walks over the sequence, and what shares an accumulator; numbers are held in tests/tvm."""

from __future__ import annotations

import pytest

from dtn_codegen.tensorir.layout import choose
from dtn_codegen.tensorir.steps import fuse
from dtn_codegen.tensorir.tiles import backward, forward
from dtn_core.errors import CompileError
from dtn_core.notation import parse
from dtn_core.operators import as_operator, tensor_attention, tensor_interaction
from dtn_core.passes.pipeline import candidates


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


def test_parts_compute_nothing_twice_but_sums_of_states():
    program = forward(causal(normalize=None), split=True)
    made = [step.name for walk in program.walks for step in walk.body]
    assert {name for name in made if made.count(name) > 1} == {"o_state_past", "o_past"}


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
