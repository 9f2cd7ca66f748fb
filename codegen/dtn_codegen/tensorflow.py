"""TensorFlow, as the emitter sees it."""

from .target import Target

_DECAYED = '''
def _decayed(triangle, places, decay):
    """`decay ** |i - j|` inside the triangle, 0 outside."""
    return triangle * decay[..., None, None] ** tf.cast(abs(places[:, None] - places), decay.dtype)
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
    matmul={
        (False, False): "tf.matmul(_a, _b)",
        (True, False): "tf.matmul(_a, _b, transpose_a=True)",
        (False, True): "tf.matmul(_a, _b, transpose_b=True)",
        (True, True): "tf.matmul(_a, _b, transpose_a=True, transpose_b=True)",
    },
    transpose="tf.linalg.matrix_transpose(_x)",
    einsum="tf.einsum(_spec)",
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
    prelude={"_decayed": _DECAYED},
)
