"""JAX, as the emitter sees it."""

from dtn_core.passes.pipeline import FEW, Costs

from .target import ELSEWHERE, Target

_COSTS = Costs(among=500_000, at_once=2**17, whole=2**19)

# A [13/13] Padé approximant with scaling and squaring: Higham, SIAM J. Matrix Anal. Appl. 26 (2005) 1179.
# jax.scipy.linalg.expm takes one squaring too few at most norms (floor where the paper has ceil): 1e-10 in float64.
_EXPM = '''
@jax.jit
def _expm(x):
    """Matrix exponential over the last two axes, by scaling and squaring a [13/13] Padé approximant."""
    coefficients = [64764752532480000.0, 32382376266240000.0, 7771770303897600.0, 1187353796428800.0,
                    129060195264000.0, 10559470521600.0, 670442572800.0, 33522128640.0, 1323241920.0, 40840800.0,
                    960960.0, 16380.0, 182.0, 1.0]
    norm = jax.lax.stop_gradient(jnp.max(jnp.sum(jnp.abs(x), axis=-2), axis=-1, initial=0.0))[..., None, None]
    large = (norm > 2.0) & jnp.isfinite(norm)
    squarings = jnp.where(large, jnp.ceil(jnp.log2(jnp.where(large, norm, 2.0) / 2.0)), 0.0)
    x = x * jnp.exp2(-squarings)
    one = jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), x.shape)
    two = x @ x
    four = two @ two
    six = four @ two
    b = coefficients  # six products: Higham (2005), eq. 2.11
    odd = x @ (six @ (b[13] * six + b[11] * four + b[9] * two) + b[7] * six + b[5] * four + b[3] * two + b[1] * one)
    even = six @ (b[12] * six + b[10] * four + b[8] * two) + b[6] * six + b[4] * four + b[2] * two + b[0] * one

    most = jnp.max(squarings, initial=0.0)

    def squared(done, result):
        rest = jnp.where(done < squarings, result, 0)
        return jnp.where(done < squarings, rest @ rest, result)

    def square(done, result):  # a loop of a known length, which reverse mode needs, that does nothing in the end
        return jax.lax.cond(done < most, squared, lambda done, result: result, done, result)

    result = jax.lax.fori_loop(0, SQUARINGS, square, jnp.linalg.solve(even - odd, even + odd))
    return jnp.where(squarings > SQUARINGS, jnp.nan, result)
'''.replace("SQUARINGS", "24")

_AT_ONCE = (
    '''
import functools
import pathlib

@functools.cache
def _crowded():
    """Whether a core's second cache is smaller than 1 MiB, where Linux says so, or each core is a device."""
    size = pathlib.Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
    said = size.read_text().strip() if size.exists() else ""
    return jax.device_count() > 1 or said.endswith("K") and int(said[:-1]) < 1024


def _at_once(x, length, size, wider):
    """How many chunks to compute at once: as many as a processor's cache holds, and all of a short sequence.

    On a card as many as a small part of memory holds.
    """
    elements = x.size * wider
    most = ELSEWHERE
    if jax.default_backend() == "cpu":
        elements *= 2 if _crowded() else 1
        most = WHOLE if elements <= WHOLE else AT_ONCE
    return most * length // max(1, elements * size)
'''.replace("AT_ONCE", str(_COSTS.at_once))
    .replace("WHOLE", str(_COSTS.whole))
    .replace("ELSEWHERE", str(ELSEWHERE))
)

_CHUNKED = '''
def _chunked(chunk, chunks, states, tokens, constants, places, joins, ranks, size, wider=1):
    """Chunks of `size` tokens, as many at once as a cache holds; hands the states on, joins results along `joins`."""
    if not isinstance(tokens[0].shape[places[0]], int):
        return _chunked_of_any_length(chunk, states, tokens, constants, places, joins, size)
    pieces = []
    for start, stop, count, repeats in _spans(tokens[0], places[0], size, chunks and wider):
        shared = _spread(constants, ranks, count)

        def piece(states, part, shared, count=count):
            part = [_cut(x, place, count) for x, place in zip(part, places)]
            states, results = (chunk if count is None else chunks)(states, part, shared)
            return states, [_fold(y, place, count) for y, place in zip(results, joins)]

        part = [jax.lax.slice_in_dim(x, start, stop, axis=x.ndim + place) for x, place in zip(tokens, places)]
        if repeats == 1:
            states, results = jax.checkpoint(piece)(states, part, shared)
        else:
            states, results = _turns(piece, repeats, places, joins, states, part, shared)
        pieces.append(results)
    return states, [_joined(column, place) for column, place in zip(zip(*pieces), joins)]
'''

_CHUNKED_OF_ANY_LENGTH = '''
def _chunked_of_any_length(chunk, states, tokens, constants, places, joins, size):
    """The same where the length is a symbol: zeros fill the last chunk, whose state is that of its own tokens."""
    length = tokens[0].shape[places[0]]
    last = length // size * size

    def piece(states, part, shared):
        after, results = chunk(states[0], part, shared)
        return (after, states[0]), results

    def fill(x, place):
        widths = [(0, 0)] * x.ndim
        widths[place] = (0, last + size - length)
        return jnp.pad(x, widths)

    filled = [fill(x, place) for x, place in zip(tokens, places)]
    (_, before), results = _turns(piece, length // size + 1, places, joins, (states, states), filled, constants)
    rest = [jax.lax.slice_in_dim(x, last, length, axis=x.ndim + place) for x, place in zip(tokens, places)]
    results = [jax.lax.slice_in_dim(y, 0, length, axis=y.ndim + place) for y, place in zip(results, joins)]
    return chunk(before, rest, constants)[0], results
'''

# A scan takes its pieces along a leading axis, which costs two copies of each tensor; a loop takes slices where they
# lie, but its gradient would add to a whole tensor at each turn.
_TURNS = '''
def _turns(piece, repeats, places, joins, states, tokens, shared):
    """`piece` over `repeats` equal pieces of a sequence: a loop, differentiated as a scan that keeps its arguments."""

    def loop(states, tokens, shared):
        sizes = [x.shape[place] // repeats for x, place in zip(tokens, places)]

        def cut(turn):
            return [
                jax.lax.dynamic_slice_in_dim(x, turn * size, size, axis=x.ndim + place)
                for x, place, size in zip(tokens, places, sizes)
            ]

        def turn(index, carry):
            states, results = carry
            states, made = piece(states, cut(index), shared)
            results = [
                jax.lax.dynamic_update_slice_in_dim(whole, y, index * y.shape[place], axis=y.ndim + place)
                for whole, y, place in zip(results, made, joins)
            ]
            return states, results

        results = [_whole(y, place, repeats) for y, place in zip(piece(states, cut(0), shared)[1], joins)]
        return jax.lax.fori_loop(0, repeats, turn, (states, results))

    def scan(states, tokens, shared):
        split = [_cut(x, place, repeats) for x, place in zip(tokens, places)]
        split = [jnp.moveaxis(x, place - 1, 0) for x, place in zip(split, places)]
        states, results = jax.lax.scan(lambda s, part: jax.checkpoint(piece)(s, part, shared), states, split)
        return states, [_fold(jnp.moveaxis(y, 0, place - 1), place, repeats) for y, place in zip(results, joins)]

    run = jax.custom_jvp(jax.jit(loop, inline=True))  # what is made for `_whole` is not computed, eagerly neither
    run.defjvp(lambda primals, tangents: jax.jvp(scan, primals, tangents))
    return run(states, tokens, shared)


def _whole(y, place, repeats):
    """Zeros in the shape of `repeats` arrays like `y`, joined along `place`; nothing of `y` is computed for them."""
    axis = y.ndim + place
    none = jax.lax.slice_in_dim(y, 0, 0, axis=axis).sum(axis, keepdims=True)
    return jnp.broadcast_to(none, (*y.shape[:axis], repeats * y.shape[axis], *y.shape[axis + 1:]))
'''

_SPANS = '''
def _spans(x, place, size, wider):
    """Pieces of a sequence: where they start and stop, of how many chunks (None: one), how many like it in a row.

    The widest tensor has `wider` elements for each of `x`; of None, chunks are not computed at once.
    """
    length = x.shape[place]
    if length < 2 * size:
        return [(0, length, None, 1)]
    fit = _at_once(x, length, size, wider) if wider else 1
    one = fit < FEW  # among so few a chunk takes longer than alone
    turns = -(-(length // size) // (1 if one else fit))
    many = -(-(length // size) // turns) * size
    same = length - length % many
    whole = length - length % size
    spans = [
        (0, same, None if one else many // size, same // many),
        (same, whole, (whole - same) // size, 1),
        (whole, length, None, 1),
    ]
    return [span for span in spans if span[0] < span[1]]
'''.replace("FEW", str(FEW))

_CUT = '''
def _cut(x, place, count):
    """The axis at `place` as `count` chunks."""
    if count is None:
        return x
    axis = x.ndim + place
    return x.reshape(*x.shape[:axis], count, x.shape[axis] // count, *x.shape[axis + 1:])
'''

_PASTS = '''
def _pasts(first, added, whole, rank):
    """The states before each chunk and the one after the last, decayed by `whole` a chunk."""
    if whole is None:  # not less a chunk: that cancels digits
        axis = -1 - rank
        first = jnp.expand_dims(first, axis)
        total = first + jnp.cumsum(added, axis=axis)
        before, last = jnp.split(total, [added.shape[axis] - 1], axis=axis)
        return jnp.concatenate([jnp.broadcast_to(first, last.shape), before], axis=axis), last.squeeze(axis)
    factor = _lift(whole[..., 0] if whole.ndim else whole, rank)
    shape = jnp.broadcast_shapes(added.shape, jnp.expand_dims(first, -1 - rank).shape)
    added = jnp.moveaxis(jnp.broadcast_to(added, shape), -1 - rank, 0)
    last, pasts = jax.lax.scan(lambda state, piece: (factor * state + piece, state), first, added)
    return jnp.moveaxis(pasts, 0, first.ndim - rank), last
'''

# The carry of a loop keeps its type, which says along which axes of a mesh a value varies or is sharded: zeros that are
# made of a shape do along none.
_PLACED = '''
def _placed(states, own, tensors, ranks):
    """States with all leading axes of tensors, which vary along the axes of a mesh, or are sharded, as theirs do."""
    batch = 0
    for x, rank in zip(tensors, ranks):
        few = jnp.asarray(x)[(..., *[slice(0, 1)] * rank)].sum(tuple(range(-rank, 0)))
        batch = batch + jnp.where(False, few, 0)
    return tuple((x + batch[(..., *[None] * rank)]).astype(x.dtype) for x, rank in zip(states, own))
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
        "recip": "1 / jnp.where(jnp.abs(_x) < jnp.finfo(_x.dtype).tiny, jnp.inf, _x)",
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
        (True, False): "jnp.einsum('...ia,...ib->...ab', _a, _b)",  # XLA copies the transposed operand of a matmul
        (False, True): "_a @ _b.mT",
        (True, True): "_a.mT @ _b.mT",
    },
    transpose="_x.mT",
    diagonal="jnp.diagonal(_x, axis1=-2, axis2=-1)",
    einsum="jnp.einsum(_spec)",
    sums_by_letter=True,
    total="_x.sum(_axes)",
    concat="jnp.concatenate(_blocks, axis=_axis)",
    tril=("jnp.tril(_x)", "jnp.tril(_x, -1)"),
    triu=("jnp.triu(_x)", "jnp.triu(_x, 1)"),
    ones="jnp.ones(_shape, wide)",
    zeros_like="jnp.zeros_like(_x)",
    flip="jnp.flip(_x, _i)",
    gaps="jnp.arange(_n)",
    size="_x.shape[_i]",
    dtype="jnp.result_type(_args)",
    wide="jnp.promote_types(dtype, jnp.float32)",
    cast="_x.astype(_dtype)",
    heads="jnp.swapaxes(_x, -2, -3)",
    nonzero="jnp.where(_x == 0, jnp.inf, _x)",
    zeros="jnp.zeros(_shape, wide)",
    broadcast="jnp.broadcast_shapes(_shapes)",
    placed="_placed(_states, _own, _tensors, _ranks)",
    costs=_COSTS,
    prelude={
        "_expm": _EXPM,
        "_at_once": _AT_ONCE,
        "_spans": _SPANS,
        "_cut": _CUT,
        "_turns": _TURNS,
        "_chunked_of_any_length": _CHUNKED_OF_ANY_LENGTH,
        "_chunked": _CHUNKED,
        "_pasts": _PASTS,
        "_joined": _JOINED,
        "_placed": _PLACED,
    },
    expm="_expm(_x)",
    scalar="jnp.asarray(_x, wide)",
    arrays="jnp.asarray(_x)",
)
