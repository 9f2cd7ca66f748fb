"""pad: tokens whose mask is False count for nothing and give exactly 0."""

from __future__ import annotations

import numpy as np
import pytest

from dtn_core.errors import CompileError
from dtn_core.interpret import interpret
from dtn_core.notation import parse
from dtn_core.operators import tensor_attention, tensor_interaction
from dtn_core.passes.padding import MASK, pad
from dtn_core.printer import to_notation
from oracle.knobs import attention_knobs, interaction_knobs, sample, shown

KEEP = np.array([True, False, True, True, False])


def plain(combinations):
    """Combinations for which leaving tokens out is the meaning of a mask (γ counts places, so not with a decay)."""
    return [knobs for knobs in combinations if "decay" not in knobs]


def assert_dropping(operator, rng, *widths):
    """With a mask the output equals the one for the kept tokens alone, and 0 elsewhere."""
    tensors = [0.2 + 0.3 * rng.normal(size=(2, 5, width)) for width in widths]
    tensors[1] = tensors[0] + 0.3 * tensors[1]
    padded = interpret(pad(operator.program), *tensors, **operator.scalars, **{MASK: KEEP})
    alone = interpret(operator.program, *(x[:, KEEP] for x in tensors), **operator.scalars)
    assert np.allclose(padded[:, KEEP], alone, rtol=1e-9, atol=1e-12)
    assert np.array_equal(padded[:, ~KEEP], np.zeros_like(padded[:, ~KEEP]))


@pytest.mark.parametrize("knobs", sample(plain(attention_knobs()), 150, seed=1), ids=shown)
def test_tensor_attention_equals_dropping_the_tokens(rng, knobs):
    assert_dropping(tensor_attention(**knobs), rng, 3, 3, 2)


@pytest.mark.parametrize("knobs", sample(plain(interaction_knobs()), 60, seed=1), ids=shown)
def test_tensor_interaction_equals_dropping_the_tokens(rng, knobs):
    assert_dropping(tensor_interaction(**knobs), rng, 3, 3, 3)


def test_an_operator_with_weights_equals_dropping_the_tokens(rng):
    x, w = rng.normal(size=(5, 3)), rng.normal(size=(3, 2))
    program = parse("f(x[n,d], w[d,e]) -> y[n,e]: h[i,c] = x[i,a]*w[a,c]; m[c] = h[i,c]; y[i,c] = h[i,c] - m[c]")
    padded = interpret(pad(program), x, w, KEEP)
    assert np.allclose(padded[KEEP], interpret(program, x[KEEP], w))
    assert np.array_equal(padded[~KEEP], np.zeros((2, 2)))


def test_an_output_without_tokens_sums_the_kept_ones(rng):
    x = rng.normal(size=(5, 3))
    program = parse("f(x[n,d]) -> y[n,d], s[d]: y[i,a] = 2 * x[i,a]; s[a] = x[i,a]")
    _, total = interpret(pad(program), x, KEEP)
    assert np.allclose(total, x[KEEP].sum(0))


def test_the_length_is_the_number_of_kept_tokens(rng):
    x = rng.normal(size=(5, 3))
    program = parse("f(x[n,d]) -> y[n,d], m[d]: m[a] = x[i,a] / n; y[i,a] = x[i,a] - m[a] * n")
    centred, mean = interpret(pad(program), x, KEEP)
    assert np.allclose(mean, x[KEEP].mean(0))
    assert np.allclose(centred[KEEP], x[KEEP] - x[KEEP].sum(0))


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_what_padded_positions_hold_does_not_matter(rng, poison):
    operator = tensor_attention()
    q, k, v = rng.normal(size=(3, 5, 3))
    expected = interpret(pad(operator.program), q, k, v, KEEP)
    for tensor in (q, k, v):
        tensor[~KEEP] = poison
    assert np.array_equal(interpret(pad(operator.program), q, k, v, KEEP), expected)


def test_a_mask_per_batch_entry(rng):
    q, k, v = rng.normal(size=(3, 2, 5, 3))
    masks = np.array([[True, True, False, False, False], [True, True, True, True, False]])
    got = interpret(pad(tensor_attention().program), q, k, v, masks)
    for entry in range(2):
        keep = masks[entry]
        alone = interpret(tensor_attention().program, q[entry][keep], k[entry][keep], v[entry][keep])
        assert np.allclose(got[entry][keep], alone)


def test_no_token_kept_gives_zero(rng):
    q, k, v = rng.normal(size=(3, 5, 3))
    assert np.array_equal(interpret(pad(tensor_attention().program), q, k, v, np.zeros(5, bool)), np.zeros((5, 3)))


def test_the_padded_program_reads_as_notation():
    program = pad(tensor_attention().program)
    assert parse(to_notation(program)) == program


def test_names_that_are_taken_are_not_reused(rng):
    program = parse("f(x[n,d], x_kept[d]) -> y[n,d]: y_all[i,a] = x[i,a]*x_kept[a]; y[i,a] = 2*y_all[i,a]")
    x, w = rng.normal(size=(5, 3)), rng.normal(size=3)
    assert np.allclose(interpret(pad(program), x, w, KEEP)[KEEP], 2 * (x * w)[KEEP])


def test_an_operator_without_a_sequence_axis_is_refused():
    with pytest.raises(CompileError, match="f: padding_mask needs one sequence axis, found 0"):
        pad(parse("f(x[n]) -> s: s = x[i]"))


def test_an_operator_with_two_sequence_axes_is_refused():
    text = "f(q[n,d], k[m,d]) -> o[n], p[m]: o[t] = q[i,a]*q[t,a] where i <= t; p[t] = k[i,a]*k[t,a] where i <= t"
    with pytest.raises(CompileError, match="f: padding_mask needs one sequence axis, found 2"):
        pad(parse(text))


class TestOperatorsThatAreNotZeroAtZero:
    """Sums over tokens skip padded ones even where the summand of a zero token is not zero."""

    def assert_dropping(self, text, rng, width=3):
        x, y = rng.normal(size=(2, 5, width))
        program = parse(text)
        padded = interpret(pad(program), x, y, KEEP)
        assert np.allclose(padded[KEEP], interpret(program, x[KEEP], y[KEEP]), rtol=1e-12)

    def test_softmax(self, rng):
        text = "f(q[n,d], v[n,d]) -> o[n,d]: S[i,j]=q[i,a]*q[j,a]; E[i,j]=exp(S[i,j]); r[i]=E[i,j]; o[i,c]=E[i,j]*v[j,c]/r[i]"
        self.assert_dropping(text, rng)

    def test_a_sum_of_exponentials(self, rng):
        self.assert_dropping(
            "f(x[n,d], y[n,d]) -> o[n,d]: e[i,a] = exp(x[i,a]); s[a] = e[i,a]; o[i,a] = y[i,a] / s[a]", rng
        )

    def test_a_mean_over_tokens(self, rng):
        self.assert_dropping("f(x[n,d], y[n,d]) -> o[n,d]: m[a] = x[i,a] / n; o[i,a] = y[i,a] - m[a]", rng)
