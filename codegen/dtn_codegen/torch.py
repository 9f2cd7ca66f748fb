"""PyTorch, as the emitter sees it."""

from dtn_core.passes.pipeline import Costs

from .python import SPANS_OF_A_LENGTH
from .target import ELSEWHERE, Target

_COSTS = Costs(state=100, at_once=2**18)

_AT_ONCE = '''
def _at_once(x, length, size):
    """How many chunks to compute at once: as many as a processor's cache holds, or elsewhere a small part of memory."""
    most = AT_ONCE if x.device.type == "cpu" and not torch.compiler.is_compiling() else ELSEWHERE
    return most * length // max(1, x.numel() * size)
'''.replace("AT_ONCE", str(_COSTS.at_once)).replace("ELSEWHERE", str(ELSEWHERE))

_OWN = '''
def _own():
    """Whether what is not read again may be written over: not where functions are traced or transformed."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is None
'''

_LOWER = '''
def _lower(x, diagonal=0):
    """`x` with zeros above a diagonal, written over `x` where that may be."""
    return x.tril_(diagonal) if _own() else x.tril(diagonal)
'''

_UPPER = '''
def _upper(x, diagonal=0):
    """`x` with zeros below a diagonal, written over `x` where that may be."""
    return x.triu_(diagonal) if _own() else x.triu(diagonal)
'''

_TIMES = '''
def _times(a, b):
    """`a @ b`, which takes a detour through more axes that one batch of matrices does without."""
    return torch.bmm(a, b) if a.ndim == b.ndim == 3 and a.shape[0] == b.shape[0] else a @ b
'''

_PLUS = '''
def _plus(x, a, b, over=False):
    """`x + a @ b`, added up by the product itself where leading axes are alike, written `over` x if that may be."""
    if x.ndim < 3 or not x.shape[:-2] == a.shape[:-2] == b.shape[:-2] or x.dtype != a.dtype:
        return x + a @ b
    if x.ndim == 3:
        return x.baddbmm_(a, b) if over and _own() else torch.baddbmm(x, a, b)
    return torch.baddbmm(x.flatten(0, -3), a.flatten(0, -3), b.flatten(0, -3)).view(x.shape)
'''

_SYMBOLIC = '''
def _symbolic(length):
    """Whether what is traced is to hold for any length: then no condition may be put on it."""
    return torch.compiler.is_compiling() and not torch.fx.experimental.symbolic_shapes.has_static_value(length)
'''

_SPANS = (
    '''
def _spans(x, place, size, wider):
    """Where the pieces of a sequence start and stop, and the size of their chunks (None: one, of any length).

    The widest tensor has `wider` elements for each of `x`; of None, chunks are not computed at once.
    """
    length = x.shape[place]
    if wider and _symbolic(length):  # zeros follow the last token; never one chunk, a size that broadcasts
        return [(0, (length // size + 2) * size, size)]
'''
    + SPANS_OF_A_LENGTH
)

_MERGED = '''
def _merged(chunks, state_axes, token_axes, constant_axes, result_axes):
    """`chunks` with leading axes and chunks as one axis, where all tensors have the same leading axes.

    A product of tensors with more than three axes is reshaped there and back each time, which takes as long as it does.
    Chunks come first, so that what belongs to one lies in one piece.
    """
    axes = (state_axes, token_axes, state_axes, result_axes)

    def run(states, tokens, constants, *cotangents):
        if torch.compiler.is_compiling():
            return chunks(states, tokens, constants, *cotangents)
        *batch, count = tokens[0].shape[:-token_axes[0]]
        axis = len(batch)
        given = [[*zip(part, own)] for part, own in zip((states, tokens, *cotangents), axes)]
        leads = (tuple(batch), (*batch, count)) * 2
        alike = all(x.shape[: x.ndim - own] == lead for part, lead in zip(given, leads) for x, own in part)
        alike = alike and all(getattr(x, "ndim", 0) <= own + 1 for x, own in zip(constants, constant_axes))
        if not batch or not alike:  # in memory of their own: a batched product would copy them each time
            tokens, *cotangents = [[x.contiguous() for x in part] for part in (tokens, *cotangents)]
            return chunks(states, tokens, constants, *cotangents)
        states, tokens, *cotangents = [
            [x.movedim(axis, 0).flatten(0, axis) if among else x.flatten(0, axis - 1) for x, _ in part]
            for part, among in zip(given, (False, True) * 2)
        ]
        states, *made = chunks(states, tokens, constants, *cotangents, chunks=count)
        if made:
            made[0] = [y if y is None else y.unflatten(0, (count, *batch)).movedim(0, axis) for y in made[0]]
        return [y.unflatten(0, batch) for y in states], *made

    return run
'''

# torch.broadcast_shapes imports sympy, which takes longer than to compile an operator and call it.
_BROADCAST = '''
def _broadcast(*shapes):
    """The common shape of leading axes that broadcast."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return torch.broadcast_shapes(*shapes)
    rank = max(map(len, shapes))
    columns = zip(*[(*[1] * (rank - len(shape)), *shape) for shape in shapes])
    return tuple(next((size for size in column if size != 1), 1) for column in columns)
'''

_PASTS = '''
def _pasts(first, added, whole, rank, reverse=False, chunks=None):
    """The states before each chunk and the one after the last, decayed by `whole` a chunk.

    Where `chunks` are given, the first axis is that of chunks and, after them, of the leading ones.
    """
    if chunks is not None:
        pasts, last = _pasts(first, added.unflatten(0, (chunks, -1)), whole, rank + 1, reverse)
        return pasts.flatten(0, 1), last
    axis = -1 - rank
    first = first.unsqueeze(axis)
    count = added.shape[axis]
    if _symbolic(count):
        return _pasts_by_product(first, added, whole, rank)
    if whole is None and rank and count <= 16:  # few chunks: a triangular product is quicker than a sum along an axis
        ones = torch.ones(count, count, dtype=added.dtype, device=added.device)
        ones = ones.triu(1) if reverse else ones.tril(-1)
        pasts = (first.flatten(-rank) + ones @ added.flatten(-rank)).unflatten(-1, added.shape[-rank:])
        last = 0 if reverse else -1
        return pasts, pasts.select(axis, last) + added.select(axis, last)
    if whole is None:
        added, _ = torch.broadcast_tensors(added, first)
        first = first.expand(added.narrow(axis, 0, 1).shape)
        total = torch.cat([first, added.flip(axis) if reverse else added], dim=axis).cumsum(axis)
        pasts = total.narrow(axis, 0, added.shape[axis])
        return pasts.flip(axis) if reverse else pasts, total.select(axis, -1)
    states, factor = [first], _lift(whole, rank)
    pieces = added.split(1, axis)
    for piece in pieces[::-1] if reverse else pieces:
        states.append(torch.addcmul(piece, factor, states[-1]))
    pasts = states[-2::-1] if reverse else states[:-1]
    return torch.cat(torch.broadcast_tensors(*pasts), dim=axis), states[-1].squeeze(axis)
'''

_PASTS_OF_MATMUL = '''
def _pasts_of_matmul(first, a, b, whole, rank, reverse=False, chunks=None):
    """`_pasts` of the products of `a` and `b`, summed where they are written if that may be."""
    given = (first, a, b)
    recorded = torch.is_grad_enabled() and any(x.requires_grad for x in given)
    alike = chunks is not None and all(x.ndim == 3 for x in given)
    alike = alike and a.shape[0] == b.shape[0] == chunks * first.shape[0]
    each = alike and (chunks <= 64 or first.numel() >= 1024)  # an addition for each is quicker than a sum along them
    if recorded or not each or not a.dtype == b.dtype == first.dtype or not _own():
        return _pasts(first, a @ b, whole, rank, reverse, chunks)
    sums = first.new_empty(chunks + 1, *first.shape)
    torch.bmm(a, b, out=(sums[:-1] if reverse else sums[1:]).flatten(0, 1))
    state, *others = sums.unbind()[:: -1 if reverse else 1]
    state.copy_(first)
    factor = None if whole is None else _lift(whole, rank)
    for after in others:
        state = after.add_(state) if factor is None else after.addcmul_(factor, state)
    return (sums[1:] if reverse else sums[:-1]).flatten(0, 1), state.clone()
'''

_PASTS_BY_PRODUCT = '''
def _pasts_by_product(first, added, whole, rank):
    """The states before each chunk and the one after the last: a product with a triangle, of however many chunks."""
    shape = torch.broadcast_shapes(first.shape, added.shape)
    first, added = (x.flatten(-rank) if rank else x[..., None] for x in (first, added.expand(shape)))
    chunks = torch.arange(added.shape[-2], device=added.device)
    gaps = torch.arange(added.shape[-2] + 1, device=added.device)[:, None] - 1 - chunks
    triangle = (gaps >= 0).to(added.dtype)
    if whole is not None:
        triangle = triangle * whole[..., None] ** gaps.clamp(min=0)
        first = first * whole[..., None] ** (gaps[:, :1] + 1)
    states = first + triangle @ added
    own = shape[len(shape) - rank:]
    return states[..., :-1, :].reshape(shape), states[..., -1, :].reshape((*shape[:-1 - rank], *own))
'''

_CUT = '''
def _cut(x, place, start, stop, size):
    """Tokens from `start` to `stop` along the axis at `place`, in chunks of `size`."""
    if _symbolic(stop):
        x = torch.nn.functional.pad(x, (0, 0) * (-place - 1) + (0, stop - x.shape[place]))
        return x.unfold(place, size, size).movedim(-1, place).contiguous()
    x = x[(..., slice(start, stop), *[slice(None)] * (-place - 1))]
    if size is None:
        return x
    axis = x.ndim + place
    return x.reshape((*x.shape[:axis], x.shape[axis] // size, size, *x.shape[axis + 1:]))
'''

_PLACED = '''
def _placed(whole, piece, place, start, length, size):
    """A result of `length` tokens with a piece of it where it belongs; a list of pieces where that is recorded."""
    if _symbolic(length):
        return _fold(piece, place, size).index_select(place, torch.arange(length, device=piece.device))
    tokens = piece.shape[place] * (1 if size is None else piece.shape[place - 1])
    if whole is None and tokens == length:
        return _fold(piece, place, size)
    if isinstance(whole, list) or torch.compiler.is_compiling() or (torch.is_grad_enabled() and piece.requires_grad):
        return [*(whole or ()), _fold(piece, place, size)]
    if whole is None:
        axis = piece.ndim + place
        lead = piece.shape[: axis if size is None else axis - 1]
        whole = piece.new_empty((*lead, length, *piece.shape[axis + 1:]))
    part = whole.narrow(place, start, tokens)
    (part if size is None else part.unflatten(place, (-1, size))).copy_(piece)
    return whole
'''

_JOINED = '''
def _joined(whole, place, reverse=False):
    """Pieces, listed from the first or the last, as one tensor along the axis at `place`."""
    return torch.cat(whole[::-1] if reverse else whole, dim=place) if isinstance(whole, list) else whole
'''

_REDUCED = '''
def _reduced(d, x):
    """A cotangent summed over the axes along which `x` was broadcast."""
    return torch.broadcast_tensors(d, x)[0].sum_to_size(x.shape)
'''

_OVER_BATCH = '''
def _over_batch(d, rank, state, state_rank):
    """A cotangent of `rank` own axes, divided evenly among the leading axes of a state."""
    batch = state.shape[:state.ndim - state_rank]
    full = d.expand(_broadcast(d.shape, (*batch, *[1] * rank)))
    return full * (d.numel() / max(1, full.numel()))
'''

_RECOMPUTED = '''
class _Recomputed(torch.autograd.Function):
    """`_run`, whose gradient keeps the arguments and the states between turns, and computes all else again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(size, counts, *tensors):
        walk = []
        states, results = _run(size, *_parted(tensors, counts), walk)
        return (*states, *results, *_stacked(walk))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.size, ctx.counts, *tensors = inputs
        kept = output[len(output) - ctx.counts[0]:]
        ctx.mark_non_differentiable(*kept)
        ctx.save_for_backward(*tensors, *kept)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def jvp(ctx, size, counts, *tangents):
        def run(*tensors):
            walk = []
            states, results = _run(ctx.size, *_parted(tensors, ctx.counts), walk)
            return (*states, *results, *_stacked(walk))

        given = ctx.saved_tensors[: len(tangents)]
        tangents = tuple(torch.zeros_like(x) if t is None else t for t, x in zip(tangents, given))
        moved = torch.func.jvp(run, given, tangents)[1]
        return (*moved[: len(moved) - ctx.counts[0]], *[None] * ctx.counts[0])

    @staticmethod
    def backward(ctx, *cotangents):
        count, saved = ctx.counts[0], ctx.saved_tensors  # once: hooks and checkpoints count how often
        given, kept = saved[:-count], saved[-count:]
        parts = _parted(given, ctx.counts)
        cotangents = tuple(x.contiguous() if 0 in x.stride() else x for x in cotangents[:-count])  # of a sum
        walk = () if torch.is_grad_enabled() else [parts[0], *zip(*kept)]  # a second derivative does not go through it
        d_states, d_tokens, d_constants = _run_vjp(ctx.size, *parts, cotangents[:count], cotangents[count:], walk)
        missing = [wanted and d is None for wanted, d in zip(ctx.needs_input_grad[-len(d_constants):], d_constants)]
        if any(missing):  # a decay: by the framework's own rules

            def run(*constants):
                states, results = _run(ctx.size, parts[0], parts[1], constants)
                return (*states, *results)

            d_constants = torch.func.vjp(run, *parts[2])[1](cotangents)
        return (None, None, *d_states, *d_tokens, *d_constants)


def _stacked(walk):
    """For each state, what it was before each turn but the first."""
    return [torch.stack(column[1:]) if len(column) > 1 else column[0].new_empty(0) for column in zip(*walk)]


def _parted(tensors, counts):
    """States, tokens and constants."""
    states, tokens = counts
    return tensors[:states], tensors[states : states + tokens], tensors[states + tokens:]


def _recomputed(size, states, tokens, constants):
    """`_run` with a gradient that keeps little more than the arguments."""
    given = (*states, *tokens, *constants)
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or not any(
        getattr(x, "requires_grad", False) for x in given
    ):
        return _run(size, states, tokens, constants)
    like = states[0]  # not a token: the first of those may be a mask
    constants = [torch.as_tensor(x, dtype=like.dtype, device=like.device) for x in constants]
    done = _Recomputed.apply(size, (len(states), len(tokens)), *states, *tokens, *constants)
    return tuple(done[: len(states)]), list(done[len(states): len(done) - len(states)])
'''

_LIFT = '''
def _lift(scalar, rank):
    """A scalar, or one per leading index, against tensors with `rank` more axes."""
    shape = getattr(scalar, "shape", ())
    return scalar.reshape((*shape, *[1] * rank)) if rank and len(shape) else scalar
'''

_AFFINE = '''
def _affine(x, rank, matrix, shift, sizes):
    """The last `rank` axes of `x` as one, times a matrix `[in, out]`, plus a vector, with axes of these sizes.

    One call where matrix and vector have no leading axes.
    """
    if matrix.ndim == 2 and shift.ndim == 1:  # linear(x, matrix.mT, shift), which turns it twice
        x = x if rank == 1 else x.flatten(-rank)
        made = torch.addmm(shift, x if x.ndim == 2 else x.reshape(-1, matrix.shape[0]), matrix)
        return made if x.ndim == 2 and len(sizes) == 1 else made.reshape(*x.shape[:-1], *sizes)
    rows = x.reshape(*x.shape[:x.ndim - rank], 1, matrix.shape[-2])
    made = (rows @ matrix).squeeze(-2) + shift
    return made.reshape(*made.shape[:-1], *sizes)
'''

_HEADS = '''
def _heads(x):
    """`x[..., n, h, d]` with heads before tokens, copied where each product would: where leading axes are not one."""
    x = x.transpose(-2, -3)
    if torch.compiler.is_compiling():
        return x
    apart = None
    for size, step in zip(x.shape[-3::-1], x.stride()[-3::-1]):
        if size != 1:
            if apart not in (None, step):
                return x.contiguous()
            apart = size * step
    return x
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
        "recip": "_x.masked_fill(_x.abs() < torch.finfo(_x.dtype).tiny, torch.inf).reciprocal()",
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
    complex_functions={
        "recip": "torch.where(_x == 0, 0, 1 / torch.where(_x == 0, 1, _x))",
        # torch multiplies no matrices of two dtypes
        "real": "torch.real(_x).to(wide)",
        "abs": "torch.abs(_x).to(wide)",
    },
    matmul={
        (False, False): "_a @ _b",
        (True, False): "_a.mT @ _b",
        (False, True): "_a @ _b.mT",
        (True, True): "_a.mT @ _b.mT",
    },
    batched="_times(_a, _b)",
    plus_each="torch.addcmul(_x, _a, _b)",
    plus="_plus(_x, _a, _b)",
    plus_over="_plus(_x, _a, _b, over=True)",
    # a row times a matrix: torch's batched product with a column is up to ten times slower
    matvec={False: "(_b.unsqueeze(-2) @ _a.mT).squeeze(-2)", True: "(_b.unsqueeze(-2) @ _a).squeeze(-2)"},
    elementwise_in_turns=True,
    transpose="_x.mT",
    new_axis="_x.unsqueeze(_i)",
    flatten="_x.flatten(_i, _j)",
    diagonal="_x.diagonal(dim1=-2, dim2=-1)",
    einsum="torch.einsum(_spec)",
    total="_x.sum(_axes)",
    concat="torch.cat(_blocks, dim=_axis)",
    tril=("torch.tril(_x)", "torch.tril(_x, -1)"),
    triu=("torch.triu(_x)", "torch.triu(_x, 1)"),
    tril_over=("_lower(_x)", "_lower(_x, -1)"),
    triu_over=("_upper(_x)", "_upper(_x, 1)"),
    ones="torch.ones(_shape, dtype=wide, device=_like.device)",
    zeros_like="torch.zeros_like(_x)",
    flip="_x.flip(_i)",
    gaps="torch.arange(_n, device=_like.device)",
    size="_x.shape[_i]",
    dtype="torch.promote_types(_first, _second)",
    wide="torch.promote_types(dtype, torch.float32)",
    cast="_x.to(_dtype)",
    heads="_x.transpose(-2, -3)",
    heads_once="_heads(_x)",
    nonzero="_x.masked_fill(_x.logical_not(), torch.inf)",
    zeros="torch.zeros(_shape, dtype=wide, device=_like.device)",
    broadcast="_broadcast(_shapes)",
    costs=_COSTS,
    prelude={
        "_lift": _LIFT,
        "_own": _OWN,
        "_lower": _LOWER,
        "_upper": _UPPER,
        "_times": _TIMES,
        "_plus": _PLUS,
        "_affine": _AFFINE,
        "_heads": _HEADS,
        "_at_once": _AT_ONCE,
        "_symbolic": _SYMBOLIC,
        "_spans": _SPANS,
        "_pasts_by_product": _PASTS_BY_PRODUCT,
        "_broadcast": _BROADCAST,
        "_pasts": _PASTS,
        "_pasts_of_matmul": _PASTS_OF_MATMUL,
        "_merged": _MERGED,
        "_cut": _CUT,
        "_placed": _PLACED,
        "_joined": _JOINED,
        "_reduced": _REDUCED,
        "_over_batch": _OVER_BATCH,
        "_recomputed": _RECOMPUTED,
    },
    differentiate=("_recomputed",),
    expm="torch.linalg.matrix_exp(_x.contiguous())",
    scalar="torch.as_tensor(_x, dtype=wide, device=_like.device)",
)
