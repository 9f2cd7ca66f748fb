"""What random programs and readers found, shrunk: each was wrong, or refused, once."""

from __future__ import annotations

import pytest
from agreement import Agreement

from oracle.cases import case

FOUND = {
    "a tensor squared at the token that others are summed to, and a weight": case(
        """
        f(x[n,d], m[d]) -> o[n]:
            o[t] = x[t,a] * x[t,a] * x[i,a] * m[a]   where i <= t""",
        {"n": 5, "d": 2},
    ),
    "a gradient that is infinite where relu is 0": case(
        """
        f(x[n,d]) -> s:
            s = sqrt(relu(x[i,a]))""",
        {"n": 5, "d": 2},
    ),
    "the size of an axis that no tensor of a chunk has": case(
        """
        f(x[n,d], z[n,e]) -> o[n]:
            o[t] = x[t,a] * x[i,a] * e   where i <= t""",
        {"n": 5, "d": 2, "e": 3},
    ),
    "the length of the sequence in a chunk": case(
        """
        f(x[n,d]) -> o[n]:
            o[t] = x[t,a] * x[i,a] / n + n * x[t,b]   where i <= t""",
        {"n": 5, "d": 2},
    ),
    "a function of the length of the sequence in a chunk": case(
        """
        f(x[n,d]) -> o[n]:
            o[t] = x[t,a] * x[i,a] / sqrt(n)   where i <= t""",
        {"n": 5, "d": 2},
    ),
    "a size before the chunks": case(
        """
        f(x[n,d], s[d,d], m[d,e]) -> o[n]:
            r[t] = x[t,a] / e * s[b,c]
            o[t] = r[t] * x[i,a]   where i <= t""",
        {"n": 3, "d": 2, "e": 3},
    ),
    "a size after the chunks": case(
        """
        f(x[n,d]) -> s, o[n]:
            o[t] = x[i,a]   where i <= t
            s = o[t] + 1 / 3 * d - x[t,a]""",
        {"n": 5, "d": 2},
    ),
    "a tensor that is tested and read": case(
        """
        f(x[n,d]) -> o[n,d]:
            y[t,a] = select(x[t,a], x[i,a]) * x[t,b]   where i <= t
            o[t,a] = y[t,a] * x[t,a]""",
        {"n": 5, "d": 2},
        seed=2,
    ),
    "nothing but tensors that are tested": case(
        """
        f(x[n,d], g) -> s:
            s = 1 / 3 * g - select(x[i,a], g) * select(x[j,a], g)""",
        {"n": 3, "d": 2},
        seed=2,
    ),
    "a function of a size": case(
        """
        f(x[n,d]) -> o[n]:
            o[i] = x[i,a] / sqrt(d) + exp(d) * x[i,a]""",
        {"n": 3, "d": 2},
        seed=2,
    ),
    "a quotient by the size of an axis of extent 0": case(
        """
        f(x[n,d], u[d], lam) -> o[d]:
            o[a] = u[a] * lam / n""",
        {"n": 0, "d": 2},
    ),
    "packed sequences of an operator whose result is the same for all": case(
        """
        f(x[n,d]) -> o[n], s:
            o[i] = x[i,a]
            s = d""",
        {"n": 5, "d": 2},
        seed=1,
    ),
    "chunks along an axis of features without tokens": case(
        """
        f(x[n,d], u[d]) -> s:
            s = u[a] * x[i,a] * u[b]   where a <= b decay 0.5""",
        {"n": 0, "d": 3},
    ),
    "a state that counts tokens": case(
        """
        f(x[n,d]) -> o[n]:
            o[t] = x[t,a] * one[i:n]   where i <= t""",
        {"n": 7, "d": 2},
    ),
    "a state that counts tokens with a decay, and a result that knows no token": case(
        """
        f(x[n,d], u[d]) -> o[n], p[n,d]:
            o[t] = x[t,a] * x[i,a] * one[j:n]   where i <= t, j <= i decay 0.5
            p[t,a] = u[a] * one[t:n]""",
        {"n": 7, "d": 2},
    ),
    "the derivative of gelu in a chunk": case(
        """
        f(x[n,d]) -> o[n]:
            o[t] = gelu(x[t,a]) * x[i,a]   where i <= t""",
        {"n": 5, "d": 2},
        seed=2,
    ),
    "gelu far below 0, where its terms cancel": case(
        """
        f(x[n,d]) -> o[n,d], s:
            y[t,a] = x[t,a] - n
            o[t,a] = gelu(y[t,a])
            s = gelu(-n)""",
        {"n": 5, "d": 2},
    ),
    "the derivative by a number that nothing reads": case(
        """
        f(x[n,d]) -> o[n]:
            y[t] = x[t,a] * x[i,a] / n   where i <= t
            o[t] = y[t] * silu(d) / n""",
        {"n": 5, "d": 2},
        seed=2,
    ),
    "results of which one has fewer leading axes": case(
        """
        f(x[n,d], z[n,d]) -> o[n], p[n]:
            o[t] = x[i,a] * z[i,a]   where i <= t
            p[t] = z[t,a]""",
        {"n": 5, "d": 2},
        ((3,), (1,)),
    ),
    "a decayed state that counts tokens, under leading axes": case(
        """
        f(x[n,d]) -> o[n]:
            o[t] = x[t,a] * one[i:n]   where i <= t decay 0.5""",
        {"n": 5, "d": 2},
        ((3,),),
    ),
    "a decayed state of a tensor with fewer leading axes than another": case(
        """
        f(x[n,d], z[n,d]) -> o[n,d]:
            o[t,a] = z[t,a] * x[i,a]   where i <= t decay 0.5""",
        {"n": 5, "d": 2},
        ((), (3,)),
    ),
    "a matrix product of complex and real numbers": case(
        """
        f(x[n,d], m[d,e]) -> o[n,e], p[n,e]:
            a[t,b] = abs(x[t,b])
            r[t,b] = real(x[t,b])
            o[t,c] = a[t,b] * m[b,c]
            p[t,c] = r[t,b] * m[b,c]""",
        {"n": 5, "d": 2, "e": 3},
        complex=True,
    ),
    "a part before the chunks that reads scalars only": case(
        """
        f(x[n,d], g) -> o[n]:
            o[t] = x[t,a] / step(-g) * x[i,a]   where i <= t""",
        {"n": 7, "d": 1},
        ((2,), (2,)),
    ),
    "a decay to an index that another one is equal to": case(
        """
        f(x[n,d], w[n]) -> o[n]:
            o[k] = x[k,a] * x[j,a] + w[i] * x[t,b]   where j <= i decay 0.9, k == j, t == j""",
        {"n": 5, "d": 2},
    ),
    "logarithms and roots at padded tokens": case(
        """
        f(x[n,d]) -> o[n], p:
            s[t] = x[t,a] * x[t,a]
            o[t] = x[t,a] / sqrt(s[t]) * x[i,b]
            p = log(s[i]) * sqrt(s[i]) * x[i,a]""",
        {"n": 5, "d": 2},
    ),
    "a state beside a tensor over pairs of tokens": case(
        """
        f(x[n,d], z[n,e], r[n,n]) -> o[n]:
            o[j] = z[k,c] - x[j,b]   where k <= j decay 0.5""",
        {"n": 3, "d": 1, "e": 1},
    ),
    "chunks along the second axis of a tensor": case(
        """
        f(x[d,n]) -> o[d,n]:
            o[a,t] = x[a,i] * x[b,i] * x[b,t]   where i <= t""",
        {"d": 2, "n": 7},
    ),
    "a function of weights before the chunks": case(
        """
        f(x[n,d], z[n,e], m[d,d]) -> o[n,e]:
            g[a,b] = sigmoid(m[a,b])
            o[t,c] = x[t,a] * g[a,b] * x[i,b] * z[i,c]   where i <= t decay 0.5""",
        {"n": 9, "d": 2, "e": 3},
    ),
    "a number of weights alone before the chunks, of complex arguments": case(
        """
        f(x[n,d], m[d,e]) -> o[n,d]:
            o[t,a] = x[t,a] * x[i,a] + x[t,a] * conj(d)   where i <= t""",
        {"n": 5, "d": 2, "e": 2},
        complex=True,
    ),
    "results that do not depend on the order": case(
        """
        f(x[n,d], z[n,e], m[d,d]) -> o[n,e], s[d,e], g[d], p[n,e], b:
            s[a,c] = x[i,a] * z[i,c]
            g[a] = m[a,a]
            p[t,c] = x[t,a] * s[a,c]
            b = 2 * d
            o[t,c] = x[t,a] * m[a,a] * x[i,a] * z[i,c]   where i <= t""",
        {"n": 9, "d": 2, "e": 3},
    ),
    "the size of another axis where a token has no axis of its own": case(
        """
        f(x[n,d], m[d,e]) -> o[d,e]:
            o[b,c] = m[b,c] * x[i,a] / n   where a <= b""",
        {"n": 5, "d": 3, "e": 2},
    ),
    "results that count tokens, and those of some arguments alone, under leading axes": case(
        """
        f(x[n,d], z[n,d]) -> o[n], p[n], s[d], b:
            o[t] = one[i:n]   where i <= t
            p[t] = x[i,a]   where i <= t
            s[a] = z[i,a]
            b = 3 * d""",
        {"n": 9, "d": 2},
        ((2, 1), (3,)),
    ),
    "order that runs backwards": case(
        """
        f(x[n,d], z[n,e], g) -> o[n,e], p[n]:
            o[t,c] = x[t,a] * x[i,a] * x[i,b] * x[j,b] * z[j,c]   where t <= i <= j decay g
            p[t] = x[i,a] * z[t,c]   where t <= i""",
        {"n": 9, "d": 2, "e": 3},
    ),
    "order that runs backwards, with sums of the whole before and after": case(
        """
        f(x[n,d], z[n,e]) -> o[n,e], s[e]:
            r = x[i,a] * x[i,a]
            o[t,c] = x[t,a] * x[i,a] * z[i,c] / r   where t <= i
            s[c] = o[t,c]""",
        {"n": 9, "d": 2, "e": 3},
    ),
    "functions of sizes and of scalars alone, in pieces": case(
        """
        f(x[n,d], z[d,n], g) -> o[n,d]:
            r = sigmoid(g)
            o[t,a] = r * x[t,b] * z[b,i] * x[i,a] / sqrt(d) / g   where i <= t""",
        {"n": 9, "d": 2},
    ),
    "the square of a causal matrix that decays": case(
        """
        f(x[n,d], z[n,e]) -> o[n,e]:
            T[i,j] = x[i,a] * x[j,a]   where j <= i decay 0.9
            S[i,j] = T[i,j] * T[i,j]   where j < i
            o[t,c] = S[t,i] * z[i,c]""",
        {"n": 9, "d": 2, "e": 3},
    ),
    "order both ways": case(
        """
        f(x[n,d], z[n,e], g) -> o[n,e], p[n,e]:
            u[t,c] = x[t,a] * x[i,a] * z[i,c]   where i <= t decay g
            w[t,c] = x[t,a] * x[i,a] * z[i,c]   where t < i decay g
            o[t,c] = u[t,c] + w[t,c]
            p[t,c] = x[t,a] * x[i,a] * x[t,b] * x[j,b] * z[j,c]   where i <= t <= j""",
        {"n": 9, "d": 2, "e": 3},
    ),
    "order both ways, a function of tokens, and sums of the whole before and after": case(
        """
        f(x[n,d], z[n,e]) -> o[n,e], p[n,e], s[e]:
            y[i,a] = exp(x[i,a])
            r = y[i,a]
            p[t,c] = x[t,a] * y[i,a] * z[i,c] / r   where i <= t
            o[t,c] = x[t,a] * y[i,a] * y[i,b] * x[j,b] * z[j,c]   where t < i <= j
            s[c] = o[t,c] * p[t,c]""",
        {"n": 9, "d": 2, "e": 3},
    ),
    "a sum backwards of what was summed forwards": case(
        """
        f(x[n,d], z[n,e]) -> o[n,e]:
            y[t,c] = x[t,a] * x[i,a] * z[i,c]   where i <= t
            o[t,c] = x[t,a] * x[i,a] * y[i,c]   where t <= i""",
        {"n": 9, "d": 2, "e": 3},
    ),
    "exponentials of a product and of its transpose": case(
        """
        f(x[n,d], z[n,d]) -> o[n,d]:
            p[i,j] = x[i,a] * z[j,a]
            q[i,j] = z[i,a] * x[j,a]
            e[i,j] = expm(p[i,j])
            f[i,j] = expm(q[i,j])
            o[i,a] = e[i,j] * x[j,a] + 2 * f[i,j] * x[j,a]""",
        {"n": 40, "d": 1},
    ),
    "exponentials of a matrix of features and of its transpose": case(
        """
        f(x[n,d], z[n,d]) -> o[n,d]:
            p[a,b] = x[i,a] * z[i,b] / n
            e[a,b] = expm(p[a,b])
            f[a,b] = expm(p[b,a])
            o[i,a] = e[a,b] * x[i,b] + 2 * f[a,b] * x[i,b]""",
        {"n": 9, "d": 3},
    ),
    "an index of the name that the twin of a diagonal would have": case(
        """
        f(x[n,d], w[n,d,d,d]) -> o[n,d]:
            o[t,c] = w[t,a,a,a_2] * x[i,a_2] * x[i,c]   where i <= t""",
        {"n": 9, "d": 2},
    ),
    "an index of the name of those that a decay lies between": case(
        """
        f(x[n,d], g) -> o[n,d]:
            o[t,a] = x[t,b] * x[t_between,b] * x[t_between,a]   where t_between <= t decay g""",
        {"n": 9, "d": 2},
    ),
    "a scalar that is computed before the chunks and read after them": case(
        """
        f(x[n,d]) -> t1, t0[n,d,d]:
            t0[t,a,b] = x[t,a] * x[i,a] * x[j,a] * x[t,a] + x[t,a] * x[i,b] * conj(d)   where i <= t, j <= t
            t1 = conj(d) * conj(t0[i,a,a])""",
        {"n": 5, "d": 2},
        complex=True,
    ),
    "a strict order that decays": case(
        """
        f(x[n,d], z[n,e], g) -> o[n,e]:
            o[t,c] = x[t,a] * x[i,a] * z[i,c]   where i < t decay g""",
        {"n": 9, "d": 2, "e": 3},
    ),
    "strict orders in a chain and in a pair": case(
        """
        f(x[n,d], z[n,e], g) -> o[n,e], p[n,e], s[n]:
            o[t,c] = x[t,a] * x[i,a] * x[i,b] * x[j,b] * z[j,c]   where j < i <= t decay g
            p[t,c] = x[t,a] * x[i,a] * x[j,a] * z[j,c]   where j < i < t, j <= t
            s[t] = x[i,a] * z[j,c]   where i < t, j <= t""",
        {"n": 9, "d": 2, "e": 3},
    ),
    "a strict order that runs backwards": case(
        """
        f(x[n,d], z[n,e], g) -> o[n,e]:
            o[t,c] = x[t,a] * x[i,a] * z[i,c]   where t < i decay g""",
        {"n": 9, "d": 2, "e": 3},
    ),
    "the diagonal and the trace of a strict triangle": case(
        """
        f(x[n,d], z[n,e]) -> o[n,e], r, s[n]:
            T[i,j] = x[i,a] * x[j,a]   where j < i
            r = T[i,i]
            s[i] = T[i,i] + x[i,a]
            o[t,c] = T[t,i] * z[i,c] + r * s[t] * z[t,c]""",
        {"n": 9, "d": 2, "e": 3},
    ),
    "an index strictly between two that a term has": case(
        """
        f(x[n,d]) -> o[n,d]:
            o[t,a] = x[i,b] * x[j,b] * x[t,a] + x[t,a] * x[i,b]   where i < j <= t""",
        {"n": 9, "d": 2},
    ),
    "an index of the name of a bond": case(
        """
        f(x[n,d], m[d,d]) -> o[n,d]:
            p[i,j] = x[i,a_] * m[a_,a] * x[j,a]
            e[i,j] = expm(p[i,j])
            o[i,a] = e[i,j] * x[j,a]""",
        {"n": 40, "d": 1},
    ),
}


@pytest.mark.parametrize("found", FOUND.values(), ids=FOUND)
def test_a_program_that_was_wrong_agrees(backend, found):
    assert Agreement(backend, found).check(everything=True)
