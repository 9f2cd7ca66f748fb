"""TensorFlow, as the emitter sees it."""

from dtn_core.passes.pipeline import Costs

from .python import SPANS_OF_A_LENGTH
from .target import Target

_DECAYED = '''
def _decayed(triangle, places, decay):
    """`decay ** |i - j|` inside the triangle, 0 outside."""
    return triangle * decay[..., None, None] ** tf.cast(abs(places[:, None] - places), decay.dtype)
'''

_SCAN = '''
def _scan(chunk, chunks, states, tokens, constants, places, joins, ranks, size):
    """Feed tokens to `chunk` in pieces of `size`, handing the states on; results are joined along `joins`."""

    def piece(start, size=size):
        if length and tf.is_tensor(start):  # of one known size, as XLA needs
            return [tf.gather(x, start + tf.range(size), axis=x.shape.rank + place) for x, place in zip(tokens, places)]
        rows = slice(start, start + size)
        return [x[(..., rows, *[slice(None)] * (-place - 1))] for x, place in zip(tokens, places)]

    length = tokens[0].shape[places[0]]
    pieces = []
    if tf.executing_eagerly() or length is not None and length <= size:
        for start in range(0, max(length, 1), size):
            states, results = chunk(states, piece(start), constants)
            pieces.append(results)
    else:
        total = tf.shape(tokens[0])[places[0]] if length is None else length
        count = tf.maximum(total // size, 1) if length is None else (total - 1) // size
        rest = total % size if length is None else total - count * size
        # the rest comes first, of however few tokens: after it states have the leading axes that they keep in a loop
        states, first = chunk(states, piece(0, rest), constants)

        def step(index, states, arrays):
            states, results = chunk(states, piece(rest + index * size), constants)
            return index + 1, states, [array.write(index, y) for array, y in zip(arrays, results)]

        arrays = [tf.TensorArray(states[0].dtype, count) for _ in joins]  # a token may be a mask
        ranks = tuple(tf.TensorShape([None] * state.shape.rank) for state in states)
        unknown = (tf.TensorShape([]), ranks, [tf.TensorShape(None) for _ in arrays])
        _, states, arrays = tf.while_loop(
            lambda index, *_: index < count, step, (0, states, arrays), unknown, maximum_iterations=count
        )
        joined = []
        for array, place in zip(arrays, joins):
            y = tf.experimental.numpy.moveaxis(array.stack(), 0, place - 1)
            shape = tf.shape(y)
            fused = shape[place - 1] * shape[place]
            joined.append(tf.reshape(y, tf.concat([shape[:place - 1], [fused], shape[tf.rank(y) + place + 1:]], 0)))
        pieces = [first, joined]
    return states, [tf.concat(column, axis=place) for column, place in zip(zip(*pieces), joins)]
'''

# The gradient of an ellipsis is an outer product over the leading axes, summed afterwards: ten times slower.
_EINSUM = '''
def _einsum(spec, *tensors):
    """`tf.einsum` with the leading axes spelt out where they need no broadcasting."""
    inputs, output = spec.replace("...", "").split("->")
    leading = [x.shape[: x.shape.rank - len(part)] for x, part in zip(tensors, inputs.split(","))]
    letters = "ZYXWVUTSRQPO"[: max(map(len, leading))]
    for place in range(len(letters)):
        sizes = [shape[-1 - place] for shape in leading if place < len(shape)]
        if len({*sizes}) > 1 or sizes.count(None) > 1:  # sizes that are not known may differ
            return tf.einsum(spec, *tensors)
    named = [letters[len(letters) - len(shape):] + part for shape, part in zip(leading, inputs.split(","))]
    return tf.einsum(",".join(named) + "->" + letters + output, *tensors)
'''

_BROADCAST = '''
def _broadcast(*shapes):
    """The common shape of leading axes."""
    result = shapes[0]
    for shape in shapes[1:]:
        result = tf.broadcast_dynamic_shape(result, shape)
    return tf.unstack(result)
'''

# A [13/13] Padé approximant with scaling and squaring: Higham, SIAM J. Matrix Anal. Appl. 26 (2005) 1179.
# tf.linalg.expm takes one squaring too few at most norms (floor where the paper has ceil): 1e-10 in float64; and XLA
# has no gradient of its loop, whose length is not bounded.
_EXPM = '''
import math


def _expm(x):
    """Matrix exponential over the last two axes, by scaling and squaring a [13/13] Padé approximant."""
    coefficients = [64764752532480000.0, 32382376266240000.0, 7771770303897600.0, 1187353796428800.0,
                    129060195264000.0, 10559470521600.0, 670442572800.0, 33522128640.0, 1323241920.0, 40840800.0,
                    960960.0, 16380.0, 182.0, 1.0]
    norm = tf.stop_gradient(tf.reduce_max(tf.reduce_sum(tf.abs(x), axis=-2), axis=-1))[..., None, None]
    large = (norm > 2.0) & tf.math.is_finite(norm)
    squarings = tf.where(large, tf.math.ceil(tf.math.log(tf.where(large, norm, 2.0) / 2.0) / math.log(2.0)), 0.0)
    x = x * tf.cast(2.0 ** -squarings, x.dtype)
    one = tf.eye(tf.shape(x)[-1], batch_shape=tf.shape(x)[:-2], dtype=x.dtype)
    two = x @ x
    four = two @ two
    six = four @ two
    b = coefficients  # six products: Higham (2005), eq. 2.11
    odd = x @ (six @ (b[13] * six + b[11] * four + b[9] * two) + b[7] * six + b[5] * four + b[3] * two + b[1] * one)
    even = six @ (b[12] * six + b[10] * four + b[8] * two) + b[6] * six + b[4] * four + b[2] * two + b[0] * one

    def more(done, result):
        return done < tf.reduce_max(squarings)

    def square(done, result):
        rest = tf.where(done < squarings, result, 0)
        return done + 1, tf.where(done < squarings, rest @ rest, result)

    left, right = even - odd, even + odd
    if x.dtype.is_complex:  # XLA solves real systems only
        real, imaginary = tf.math.real(left), tf.math.imag(left)
        left = tf.concat([tf.concat([real, -imaginary], -1), tf.concat([imaginary, real], -1)], -2)
        right = tf.concat([tf.math.real(right), tf.math.imag(right)], -2)
    result = tf.linalg.solve(left, right)
    if x.dtype.is_complex:
        result = tf.complex(*tf.split(result, 2, axis=-2))
    start = (tf.zeros((), norm.dtype), result)
    return tf.while_loop(more, square, start, maximum_iterations=SQUARINGS)[1]
'''.replace("SQUARINGS", "64")

_OFF_DIAGONAL = '''
def _off_diagonal(x):
    """Square matrices `x` with zeros on the diagonal."""
    return tf.linalg.set_diag(x, tf.zeros_like(tf.linalg.diag_part(x)))
'''

_COSTS = Costs(state=200, at_once=2**18)

_AT_ONCE = '''
def _at_once(x, length, size):
    """How many chunks to compute at once: as many as a processor's cache holds, all of them in a graph."""
    if not tf.executing_eagerly():
        return length // size
    return AT_ONCE * length // max(1, int(tf.size(x)) * size)
'''.replace("AT_ONCE", str(_COSTS.at_once))

_CHUNKED_OR_SCAN = '''
def _chunked_or_scan(chunk, chunks, states, tokens, constants, places, joins, ranks, size, wider):
    """Many chunks at once; in a graph, where that is all of them, a loop if the widest tensor is large or unknown."""
    if tf.executing_eagerly() or (tokens[0].shape.num_elements() or LARGE) * wider < LARGE:
        given = [(x, x.shape.rank + place) for x, place in zip(tokens, places)]
        if len({(*x.shape[:axis].as_list(),) for x, axis in given}) > 1:  # a product broadcasts five axes at most
            batch = _broadcast(*[tf.shape(x)[:axis] for x, axis in given])
            tokens = [tf.broadcast_to(x, tf.concat([batch, tf.shape(x)[axis:]], 0)) for x, axis in given]
        return _chunked(chunk, chunks, states, tokens, constants, places, joins, ranks, size, wider=wider)
    return _scan(chunk, None, states, tokens, constants, places, joins, ranks, size)
'''.replace("LARGE", str(2**22))

_SPANS = (
    '''
def _spans(x, place, size, wider):
    """Where the pieces of a sequence start and stop, and the size of their chunks (None: one, of any length).

    The widest tensor has `wider` elements for each of `x`; of None, chunks are not computed at once.
    """
    length = x.shape[place]
    if length is None:
        length = tf.shape(x)[place]
        whole = length - length % size
        return [(0, whole, size), (whole, length, None)]
'''
    + SPANS_OF_A_LENGTH
)

_CUT = '''
def _cut(x, place, start, stop, size):
    """Tokens from `start` to `stop` along the axis at `place`, in chunks of `size`."""
    x = x[(..., slice(start, stop), *[slice(None)] * (-place - 1))]
    if size is None:
        return x
    axis = x.shape.rank + place
    shape = tf.shape(x)
    return tf.reshape(x, tf.concat([shape[:axis], [shape[axis] // size, size], shape[axis + 1:]], 0))
'''

_FOLD = '''
def _fold(y, place, size):
    """Chunks as one sequence again."""
    if size is None:
        return y
    axis = y.shape.rank + place
    shape = tf.shape(y)
    return tf.reshape(y, tf.concat([shape[:axis - 1], [shape[axis - 1] * shape[axis]], shape[axis + 1:]], 0))
'''

_SUMS = '''
def _sums(added, axis, reverse):
    """For each chunk the sum of those before it; by products with triangles, quicker than a sum along an axis."""

    def running(x, axis):
        parts = (tf.math.real(x), tf.math.imag(x)) if x.dtype.is_complex else (x,)
        sums = [tf.cumsum(part, axis=axis, exclusive=True, reverse=reverse) for part in parts]
        return tf.complex(*sums) if len(sums) > 1 else sums[0]  # XLA has no cumulative sum of complex numbers

    count, few = added.shape[axis], 16
    if count is None or axis == added.shape.rank - 1:
        return running(added, axis)
    shape = tf.shape(added)
    blocks = -(-count // few)
    rest = blocks * few - count if blocks > 1 else 0
    flat = tf.reshape(added, tf.concat([shape[:axis + 1], [-1]], 0))
    if rest:
        flat = tf.pad(flat, [*[[0, 0]] * axis, [0, rest], [0, 0]])
    flat = tf.reshape(flat, tf.concat([shape[:axis], [blocks, -1], tf.shape(flat)[-1:]], 0))
    ones = tf.ones([min(count, few)] * 2, added.dtype)
    within = tf.matmul(ones - tf.linalg.band_part(ones, *((-1, 0) if reverse else (0, -1))), flat)
    before = running(tf.reduce_sum(flat, -2), -2)
    sums = tf.reshape(within + before[..., None, :], tf.concat([shape[:axis], [-1], tf.shape(flat)[-1:]], 0))
    return tf.reshape(sums[..., :count, :], shape)
'''

_PASTS = '''
def _pasts(first, added, whole, rank, reverse=False):
    """The states before each chunk and the one after the last, decayed by `whole` a chunk."""
    if whole is None:
        axis = added.shape.rank - 1 - rank
        last = first + tf.reduce_sum(added, axis=axis)
        return tf.expand_dims(first, -1 - rank) + _sums(added, axis, reverse), last
    factor = _lift(whole[..., 0] if whole.shape.rank else whole, rank)
    none = tf.reduce_sum(added[(..., slice(0, 0), *[slice(None)] * rank)], -1 - rank)
    first = first + none  # the leading axes of both, as a scan keeps them
    added = added + tf.zeros_like(tf.expand_dims(first, -1 - rank))
    pieces = tf.experimental.numpy.moveaxis(added, -1 - rank, 0)
    pieces = tf.reverse(pieces, [0]) if reverse else pieces
    pieces = tf.concat([pieces, tf.zeros_like(first)[None]], 0)  # one piece more: tf.scan cannot stack none
    states = tf.scan(lambda state, piece: factor * state + piece, pieces, first)
    pasts = tf.concat([first[None], states[:-2]], 0)[:tf.shape(added)[-1 - rank]]
    pasts = tf.reverse(pasts, [0]) if reverse else pasts
    return tf.experimental.numpy.moveaxis(pasts, 0, -1 - rank), tf.concat([first[None], states[:-1]], 0)[-1]
'''

_PLACED = '''
def _placed(whole, piece, place, start, length, size):
    """The pieces of a result, one more."""
    return [*(whole or ()), _fold(piece, place, size)]
'''

_JOINED = '''
def _joined(whole, place, reverse=False):
    """Pieces, listed from the first or the last, as one tensor along the axis at `place`."""
    return whole[0] if len(whole) == 1 else tf.concat(whole[::-1] if reverse else whole, axis=place)
'''

_REDUCED = '''
def _reduced(d, x):
    """A cotangent summed over the axes along which `x` was broadcast."""
    shape = tf.shape(x)
    d = tf.broadcast_to(d, tf.broadcast_dynamic_shape(tf.shape(d), shape))
    axes, _ = tf.raw_ops.BroadcastGradientArgs(s0=shape, s1=tf.shape(d))
    return tf.reshape(tf.reduce_sum(d, axis=axes), shape)
'''

_OVER_BATCH = '''
def _over_batch(d, rank, state, state_rank):
    """A cotangent of `rank` own axes, divided evenly among the leading axes of a state."""
    batch = tf.shape(state)[:state.shape.rank - state_rank]
    full = tf.broadcast_to(d, tf.broadcast_dynamic_shape(tf.shape(d), tf.concat([batch, [1] * rank], 0)))
    return full * tf.cast(tf.size(d) / tf.maximum(tf.size(full), 1), d.dtype)
'''

_RECOMPUTED = '''
def _recomputed(size, states, tokens, constants):
    """`_run`, which for its gradient keeps its arguments only and computes everything else again."""
    if any(tf.is_tensor(x) for x in constants):  # a decay that may be trained: by TensorFlow's own rules
        return _run(size, states, tokens, constants)
    ends = len(states), len(states) + len(tokens)

    @tf.custom_gradient
    def run(*given):
        after, results = _run(size, given[:ends[0]], given[ends[0]:], constants)

        def vjp(*cotangents):
            d_states, d_results = cotangents[:ends[0]], cotangents[ends[0]:]
            d_states, d_tokens, _ = _run_vjp(
                size, given[:ends[0]], given[ends[0]:], constants, d_states, d_results
            )
            return [*d_states, *d_tokens]

        return [*after, *results], vjp

    done = run(*states, *tokens)
    return tuple(done[:ends[0]]), done[ends[0]:]
'''

_FLAT = '''
def _flat(x, first, last):
    """`x` with its axes from `first` to `last`, counted from the end, as one."""
    first, last = x.shape.rank + first, x.shape.rank + last + 1
    shape = list(x.shape) if x.shape.is_fully_defined() else tf.unstack(tf.shape(x), x.shape.rank)
    size = 1
    for each in shape[first:last]:
        size *= each
    return tf.reshape(x, [*shape[:first], size, *shape[last:]])
'''

_SHAPED = '''
def _shaped(x, rank, sizes):
    """`x` with its last `rank` axes as axes of these sizes."""
    leading = x.shape[:x.shape.rank - rank]
    known = leading.is_fully_defined()
    return tf.reshape(x, [*(leading if known else tf.unstack(tf.shape(x))[:x.shape.rank - rank]), *sizes])
'''

# an einsum takes twice the time, and so does its gradient; a graph computes bias_add within the product before it
_AFFINE = '''
def _affine(x, rank, matrix, shift, sizes):
    """The last `rank` axes of `x` as one, times a matrix `[in, out]`, plus a vector, with axes of these sizes.

    A product of matrices where matrix and vector have no leading axes.
    """
    plain = matrix.shape.rank == 2 and shift.shape.rank == 1
    if plain and x.shape.is_fully_defined() and matrix.shape.is_fully_defined():
        leading = x.shape[:x.shape.rank - rank]
        made = tf.matmul(tf.reshape(x, [leading.num_elements(), matrix.shape[0]]), matrix)
        made = made + shift if made.dtype.is_complex else tf.nn.bias_add(made, shift)  # no GPU adds complex biases
        return tf.reshape(made, [*leading, *sizes])
    x = _flat(x, -rank, -1) if rank > 1 else x
    y = (tf.tensordot(x, matrix, 1) if plain else tf.linalg.matvec(matrix, x, transpose_a=True)) + shift
    return _shaped(y, 1, sizes) if len(sizes) > 1 else y
'''

TARGET = Target(
    name="tensorflow",
    package="dtn_tensorflow",
    framework="tensorflow",
    extra="tensorflow",
    imports="import tensorflow as tf",
    functions={
        "conj": "tf.math.conj(_x)",
        "real": "tf.math.real(_x)",
        "abs": "tf.abs(_x)",
        "select": "tf.where(tf.cast(_m, tf.bool), _x, tf.zeros_like(_x))",
        "recip": "tf.math.reciprocal_no_nan(_x)",
        "exp": "tf.exp(_x)",
        "log": "tf.math.log(_x)",
        "sqrt": "tf.sqrt(_x)",
        "tanh": "tf.tanh(_x)",
        "sigmoid": "tf.sigmoid(_x)",
        "silu": "tf.nn.silu(_x)",
        # tf.nn.relu multiplies its gradient by 0 where x <= 0: NaN, where that is infinite
        "relu": "tf.where(_x <= 0, tf.zeros_like(_x), _x)",
        # tf.nn.gelu rounds the square root of 2 to float32 whatever the dtype
        "gelu": "0.5 * _x * (1 + tf.math.erf(0.7071067811865476 * _x))",
        "erf": "tf.math.erf(_x)",
        "step": "tf.where(_x > 0, tf.ones_like(_x), tf.zeros_like(_x))",
    },
    complex_functions={
        "real": "tf.cast(tf.math.real(_x), _x.dtype)",
        "abs": "tf.cast(tf.abs(_x), _x.dtype)",
    },
    matmul={
        (False, False): "tf.matmul(_a, _b)",
        (True, False): "tf.matmul(_a, _b, transpose_a=True)",
        (False, True): "tf.matmul(_a, _b, transpose_b=True)",
        (True, True): "tf.matmul(_a, _b, transpose_a=True, transpose_b=True)",
    },
    elementwise_in_turns=True,
    transpose="tf.linalg.matrix_transpose(_x)",
    new_axis="tf.expand_dims(_x, _i)",  # the gradient of a slice is written into zeros
    flatten="_flat(_x, _i, _j)",
    diagonal="tf.linalg.diag_part(_x)",
    einsum="_einsum(_spec)",
    total="tf.reduce_sum(_x, axis=_axes)",
    concat="tf.concat(_blocks, axis=_axis)",
    tril=("tf.linalg.band_part(_x, -1, 0)", "_off_diagonal(tf.linalg.band_part(_x, -1, 0))"),
    triu=("tf.linalg.band_part(_x, 0, -1)", "_off_diagonal(tf.linalg.band_part(_x, 0, -1))"),
    ones="tf.ones(_shape, wide)",
    zeros_like="tf.zeros_like(_x)",
    flip="tf.reverse(_x, [_i])",
    gaps="tf.range(_n)",
    size="tf.shape(_x)[_i]",
    known_size="(_x.shape[_i] or 1)",
    extent="tf.cast(_n, wide)",
    per_extent="_a * tf.math.reciprocal_no_nan(tf.cast(_n, wide))",
    dtype="_first.dtype",
    wide="tf.float32 if dtype in (tf.float16, tf.bfloat16) else dtype",
    cast="tf.cast(_x, _dtype)",
    heads="tf.experimental.numpy.swapaxes(_x, -2, -3)",
    quotient="tf.math.divide_no_nan(_a, _d)",
    expm="_expm(_x)",
    scalar="tf.cast(_x, wide) if tf.is_tensor(_x) else tf.constant(_x, wide)",
    arrays="tf.convert_to_tensor(_x)",
    shape="tf.shape(_x)",
    scalar_shape="tf.shape(_x)",
    power="tf.cast(_x, wide)",
    zeros="tf.zeros(_shape, wide)",
    broadcast="_broadcast(_shapes)",
    costs=_COSTS,
    prelude={
        "_flat": _FLAT,
        "_shaped": _SHAPED,
        "_affine": _AFFINE,
        "_expm": _EXPM,
        "_einsum": _EINSUM,
        "_decayed": _DECAYED,
        "_scan": _SCAN,
        "_off_diagonal": _OFF_DIAGONAL,
        "_chunked_or_scan": _CHUNKED_OR_SCAN,
        "_at_once": _AT_ONCE,
        "_spans": _SPANS,
        "_cut": _CUT,
        "_fold": _FOLD,
        "_sums": _SUMS,
        "_pasts": _PASTS,
        "_placed": _PLACED,
        "_joined": _JOINED,
        "_broadcast": _BROADCAST,
        "_reduced": _REDUCED,
        "_over_batch": _OVER_BATCH,
        "_recomputed": _RECOMPUTED,
    },
    differentiate=("_recomputed",),
)
