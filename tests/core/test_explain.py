"""What ``explain`` prints, and what it refuses."""

from __future__ import annotations

import pytest

from dtn_core.explain import explain
from dtn_core.notation import parse
from dtn_core.operators import Operator, tensor_attention, tensor_interaction

SIZES = {"n": 4096, "d": 64, "e": 64}


def test_the_heading_names_operator_backend_dtype_and_sizes():
    first = str(explain(tensor_attention(), SIZES, dtype="float64", backend="torch")).splitlines()[0]
    assert first == "tensor_attention: native torch, float64, n=4096, d=64, e=64"


def test_a_prompt_shows_the_report():
    explanation = explain(tensor_attention(), SIZES)
    assert repr(explanation) == str(explanation)


def test_every_step_is_printed_in_execution_order():
    explanation = explain(tensor_attention(), SIZES)
    text = str(explanation)
    places = [text.index(step.text) for step in explanation.steps]
    assert places == sorted(places)


def test_a_step_reads_only_what_earlier_steps_made():
    known = {"q", "k", "v"}
    for step in explain(tensor_attention(order=4, normalize="row"), SIZES).steps:
        left, _, right = step.text.partition(" = ")
        words = {word.split("[")[0] for word in right.replace("*", " ").replace("/", " ").split() if "[" in word}
        assert words <= known
        known.add(left.split("[")[0])


def test_every_step_names_its_rule():
    rules = {step.rule for step in explain(tensor_attention(activation="expm"), SIZES).steps}
    assert {"low-rank matrix exponential", "contraction path", "as written"} <= rules


def test_the_totals_are_printed_in_closed_form_and_as_numbers():
    explanation = explain(tensor_attention(), SIZES)
    text = str(explanation)
    assert f"{explanation.flops} = {explanation.flops.at(SIZES):,}" in text
    assert f"peak memory  {explanation.peak} bytes = " in text


def test_the_certificate_is_the_last_line():
    explanation = explain(tensor_attention(activation="exp"), SIZES)
    assert str(explanation).splitlines()[-1] == f"certificate  {explanation.certificate}"


def test_sizes_not_given_are_assumed_long_for_sequences_and_64_for_features():
    explanation = explain(tensor_interaction(), {"n": 100})
    assert explanation.sizes == {"n": 100, "d": 64}


def test_complex_arguments_keep_their_conjugates():
    assert any("conj" in step.text for step in explain(tensor_attention(), SIZES, dtype="complex64").steps)


def test_real_arguments_have_none():
    assert not any("conj" in step.text for step in explain(tensor_attention(), SIZES).steps)


def test_an_operator_of_ones_own():
    explanation = explain(
        Operator(parse("f(x[n,d], w[d,e]) -> y[n,e]: y[i,c] = x[i,a] * w[a,c]")), {"n": 10, "d": 3, "e": 2}
    )
    assert [step.text for step in explanation.steps] == ["y[i,c] = x[i,a] * w[a,c]"]
    assert explanation.flops.at(explanation.sizes) == 2 * 10 * 3 * 2


def test_axes_that_are_called_as_a_chunk_is_are_told_from_it():
    text = "f(q[n,{0}], k[n,{0}], v[n,{1}]) -> o[n,{1}]:\n    o[t,c] = q[t,a] * k[j,a] * v[j,c] where j <= t"
    usual, clashing = (
        explain(Operator(parse(text.format(*axes))), dict(zip(("n", *axes), (4096, 32, 16), strict=True)))
        for axes in ("de", "CG")
    )
    assert "chunks of C2 tokens, those of G2 tokens at once" in str(clashing)
    costs = [[x.flops, x.bytes, x.peak] for x in (usual, clashing)]
    assert [cost.at(usual.sizes) for cost in costs[0]] == [cost.at(clashing.sizes) for cost in costs[1]]


def test_an_unknown_axis_is_refused():
    with pytest.raises(ValueError, match="tensor_attention has no axis 'z'; its axes are n, d, e"):
        explain(tensor_attention(), {"z": 3})


@pytest.mark.parametrize("size", [-1, 2.5, "7", True])
def test_a_size_that_is_not_a_natural_number_is_refused(size):
    with pytest.raises(ValueError, match="axis n: size .* is not a natural number"):
        explain(tensor_attention(), {"n": size})


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="dtype 'int8' is not one of float16, "):
        explain(tensor_attention(), SIZES, dtype="int8")


@pytest.mark.parametrize(
    "sizes", [{"n": 0, "d": 64, "e": 64}, {"n": 1, "d": 1, "e": 1}, {"n": 10**9, "d": 10**4, "e": 1}]
)
def test_extreme_sizes_are_explained(sizes):
    assert explain(tensor_attention(), sizes).peak.at(sizes) >= 0
