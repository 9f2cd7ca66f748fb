"""Knobs: values outside their set and combinations that make no sense are a ValueError naming the knobs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dtn_core.operators import KNOBS, PARAMETER, catalogue, load, tensor_attention, tensor_interaction
from dtn_core.operators.operator import Operator, as_operator
from dtn_core.printer import to_notation

BOTH = [tensor_attention, tensor_interaction]


@pytest.mark.parametrize(
    ("knobs", "first", "second"),
    [
        ({"product": "hadamard", "order": 3}, "product='hadamard'", "order=3"),
        ({"product": "hadamard", "order": 1}, "product='hadamard'", "order=1"),
        ({"product": "hadamard", "asymmetric": True}, "product='hadamard'", "asymmetric=True"),
        ({"decay": 0.9}, "decay", "mask=None"),
        ({"decay": 0.9, "mask": "tril"}, "decay", "mask='tril'"),
        ({"normalize": None, "eps": 1e-6}, "eps", "normalize=None"),
    ],
)
def test_knobs_that_clash_are_both_named(knobs, first, second):
    with pytest.raises(ValueError, match="tensor_attention: .* clashes with ") as caught:
        tensor_attention(**knobs)
    assert first in str(caught.value)
    assert second in str(caught.value)


@pytest.mark.parametrize(
    ("knobs", "first", "second"),
    [({"decay": 0.9}, "decay", "mask=None"), ({"normalize": None, "eps": 1e-6}, "eps", "normalize=None")],
)
def test_knobs_of_tensor_interaction_that_clash_are_both_named(knobs, first, second):
    with pytest.raises(ValueError, match="tensor_interaction: .* clashes with ") as caught:
        tensor_interaction(**knobs)
    assert first in str(caught.value)
    assert second in str(caught.value)


@pytest.mark.parametrize("build", BOTH)
@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("side", "v"), ("side", None), ("product", "outer"), ("normalize", "softmax"), ("normalize", False),
        ("activation", "gelu"), ("mask", "triu"), ("mask", True),
        ("scale", "1"), ("scale", math.nan), ("scale", math.inf), ("scale", True), ("scale", None), ("residual", math.inf),
        ("residual", "x"), ("eps", -1e-9), ("eps", math.nan), ("decay", 0.0), ("decay", 1.5), ("decay", -0.5), ("decay", math.nan),
    ],
)  # fmt: skip
def test_a_value_outside_its_set_is_named(build, knob, value):
    extra = {"mask": "causal"} if knob == "decay" else {}
    with pytest.raises(ValueError, match=f"{build.__name__}: {knob}=.*") as caught:
        build(**extra, **{knob: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("order", [0, -1, 2.0, "2", True, None])
def test_an_order_that_is_not_a_positive_integer_is_named(order):
    with pytest.raises(ValueError, match=f"order={order!r} is not an integer >= 1"):
        tensor_attention(order=order)


@pytest.mark.parametrize("order", [np.int64(3), np.uint8(3), np.array(3)], ids=repr)
def test_any_integer_is_an_order(order):
    assert tensor_attention(order=order) == tensor_attention(order=3)


@pytest.mark.parametrize("order", [np.True_, np.float64(3), np.array([2, 3]), [3]], ids=repr)
def test_what_only_equals_an_integer_is_no_order(order):
    with pytest.raises(ValueError, match="tensor_attention: order=.* is not an integer >= 1"):
        tensor_attention(order=order)


@pytest.mark.parametrize("value", [["q"], {}, np.array("q"), np.array(["q", "k"])], ids=repr)
def test_a_choice_is_a_text(value):
    with pytest.raises(ValueError, match="tensor_attention: side=.* is not one of 'q', 'k'"):
        tensor_attention(side=value)


@pytest.mark.parametrize("value", [0, 1, None, "yes"])
def test_asymmetric_is_a_bool(value):
    with pytest.raises(ValueError, match=f"asymmetric={value!r} is not a bool"):
        tensor_attention(asymmetric=value)


def test_an_order_beyond_what_names_and_compilation_allow_is_refused():
    with pytest.raises(ValueError, match="order=10000"):
        tensor_attention(order=10_000)
    with pytest.raises(ValueError, match="order=<an integer of 16610 bits> is above 64"):
        tensor_attention(order=10**5000)  # which Python refuses to write


def test_tensor_interaction_has_no_tril():
    with pytest.raises(ValueError, match="tensor_interaction: mask='tril' is not one of None, 'causal'"):
        tensor_interaction(mask="tril")


def test_a_choice_lists_what_there_is():
    with pytest.raises(ValueError, match="normalize='l2' is not one of 'trace', 'diag', 'row', None"):
        tensor_attention(normalize="l2")


@pytest.mark.parametrize("build", BOTH)
def test_a_decay_of_one_is_allowed(build):
    assert build(mask="causal", decay=1.0).scalars == {"decay": 1.0}


@pytest.mark.parametrize("build", BOTH)
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int32, np.longdouble])
def test_numpy_numbers_are_numbers(build, kind):
    assert build(scale=kind(2.0)).scalars == {"scale": 2.0}
    with pytest.raises(ValueError, match="eps=.*-2.* is negative"):
        build(eps=kind(-2.0))


@pytest.mark.parametrize("build", BOTH)
@pytest.mark.parametrize("knob", ["scale", "residual", "eps", "decay"])
@pytest.mark.parametrize(
    "value", [10**400, -(10**5000), np.float32(np.nan), np.True_], ids=["", "negative", "nan", "truth"]
)
def test_a_number_that_is_no_finite_float_is_named(build, knob, value):
    with pytest.raises(ValueError, match=f"{build.__name__}: {knob}=.* is not a finite number"):
        build(**{knob: value}, mask="causal")


class TestScalars:
    def test_a_scalar_at_its_neutral_value_is_not_a_parameter(self):
        assert tensor_attention(scale=1.0, residual=0.0, eps=0.0).program.scalars == ()

    def test_a_scalar_is_bound_to_its_value(self):
        assert tensor_attention(scale=0.5, residual=2, eps=1e-6).scalars == {"scale": 0.5, "residual": 2.0, "eps": 1e-6}

    def test_a_parameter_is_left_to_the_call(self):
        operator = tensor_attention(scale=PARAMETER)
        assert [param.name for param in operator.program.scalars] == ["scale"]
        assert operator.scalars == {}

    def test_two_values_share_one_program(self):
        assert tensor_attention(scale=0.5).program == tensor_attention(scale=0.25).program


class TestDocumentation:
    @pytest.mark.parametrize("entry", catalogue.values(), ids=lambda entry: entry.name)
    def test_every_entry_builds_with_its_defaults(self, entry):
        operator = entry.build()
        assert operator.name == entry.name
        assert entry.summary

    @pytest.mark.parametrize("entry", catalogue.values(), ids=lambda entry: entry.name)
    def test_the_signature_is_that_of_the_notation(self, entry):
        head = entry.build().notation.splitlines()[0]
        assert head == f"{entry.name}({entry.signature.replace(' ->', ') ->')}:"

    @pytest.mark.parametrize("entry", [e for e in catalogue.values() if e.knobs], ids=lambda entry: entry.name)
    def test_the_documented_defaults_are_the_real_ones(self, entry):
        defaults = {name: doc.default for name, doc in entry.knobs.items()}
        assert entry.build(**defaults).program == entry.build().program

    def test_every_knob_of_the_table_belongs_to_an_operator(self):
        assert set(KNOBS) == {name for entry in catalogue.values() for name in entry.knobs}


class TestLoad:
    def test_a_name(self):
        assert load("tensor_attention") == tensor_attention()

    def test_a_name_with_knobs(self):
        text = "tensor_attention:order=3,mask=tril,normalize=none,asymmetric=true,scale=0.5"
        expected = tensor_attention(order=3, mask="tril", normalize=None, asymmetric=True, scale=0.5)
        assert load(text) == expected

    def test_blanks_around_knobs_do_not_matter(self):
        assert load("tensor_attention: order = 3 , mask = tril") == tensor_attention(order=3, mask="tril")

    def test_a_file(self, tmp_path):
        path = tmp_path / "mine.dtn"
        path.write_text("mine(x[n]) -> y[n]:\n    y[i] = 2 * x[i]\n")
        assert load(str(path)).name == "mine"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("tensor_atention", "'tensor_atention' is neither a file nor an operator of the catalogue"),
            ("tensor_attention:ordr=3", "tensor_attention: unknown knob 'ordr'; known: side, product, order"),
            ("tensor_attention:order", "tensor_attention: knob order needs a value, as in order=2"),
            ("tensor_attention:order=x", "order='x' is not an integer >= 1"),
            ("tensor_attention:mask=banded", "mask='banded' is not one of"),
            ("tensor_attention:product=hadamard,order=3", "product='hadamard' clashes with order=3"),
            ("ahla:order=3", "ahla: unknown knob 'order'; known: none"),
            ("", "is neither a file nor an operator of the catalogue"),
        ],
    )
    def test_bad_text_is_one_clear_line(self, text, message):
        with pytest.raises(ValueError, match=".*") as caught:
            load(text)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_knob_given_twice_is_refused(self):
        with pytest.raises(ValueError, match="knob order is given twice"):
            load("tensor_attention:order=2,order=3")

    def test_a_directory_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="is neither a file nor an operator"):
            load(str(tmp_path))

    def test_a_file_that_is_not_text_is_refused(self, tmp_path):
        path = tmp_path / "binary.dtn"
        path.write_bytes(b"f(x[n]) \xff\xfe")
        with pytest.raises(ValueError, match="not UTF-8 text at byte 8"):
            load(str(path))

    def test_a_huge_file_is_refused_unread(self, tmp_path):
        path = tmp_path / "huge.dtn"
        path.write_bytes(b" " * 200_000)
        with pytest.raises(ValueError, match="200,000 bytes of notation; at most 100,000 are read"):
            load(str(path))


class TestOperator:
    def test_its_notation_reads_back(self):
        operator = tensor_attention(order=3, mask="causal", decay=0.9)
        assert as_operator(operator.notation).program == operator.program

    def test_notation_a_program_and_an_operator_are_all_accepted(self):
        operator = tensor_attention()
        assert as_operator(operator) is operator
        assert as_operator(operator.program).program is operator.program
        assert as_operator(to_notation(operator.program)).program == operator.program

    def test_anything_else_is_refused(self):
        with pytest.raises(TypeError, match="expected index notation, a Program or an Operator, got int"):
            as_operator(3)

    def test_equal_operators_have_equal_hashes(self):
        assert hash(tensor_attention(scale=0.5)) == hash(tensor_attention(scale=0.5))
        assert isinstance(tensor_attention(), Operator)

    def test_operators_that_differ_in_a_scalar_differ(self):
        assert tensor_attention(scale=0.5) != tensor_attention(scale=0.25)


def test_a_prompt_shows_the_signature_and_the_knobs_that_were_chosen():
    shown = repr(tensor_attention(mask="causal", decay=PARAMETER, eps=1e-6))
    assert shown == (
        "<Operator tensor_attention(q[n,d], k[n,d], v[n,e], eps, decay) -> o[n,e], "
        "mask='causal', decay=PARAMETER, eps=1e-06>"
    )
    written = Operator(as_operator("f(x[n], g) -> y[n]: y[i] = g * x[i]").program, {"g": 2.0})
    assert repr(written) == "<Operator f(x[n], g) -> y[n], g=2.0>"
