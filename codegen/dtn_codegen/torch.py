"""PyTorch, as the emitter sees it."""

from .target import Target

_SCAN = '''
def _scan(chunk, states, tokens, places, constants, joins, size):
    """Feed tokens to `chunk` in pieces of `size`, handing the states on; results are joined along `joins`."""
    length = tokens[0].shape[places[0]]
    pieces = []
    for start in range(0, max(length, 1), size):
        part = [x[(..., slice(start, start + size), *[slice(None)] * (-place - 1))] for x, place in zip(tokens, places)]
        states, results = chunk(states, part, constants)
        pieces.append(results)
    return states, [torch.cat(column, dim=place) for column, place in zip(zip(*pieces), joins)]
'''

_PASTS = '''
def _pasts(first, added, whole, rank):
    """The states before each chunk and the one after the last, decayed by `whole` a chunk."""
    axis = -1 - rank
    first = first.unsqueeze(axis)
    if whole is None:
        total = added.cumsum(axis)
        return first + (total - added), (first + total.narrow(axis, -1, 1)).squeeze(axis)
    states = [first]
    for piece in added.split(1, axis):
        states.append(_lift(whole, rank) * states[-1] + piece)
    return torch.cat(states[:-1], dim=axis), states[-1].squeeze(axis)
'''

_JOINED = '''
def _joined(pieces, place):
    """Pieces as one tensor along the axis at `place`."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=place)
'''

TARGET = Target(
    name="torch",
    package="dtn_torch",
    framework="torch",
    extra="torch",
    imports="import torch",
    functions={
        "conj": "_x.conj()",
        "real": "torch.real(_x)",
        "abs": "torch.abs(_x)",
        "select": "torch.where(_m != 0, _x, 0)",
        # 1 / inf is 0 and so are its derivatives: no NaN where the denominator is 0
        "recip": "_x.masked_fill(_x.logical_not(), torch.inf).reciprocal()",
        "exp": "torch.exp(_x)",
        "log": "torch.log(_x)",
        "sqrt": "torch.sqrt(_x)",
        "tanh": "torch.tanh(_x)",
        "sigmoid": "torch.sigmoid(_x)",
        "silu": "torch.nn.functional.silu(_x)",
        "relu": "torch.relu(_x)",
        "gelu": "torch.nn.functional.gelu(_x)",
        "erf": "torch.erf(_x)",
        "step": "torch.where(_x > 0, torch.ones_like(_x), 0)",
    },
    complex_functions={"recip": "torch.where(_x == 0, 0, 1 / torch.where(_x == 0, 1, _x))"},
    matmul={
        (False, False): "_a @ _b",
        (True, False): "_a.mT @ _b",
        (False, True): "_a @ _b.mT",
        (True, True): "_a.mT @ _b.mT",
    },
    transpose="_x.mT",
    einsum="torch.einsum(_spec)",
    total="_x.sum(_axes)",
    concat="torch.cat(_blocks, dim=_axis)",
    tril="torch.tril(_x)",
    triu="torch.triu(_x)",
    ones="torch.ones(_shape, dtype=wide, device=_like.device)",
    zeros_like="torch.zeros_like(_x)",
    gaps="torch.arange(_n, device=_like.device)",
    size="_x.shape[_i]",
    dtype="torch.promote_types(_first, _second)",
    wide="torch.promote_types(dtype, torch.float32)",
    cast="_x.to(_dtype)",
    heads="_x.transpose(-2, -3)",
    nonzero="_x.masked_fill(_x.logical_not(), torch.inf)",
    zeros="torch.zeros(_shape, dtype=wide, device=_like.device)",
    broadcast="torch.broadcast_shapes(_shapes)",
    prelude={"_scan": _SCAN, "_pasts": _PASTS, "_joined": _JOINED},
    expm="torch.linalg.matrix_exp(_x.contiguous())",
    scalar="torch.as_tensor(_x, dtype=wide, device=_like.device)",
)
