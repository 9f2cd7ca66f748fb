"""JAX, as the emitter sees it."""

from .target import Target

_SCAN = '''
def _scan(chunk, states, tokens, places, constants, joins, size):
    """Feed tokens to `chunk` in pieces of `size`, handing the states on; results are joined along `joins`."""
    length = tokens[0].shape[places[0]]
    count = length // size if length > size else 0
    pieces = []
    if count:
        stacked = []
        for x, place in zip(tokens, places):
            axis = x.ndim + place
            x = jax.lax.slice_in_dim(x, 0, count * size, axis=axis)
            x = x.reshape(*x.shape[:axis], count, size, *x.shape[axis + 1:])
            stacked.append(jnp.moveaxis(x, axis, 0))
        states, results = jax.lax.scan(lambda states, part: chunk(states, part, constants), states, stacked)
        joined = []
        for y, place in zip(results, joins):
            y = jnp.moveaxis(y, 0, place - 1)
            joined.append(y.reshape(*y.shape[:place - 1], count * size, *y.shape[y.ndim + place + 1:]))
        pieces.append(joined)
    if count * size < length or not count:
        part = [jax.lax.slice_in_dim(x, count * size, length, axis=x.ndim + place) for x, place in zip(tokens, places)]
        states, results = chunk(states, part, constants)
        pieces.append(results)
    return states, [jnp.concatenate(column, axis=place) for column, place in zip(zip(*pieces), joins)]
'''

_PASTS = '''
def _pasts(first, added, whole, rank):
    """The states before each chunk and the one after the last, decayed by `whole` a chunk."""
    axis = added.ndim - 1 - rank
    if whole is None:
        first = jnp.expand_dims(first, -1 - rank)
        total = jnp.cumsum(added, axis=axis)
        return first + (total - added), (first + jax.lax.slice_in_dim(total, -1, None, axis=axis)).squeeze(-1 - rank)
    factor = _lift(whole[..., 0] if whole.ndim else whole, rank)
    added = jnp.broadcast_to(jnp.moveaxis(added, axis, 0), (added.shape[axis], *first.shape))
    last, pasts = jax.lax.scan(lambda state, piece: (factor * state + piece, state), first, added)
    return jnp.moveaxis(pasts, 0, first.ndim - rank), last
'''

_JOINED = '''
def _joined(pieces, place):
    """Pieces as one tensor along the axis at `place`."""
    return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, axis=place)
'''

TARGET = Target(
    name="jax",
    package="dtn_jax",
    framework="jax",
    extra="jax",
    imports="import jax\nimport jax.numpy as jnp",
    functions={
        "conj": "jnp.conj(_x)",
        "real": "jnp.real(_x)",
        "abs": "jnp.abs(_x)",
        "select": "jnp.where(_m != 0, _x, 0)",
        # 1 / inf is 0 and so are its derivatives: no NaN where the denominator is 0
        "recip": "1 / jnp.where(_x == 0, jnp.inf, _x)",
        "exp": "jnp.exp(_x)",
        "log": "jnp.log(_x)",
        "sqrt": "jnp.sqrt(_x)",
        "tanh": "jnp.tanh(_x)",
        "sigmoid": "jax.nn.sigmoid(_x)",
        "silu": "jax.nn.silu(_x)",
        "relu": "jax.nn.relu(_x)",
        "gelu": "jax.nn.gelu(_x, approximate=False)",
        "erf": "jax.scipy.special.erf(_x)",
        "step": "jnp.where(_x > 0, jnp.ones_like(_x), 0)",
    },
    complex_functions={"recip": "jnp.where(_x == 0, 0, 1 / jnp.where(_x == 0, 1, _x))"},
    matmul={
        (False, False): "_a @ _b",
        (True, False): "_a.mT @ _b",
        (False, True): "_a @ _b.mT",
        (True, True): "_a.mT @ _b.mT",
    },
    transpose="_x.mT",
    einsum="jnp.einsum(_spec)",
    total="_x.sum(_axes)",
    concat="jnp.concatenate(_blocks, axis=_axis)",
    tril="jnp.tril(_x)",
    triu="jnp.triu(_x)",
    ones="jnp.ones(_shape, wide)",
    zeros_like="jnp.zeros_like(_x)",
    gaps="jnp.arange(_n)",
    size="_x.shape[_i]",
    dtype="jnp.result_type(_args)",
    wide="jnp.promote_types(dtype, jnp.float32)",
    cast="_x.astype(_dtype)",
    heads="jnp.swapaxes(_x, -2, -3)",
    nonzero="jnp.where(_x == 0, jnp.inf, _x)",
    zeros="jnp.zeros(_shape, wide)",
    broadcast="jnp.broadcast_shapes(_shapes)",
    prelude={"_scan": _SCAN, "_pasts": _PASTS, "_joined": _JOINED},
    expm="jax.scipy.linalg.expm(_x)",
    scalar="jnp.asarray(_x, wide)",
    arrays="jnp.asarray(_x)",
)
