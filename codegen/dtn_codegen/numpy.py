"""NumPy, as the emitter sees it."""

from dtn_core.passes.pipeline import COSTS

from .target import Target

# A [13/13] Padé approximant with scaling and squaring: Higham, SIAM J. Matrix Anal. Appl. 26 (2005) 1179.
_EXPM = '''
def _expm(x):
    """Matrix exponential over the last two axes, by scaling and squaring a [13/13] Padé approximant."""
    coefficients = [64764752532480000, 32382376266240000, 7771770303897600, 1187353796428800, 129060195264000,
                    10559470521600, 670442572800, 33522128640, 1323241920, 40840800, 960960, 16380, 182, 1]
    norm = np.max(np.sum(np.abs(x), axis=-2), axis=-1, initial=0.0)[..., None, None]
    large = (norm > 2.0) & np.isfinite(norm)
    squarings = np.where(large, np.ceil(np.log2(np.where(large, norm, 2.0) / 2.0)), 0.0)
    x = x * np.exp2(-squarings).astype(norm.dtype)
    power = np.broadcast_to(np.eye(x.shape[-1], dtype=x.dtype), x.shape)
    even, odd = coefficients[0] * power, 0 * x
    for k in range(1, 14):
        power = power @ x
        if k % 2:
            odd = odd + coefficients[k] * power
        else:
            even = even + coefficients[k] * power
    result = np.linalg.solve(even - odd, even + odd)
    for done in range(int(np.max(squarings, initial=0.0))):
        rest = np.where(done < squarings, result, 0)
        result = np.where(done < squarings, rest @ rest, result)
    return result
'''

_ERF = '''
import math


def _erf(x):
    """Error function of every element."""
    return np.reshape([math.erf(y) for y in np.ravel(x).tolist()], np.shape(x)).astype(x.dtype)
'''

_SIGMOID = '''
def _sigmoid(x):
    """`1 / (1 + exp(-x))`, of which no part overflows, with all digits where it is small."""
    negative = np.real(x) < 0
    power = np.exp(np.where(negative, x, -x))
    return np.where(negative, power, 1) / (1 + power)
'''

_AT_ONCE = '''
def _at_once(x, length, size):
    """How many chunks to compute at once: as many as a cache holds."""
    return AT_ONCE * length // max(1, x.size * size)
'''.replace("AT_ONCE", str(COSTS.at_once))

_PASTS = '''
def _pasts(first, added, whole, rank):
    """The states before each chunk and the one after the last, decayed by `whole` a chunk."""
    axis = added.ndim - 1 - rank
    first = first + added[(..., slice(0, 0), *[slice(None)] * rank)].sum(axis)  # the leading axes of both
    place = first.ndim - rank
    pasts = np.empty((*first.shape[:place], added.shape[axis], *first.shape[place:]), first.dtype)
    factor = 1 if whole is None else _lift(whole[..., 0] if whole.ndim else whole, rank)
    for index in range(added.shape[axis]):
        pasts[(..., index, *[slice(None)] * rank)] = first
        first = factor * first + added[(..., index, *[slice(None)] * rank)]
    return pasts, first
'''

_PLACED = '''
def _placed(whole, piece, place, start, length, size):
    """A result of `length` tokens with a piece of it where it belongs; the first piece makes it."""
    piece = _fold(piece, place, size)
    if whole is None:
        if piece.shape[place] == length:
            return piece
        axis = piece.ndim + place
        whole = np.empty((*piece.shape[:axis], length, *piece.shape[axis + 1:]), piece.dtype)
    whole[(..., slice(start, start + piece.shape[place]), *[slice(None)] * (-place - 1))] = piece
    return whole
'''

_JOINED = '''
def _joined(whole, place):
    """What the pieces have become."""
    return whole
'''

_DECAYED = '''
def _decayed(triangle, places, decay):
    """`decay ** |i - j|` inside the triangle, 0 outside."""
    return triangle * decay[..., None, None] ** abs(places[:, None] - places).astype(decay.dtype)
'''

TARGET = Target(
    name="numpy",
    package="dtn_numpy",
    framework="numpy",
    extra="numpy",
    imports="import numpy as np",
    functions={
        "conj": "np.conj(_x)",
        "real": "np.real(_x)",
        "abs": "np.abs(_x)",
        "select": "np.where(_m != 0, _x, 0)",
        "recip": "1 / np.where(_x == 0, np.inf, _x)",
        "exp": "np.exp(_x)",
        "log": "np.log(_x)",
        "sqrt": "np.sqrt(_x)",
        "tanh": "np.tanh(_x)",
        "sigmoid": "_sigmoid(_x)",
        "silu": "_x * _sigmoid(_x)",
        "relu": "np.maximum(_x, 0)",
        "gelu": "0.5 * _x * (1 + _erf(0.7071067811865476 * _x))",
        "erf": "_erf(_x)",
        "step": "np.where(_x > 0, np.ones_like(_x), 0)",
    },
    complex_functions={"recip": "np.where(_x == 0, 0, 1 / np.where(_x == 0, 1, _x))"},
    matmul={
        (False, False): "_a @ _b",
        (True, False): "_a.mT @ _b",
        (False, True): "_a @ _b.mT",
        (True, True): "_a.mT @ _b.mT",
    },
    matvec={False: "(_a @ _b[..., None])[..., 0]", True: "(_b[..., None, :] @ _a)[..., 0, :]"},
    elementwise=False,
    transpose="_x.mT",
    diagonal="np.diagonal(_x, axis1=-2, axis2=-1)",
    einsum="np.einsum(_spec)",
    total="_x.sum(_axes)",
    concat="np.concatenate(_blocks, axis=_axis)",
    tril=("np.tril(_x)", "np.tril(_x, -1)"),
    triu=("np.triu(_x)", "np.triu(_x, 1)"),
    ones="np.ones(_shape, wide)",
    zeros_like="np.zeros_like(_x)",
    flip="np.flip(_x, _i)",
    gaps="np.arange(_n)",
    size="_x.shape[_i]",
    dtype="np.result_type(_args)",
    wide="np.result_type(dtype, np.float32)",
    cast="_x.astype(_dtype, copy=False)",
    heads="np.swapaxes(_x, -2, -3)",
    nonzero="np.where(_x == 0, np.inf, _x)",
    expm="_expm(_x)",
    scalar="np.asarray(_x, wide)",
    arrays="np.asarray(_x)",
    power="np.asarray(_x, wide)",
    zeros="np.zeros(_shape, wide)",
    broadcast="np.broadcast_shapes(_shapes)",
    prelude={
        "_expm": _EXPM,
        "_erf": _ERF,
        "_sigmoid": _SIGMOID,
        "_decayed": _DECAYED,
        "_at_once": _AT_ONCE,
        "_pasts": _PASTS,
        "_placed": _PLACED,
        "_joined": _JOINED,
    },
)
