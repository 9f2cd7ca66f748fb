"""The certificate: no step of a linear form has two sequence axes, and every other form says why.

The claim is checked on the steps themselves, not on the sentence that reports it.
"""

from __future__ import annotations

import pytest

from dtn_core.explain import explain
from dtn_core.operators import catalogue, tensor_attention, tensor_interaction
from dtn_core.passes.pipeline import lower
from oracle.knobs import attention_knobs, interaction_knobs, sample, shown

SIZES = {"n": 65_536, "d": 64, "e": 64}
LINEAR = "no intermediate has two sequence axes"


def structures(combinations):
    """Combinations without their scalars, which change no form."""
    return [knobs for knobs in combinations if "scale" not in knobs]


def is_linear(knobs):
    """What OPERATORS.md promises for mask=None: all but elementwise functions of T, and expm of a Hadamard product."""
    activation = knobs["activation"]
    return activation is None or (activation == "expm" and knobs.get("product") != "hadamard")


UNMASKED = [knobs for knobs in structures(attention_knobs()) if "mask" not in knobs]


@pytest.mark.parametrize("knobs", [k for k in UNMASKED if is_linear(k) and k["side"] == "q"], ids=shown)
def test_no_step_of_a_linear_combination_has_two_sequence_axes(knobs):
    program = lower(tensor_attention(**knobs).program, SIZES).program
    assert all(statement.axes.count("n") <= 1 for statement in program.statements)


@pytest.mark.parametrize("knobs", sample([k for k in UNMASKED if is_linear(k)], 20, seed=8), ids=shown)
def test_the_certificate_of_a_linear_combination_says_so(knobs):
    explanation = explain(tensor_attention(**knobs), SIZES)
    assert explanation.linear
    assert explanation.certificate == LINEAR


@pytest.mark.parametrize("knobs", sample([k for k in UNMASKED if not is_linear(k)], 20, seed=8), ids=shown)
def test_a_dense_combination_names_the_tensor_and_the_reason(knobs):
    explanation = explain(tensor_attention(**knobs), SIZES)
    assert not explanation.linear
    name, _, rest = explanation.certificate.partition(" has two sequence axes (n × n): ")
    assert any(step.text.startswith(f"{name}[") for step in explanation.steps)
    activation = knobs["activation"]
    expected = (
        "is dense, its rank is the product of several axes"
        if activation == "expm"
        else f"{activation} acts on every element of it"
    )
    assert expected in rest


INTERACTION = [knobs for knobs in structures(interaction_knobs()) if "mask" not in knobs]


@pytest.mark.parametrize("knobs", sample(INTERACTION, 20, seed=8), ids=shown)
def test_tensor_interaction_is_always_linear(knobs):
    program = lower(tensor_interaction(**knobs).program, SIZES).program
    assert all(statement.axes.count("n") <= 1 for statement in program.statements)
    assert explain(tensor_interaction(**knobs), {"n": 65_536, "d": 64}).certificate == LINEAR


MASKED = [knobs for knobs in structures(attention_knobs()) if "mask" in knobs]


@pytest.mark.parametrize("knobs", sample(MASKED, 25, seed=8), ids=shown)
def test_a_masked_combination_is_linear_or_says_why_not(knobs):
    explanation = explain(tensor_attention(**knobs), SIZES)
    if explanation.linear:
        assert explanation.certificate == LINEAR
    else:
        assert " has two sequence axes (n × n): " in explanation.certificate


@pytest.mark.parametrize("name", [name for name, entry in catalogue.items() if not entry.knobs])
def test_a_written_operator_is_linear_or_says_why_not(name):
    explanation = explain(catalogue[name].build(), {"n": 65_536})
    assert (explanation.certificate == LINEAR) == explanation.linear
    assert explanation.linear or " has two sequence axes (n × n): " in explanation.certificate


def test_a_short_sequence_may_run_dense_and_says_that_it_is_cheaper():
    explanation = explain(tensor_attention(order=1, normalize=None), {"n": 4, "d": 512, "e": 512})
    assert not explanation.linear
    assert "at these sizes it is" in explanation.certificate
    assert "times cheaper than the linear form" in explanation.certificate


@pytest.mark.parametrize("normalize", ["trace", "diag", "row", None])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_65536_tokens_fit_well_under_a_gibibyte(order, normalize):
    explanation = explain(tensor_attention(order=order, normalize=normalize), SIZES)
    assert explanation.peak.at(SIZES) < 2**30 / 16
