"""TensorFlow, as the emitter sees it."""

from .target import Target

_DECAYED = '''
def _decayed(triangle, places, decay):
    """`decay ** |i - j|` inside the triangle, 0 outside."""
    return triangle * decay[..., None, None] ** tf.cast(abs(places[:, None] - places), decay.dtype)
'''

_SCAN = '''
def _scan(chunk, states, tokens, places, constants, joins, size):
    """Feed tokens to `chunk` in pieces of `size`, handing the states on; results are joined along `joins`."""

    def piece(start):
        rows = slice(start, start + size)
        return [x[(..., rows, *[slice(None)] * (-place - 1))] for x, place in zip(tokens, places)]

    length = tokens[0].shape[places[0]]
    pieces = []
    if tf.executing_eagerly() or length is not None and length <= size:
        for start in range(0, max(length, 1), size):
            states, results = chunk(states, piece(start), constants)
            pieces.append(results)
    else:
        count = tf.maximum(tf.shape(tokens[0])[places[0]] // size, 1)

        def step(index, states, arrays):
            states, results = chunk(states, piece(index * size), constants)
            return index + 1, states, [array.write(index, y) for array, y in zip(arrays, results)]

        arrays = [tf.TensorArray(tokens[0].dtype, count) for _ in joins]
        ranks = tuple(tf.TensorShape([None] * state.shape.rank) for state in states)
        unknown = (tf.TensorShape([]), ranks, [tf.TensorShape(None) for _ in arrays])
        _, states, arrays = tf.while_loop(
            lambda index, *_: index < count, step, (0, states, arrays), shape_invariants=unknown
        )
        last, results = chunk(states, piece(count * size), constants)
        joined = []
        for array, y, place in zip(arrays, results, joins):
            y = tf.experimental.numpy.moveaxis(array.stack(), 0, place - 1)
            shape = tf.shape(y)
            shape = tf.concat([shape[:place - 1], [-1], shape[tf.rank(y) + place + 1:]], 0)
            joined.append(tf.reshape(y, shape))
        pieces, states = [joined, results], last
    return states, [tf.concat(column, axis=place) for column, place in zip(zip(*pieces), joins)]
'''

# The gradient of an ellipsis is an outer product over the leading axes, summed afterwards: ten times slower.
_EINSUM = '''
def _einsum(spec, *tensors):
    """`tf.einsum` with the leading axes spelt out where they need no broadcasting."""
    inputs, output = spec.replace("...", "").split("->")
    leading = [x.shape[: x.shape.rank - len(part)] for x, part in zip(tensors, inputs.split(","))]
    letters = "ZYXWVUTSRQPO"[: max(map(len, leading))]
    columns = zip(*[[0] * (len(letters) - len(shape)) + list(shape) for shape in leading])
    if any(1 in column and {*column} - {0, 1} for column in columns):
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

_CHUNKED = '''
def _chunked(chunk, chunks, states, tokens, places, constants, ranks, joins, size):
    """Whole chunks of `size` tokens at once, then the rest as one; hands the states on, joins results along `joins`."""
    length = tokens[0].shape[places[0]]
    if length is None:
        length = tf.shape(tokens[0])[places[0]]
        count = length // size
    else:
        count = length // size if length >= 2 * size else 0
    known = isinstance(count, int)
    pieces = []
    if not known or count:
        split = [_unfold(x, place, count, size) for x, place in zip(tokens, places)]
        shared = [
            x[(..., None, *[slice(None)] * rank)] if len(getattr(x, "shape", ())) else x
            for x, rank in zip(constants, ranks)
        ]
        states, results = chunks(states, split, shared)
        pieces.append([_fold(y, place) for y, place in zip(results, joins)])
    if not known or count * size < length or not count:
        rest = slice(count * size, None)
        part = [x[(..., rest, *[slice(None)] * (-place - 1))] for x, place in zip(tokens, places)]
        states, results = chunk(states, part, constants)
        pieces.append(results)
    return states, [_joined(column, place) for column, place in zip(zip(*pieces), joins)]
'''

_UNFOLD = '''
def _unfold(x, place, count, size):
    """Split the axis at `place`, counted from the end, into `count` chunks of `size`."""
    x = x[(..., slice(0, count * size), *[slice(None)] * (-place - 1))]
    axis = x.shape.rank + place
    shape = tf.shape(x)
    return tf.reshape(x, tf.concat([shape[:axis], [count, size], shape[axis + 1:]], 0))
'''

_FOLD = '''
def _fold(y, place):
    """Join the chunk axis with the one at `place`, counted from the end."""
    axis = y.shape.rank + place
    shape = tf.shape(y)
    return tf.reshape(y, tf.concat([shape[:axis - 1], [shape[axis - 1] * shape[axis]], shape[axis + 1:]], 0))
'''

_PASTS = '''
def _pasts(first, added, whole, rank):
    """The states before each chunk and the one after the last, decayed by `whole` a chunk."""
    if whole is None:
        axis = added.shape.rank - 1 - rank
        last = first + tf.reduce_sum(added, axis=axis)
        return tf.expand_dims(first, -1 - rank) + tf.cumsum(added, axis=axis, exclusive=True), last
    factor = _lift(whole[..., 0] if whole.shape.rank else whole, rank)
    pieces = tf.experimental.numpy.moveaxis(added, -1 - rank, 0)
    nothing = tf.zeros_like(first)[None]  # one piece more: tf.scan cannot stack none
    pieces = tf.concat([pieces + nothing, nothing], 0)
    states = tf.scan(lambda state, piece: factor * state + piece, pieces, first)
    states = tf.concat([first[None], states[:-1]], 0)
    return tf.experimental.numpy.moveaxis(states[:-1], 0, -1 - rank), states[-1]
'''

_JOINED = '''
def _joined(pieces, place):
    """Pieces as one tensor along the axis at `place`."""
    return pieces[0] if len(pieces) == 1 else tf.concat(pieces, axis=place)
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
        "relu": "tf.nn.relu(_x)",
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
    transpose="tf.linalg.matrix_transpose(_x)",
    einsum="_einsum(_spec)",
    total="tf.reduce_sum(_x, axis=_axes)",
    concat="tf.concat(_blocks, axis=_axis)",
    tril="tf.linalg.band_part(_x, -1, 0)",
    triu="tf.linalg.band_part(_x, 0, -1)",
    ones="tf.ones(_shape, wide)",
    zeros_like="tf.zeros_like(_x)",
    gaps="tf.range(_n)",
    size="tf.shape(_x)[_i]",
    extent="tf.cast(_n, wide)",
    dtype="_first.dtype",
    wide="tf.float32 if dtype in (tf.float16, tf.bfloat16) else dtype",
    cast="tf.cast(_x, _dtype)",
    heads="tf.experimental.numpy.swapaxes(_x, -2, -3)",
    quotient="tf.math.divide_no_nan(_a, _d)",
    expm="tf.linalg.expm(_x)",
    scalar="tf.cast(_x, wide) if tf.is_tensor(_x) else tf.constant(_x, wide)",
    arrays="tf.convert_to_tensor(_x)",
    shape="tf.shape(_x)",
    scalar_shape="tf.shape(_x)",
    power="tf.cast(_x, wide)",
    zeros="tf.zeros(_shape, wide)",
    broadcast="_broadcast(_shapes)",
    prelude={
        "_einsum": _EINSUM,
        "_decayed": _DECAYED,
        "_scan": _SCAN,
        "_chunked": _CHUNKED,
        "_unfold": _UNFOLD,
        "_fold": _FOLD,
        "_pasts": _PASTS,
        "_joined": _JOINED,
        "_broadcast": _BROADCAST,
    },
)
