"""Examples of the public functions, one text for all frameworks: ``{setup}`` makes q, k and v with a framework.

They are of shape ``[2, 4, 100, 16]``: batch, heads, tokens and features.
"""

COMPILE = """
{setup}
>>> f = dtn.compile('''gram(x[n,d]) -> g[d,d]:
...     g[a,b] = x[i,a] * x[i,b]''')
>>> tuple(f(q).shape)
(2, 4, 16, 16)

Every index that is not on the left is summed; ``where`` orders those of one axis, and what is ordered streams:

>>> f = dtn.compile('''second_order(q[n,d], k[n,d], v[n,e]) -> o[n,e]:
...     o[t,c] = q[t,a] * k[i,a] * k[i,b] * q[j,b] * v[j,c]   where i <= j <= t''')
>>> head, state = f(q[..., :60, :], k[..., :60, :], v[..., :60, :], return_state=True)
>>> token, state = f.step(state, q[..., 60, :], k[..., 60, :], v[..., 60, :])
>>> tuple(head.shape), tuple(token.shape)
((2, 4, 60, 16), (2, 4, 16))

An operator of the catalogue; a knob that is a number may be another one at each call:

>>> from dtn_core.operators import tensor_attention
>>> f = dtn.compile(tensor_attention(mask="causal", decay=0.9))
>>> tuple(f(q, k, v, decay=0.5).shape)
(2, 4, 100, 16)

Mistakes are pointed at:

>>> dtn.compile("f(x[n,d]) -> y[n]: y[i] = z[i]")
Traceback (most recent call last):
dtn_core.errors.NotationError: f, line 1, column 27: unknown tensor z; known: x
f(x[n,d]) -> y[n]: y[i] = z[i]
                          ^
"""

ATTENTION = """
{setup}
>>> o = dtn.tensor_attention(q, k, v)
>>> tuple(o.shape)
(2, 4, 100, 16)

A causal one, of a sequence that comes in two pieces:

>>> head, state = dtn.tensor_attention(
...     q[..., :60, :], k[..., :60, :], v[..., :60, :], mask="causal", return_state=True
... )
>>> tail = dtn.tensor_attention(q[..., 60:, :], k[..., 60:, :], v[..., 60:, :], mask="causal", initial_state=state)
>>> tuple(head.shape), tuple(tail.shape)
((2, 4, 60, 16), (2, 4, 40, 16))

Sequences packed one after another, of 30 and of 70 tokens:

>>> tuple(dtn.tensor_attention(q, k, v, mask="causal", decay=0.9, cu_seqlens=[0, 30, 100]).shape)
(2, 4, 100, 16)

What does not fit is named:

>>> dtn.tensor_attention(q, k[..., :99, :], v)
Traceback (most recent call last):
dtn_core.errors.ShapeError: tensor_attention: axis n has size 100 in q (shape (2, 4, 100, 16)) but 99 in k (shape \
(2, 4, 99, 16))
>>> dtn.tensor_attention(q, k, v, mask="future")
Traceback (most recent call last):
ValueError: tensor_attention: mask='future' is not one of None, 'tril', 'causal'
"""

INTERACTION = """
{setup}
>>> o = dtn.tensor_interaction(q, k, v, normalize="row", residual=1.0)
>>> tuple(o.shape)
(2, 4, 100, 16)

The causal one streams, as :func:`tensor_attention` does:

>>> head, state = dtn.tensor_interaction(
...     q[..., :60, :], k[..., :60, :], v[..., :60, :], mask="causal", return_state=True
... )
>>> tail = dtn.tensor_interaction(q[..., 60:, :], k[..., 60:, :], v[..., 60:, :], mask="causal", initial_state=state)
>>> tuple(head.shape), tuple(tail.shape)
((2, 4, 60, 16), (2, 4, 40, 16))
"""
