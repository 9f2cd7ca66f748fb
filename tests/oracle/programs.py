"""Programs at random, for property tests: every construct of the notation, any nesting of names.

Half of the programs are written as by somebody who wants a causal operator (each token index hangs below the
output's in a tree of ``<=`` and ``<``), the others are as wild as the verifier lets them be.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from hypothesis import strategies as st

from dtn_core.errors import VerificationError
from dtn_core.ir.nodes import (
    ONES,
    Apply,
    Extent,
    Index,
    MatrixFunction,
    Number,
    Param,
    Program,
    Read,
    Relation,
    Statement,
    indices_of,
    product,
    reciprocal,
    statement_reads,
    sum_of,
    terms_of,
)
from dtn_core.ir.order import restrict
from dtn_core.ir.verify import verify

FIRST = Param("x", ("n", "d"))
"""What every program has: the tensor that gives the axes of tokens and features their sizes."""

PARAMS = (
    Param("y", ("n", "d")), Param("z", ("n", "e")), Param("m", ("d", "e")), Param("s", ("d", "d")),
    Param("r", ("n", "n")), Param("w", ("n",)), Param("u", ("d",)), Param("g"), Param("lam"),
)  # fmt: skip
DECAY = "g"
"""The scalar parameter that may be a decay; whoever draws arguments keeps it in (0, 1]."""

NAMES = {"n": ("i", "j", "t"), "d": ("a", "a_1"), "e": ("c",)}
MORE_NAMES = {"n": ("i", "j", "t_between", "t"), "d": ("a", "a_1", "a_"), "e": ("c", "i_")}
"""Of indices, those among them that a pass would call its own."""
SIZES = {"n": 3, "d": 2, "e": 2}
EXACT = ("conj", "real", "relu", "step", "abs", "recip")
SMOOTH = ("conj", "real", "tanh", "sigmoid", "silu", "gelu", "erf")
COEFFICIENTS = (Fraction(1), Fraction(1), Fraction(-1), Fraction(2), Fraction(-3, 2), Fraction(1, 3), Fraction("0.1"))


@dataclass(frozen=True)
class Vocabulary:
    """What a program is written with."""

    functions: tuple[str, ...]
    orders: bool
    divisions: bool
    matrices: bool
    axes: tuple[str, ...]
    decays: tuple[Number | Read, ...]
    names: dict[str, tuple[str, ...]]


@st.composite
def programs(draw, functions=EXACT, *, orders=True, divisions=True, matrices=False, max_statements=3, names=NAMES):
    """A verified program with one to three outputs.

    Its parameters are :data:`FIRST` and some of :data:`PARAMS`.  ``functions`` are the pointwise ones, ``orders``,
    ``divisions`` and ``matrices`` (matrix exponentials) say what else may occur, ``names`` are those of indices.
    """
    rest = draw(st.lists(st.sampled_from(PARAMS), unique=True, max_size=4))
    causal = orders and draw(st.booleans())
    params = (FIRST, *(p for p in PARAMS if p in rest and not (causal and p.axes.count("n") > 1)))
    decays = (Number(Fraction(1, 2)), Number(Fraction("0.9")), *([Read(DECAY)] if Param(DECAY) in params else []))
    known = {param.name: param.axes for param in params}
    statements = []
    if orders and Param(DECAY) in params and draw(st.booleans()):
        statements.append(Statement("squared", (), product(Read(DECAY), Read(DECAY))))
        decays = (*decays, Read("squared"))
    axes = tuple(axis for axis in NAMES if any(axis in p.axes for p in params))
    words = Vocabulary(functions, orders, divisions, matrices, axes, decays, names)
    for number in range(draw(st.integers(1, max_statements))):
        made = draw(_causal(f"t{number}", known, words) if causal else _wild(f"t{number}", known, words))
        statements.append(made)
        known[made.name] = made.axes
    outputs = [statements[-1], *(s for s in statements[:-1] if draw(st.integers(0, 3)) == 0)][:3]
    return verify(Program("random", params, tuple(Param(s.name, s.axes) for s in outputs), tuple(statements)))


# ------------------------------------------------------------------- statements


@st.composite
def _wild(draw, name, known, words):
    """Terms over any indices, ordered anyhow."""
    square = [tensor for tensor, axes in known.items() if len(axes) == 2 and axes[0] == axes[1]]
    if words.matrices and square and draw(st.integers(0, 4)) == 0:
        tensor = draw(st.sampled_from(square))
        pair = tuple(Index(n, known[tensor][0]) for n in ("i", "j"))
        read = pair if draw(st.booleans()) else pair[::-1]
        return Statement(name, pair, MatrixFunction("expm", ((Read(tensor, read),),), (0, 0), read))
    value = sum_of(*draw(st.lists(_term(known, words), min_size=1, max_size=2)))
    found = list(indices_of(value))
    left = tuple(draw(st.permutations(found))[: draw(st.integers(0, min(3, len(found))))])
    order = ()
    if words.orders and draw(st.booleans()):
        axis = draw(st.sampled_from(["n", "n", "n", "d"]))
        tokens = sorted((index for index in found if index.axis == axis), key=lambda index: index.name)
        order = draw(_tree(draw(st.permutations(tokens)), words.decays, wild=True))
    return _valid(Statement(name, left, value, order))


@st.composite
def _causal(draw, name, known, words):
    """Terms over tokens that are ordered with the output's, most often below it, or over the output's token alone."""
    root = Index("t", "n")
    others = [name for name in words.names["n"] if name != "t"]
    tokens = [root, *(Index(name, "n") for name in others[: draw(st.sampled_from([0, 1, 1, 1, 2, 2, 3]))])]
    along = {tensor: axes for tensor, axes in known.items() if axes.count("n") == 1}
    terms = []
    for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
        counts = [draw(st.sampled_from([1, 1, 1, 2])) for _ in tokens]
        factors = [
            draw(_factor(along, words, (token,)))
            for token, count in zip(tokens, counts, strict=True)
            for _ in range(count)
        ]
        if draw(st.integers(0, 3)) == 0:
            small = {tensor: axes for tensor, axes in known.items() if "n" not in axes}
            factors.append(draw(_factor(small or along, words, (root,))))
        terms.append(product(draw(_number()), *factors))
    value = sum_of(*terms)
    found = indices_of(value)
    features = [index for index in found if index.axis != "n"]
    left = [root] if root in found else []
    left += draw(st.permutations(features))[: draw(st.integers(0, min(2, len(features))))]
    carried = [token for token in tokens if token in found]
    return _valid(Statement(name, tuple(left), value, draw(_tree(carried, words.decays, wild=False))))


@st.composite
def _tree(draw, tokens, decays, *, wild):
    """Each token but the first is ordered with one of those before; a wild one in any direction, or more than one."""
    one = draw(st.sampled_from([None, None, *decays]))
    mixed = draw(st.integers(0, 4)) == 0
    ways = draw(st.sampled_from([[False]] * 4 + [[True], [True, False]]))  # whether what is summed comes after
    order = []
    for place, token in enumerate(tokens[1:], 1):
        parent = tokens[draw(st.integers(0, place - 1))]
        decay = draw(st.sampled_from([None, *decays])) if mixed else one
        sign = draw(st.sampled_from(["<=", "<=", "<"]))
        if not wild:
            lower, upper = (parent, token) if draw(st.sampled_from(ways)) else (token, parent)
            order.append(Relation(lower, upper, decay, sign))
            continue
        for other in {parent, tokens[draw(st.integers(0, place - 1))]} if draw(st.booleans()) else {parent}:
            kind = draw(st.sampled_from(["below", "below", "above", "equal"]))
            lower, upper = (other, token) if kind == "above" else (token, other)
            order.append(Relation(lower, upper, None, "==") if kind == "equal" else Relation(lower, upper, decay, sign))
    return tuple(sorted(order, key=repr))


def _valid(statement):
    """The statement, without what of its order the verifier or the meaning of decays forbids."""
    order = statement.order
    while order:
        made = Statement(statement.name, statement.indices, statement.value, order)
        try:
            for term in terms_of(statement.value):
                restrict(order, {*indices_of(term), *statement.indices})
            axes = {index.axis for read in statement_reads(made) for index in read.indices}
            known = {read.tensor: tuple(i.axis for i in read.indices) for read in statement_reads(made)}
            params = tuple(Param(tensor, own) for tensor, own in known.items() if tensor != ONES)
            sized = tuple(Param(f"size_{axis}", (axis,)) for axis in axes | {"n", "d", "e"})
            verify(Program("valid", params + sized, (Param(made.name, made.axes),), (made,)))
            return made
        except VerificationError:
            order = order[1:]
    return Statement(statement.name, statement.indices, statement.value)


# ------------------------------------------------------------------- expressions


@st.composite
def _term(draw, known, words):
    return product(draw(_number()), *draw(st.lists(_factor(known, words), min_size=1, max_size=3)))


def _number():
    return st.sampled_from(COEFFICIENTS).map(Number)


@st.composite
def _factor(draw, known, words, tokens=None):
    """A read, a function of one, a quotient, a size; over ``tokens`` where they are given."""
    kind = draw(st.sampled_from(["read", "read", "read", "function", "select", "extent", "divide", "ones"]))
    read = _read(known, words.names, tokens)
    if kind == "extent":
        return Extent(draw(st.sampled_from(words.axes)))
    if kind == "ones" and tokens is not None:
        return Read(ONES, (draw(st.sampled_from(tokens)),))
    if kind == "ones":
        axis = draw(st.sampled_from(words.axes))
        return Read(ONES, (Index(draw(st.sampled_from(words.names[axis])), axis),))
    if kind == "function" and words.functions:
        return draw(_function(read, words.functions))
    if kind == "select":
        return Apply("select", (draw(read), draw(read)))
    if kind == "divide" and words.divisions:
        below = [read, read, st.sampled_from(words.axes).map(Extent)]
        return reciprocal(draw(st.one_of(*below, *([_function(read, words.functions)] if words.functions else []))))
    return draw(read)


@st.composite
def _function(draw, read, functions):
    """``f(x)``, ``f(2 * x)`` or ``f(g(x))``."""
    inner = draw(st.one_of(read, read, read, st.sampled_from(("d", "n")).map(Extent)))
    if inner == Extent("n"):  # the logarithm of an empty sequence is not a number
        functions = [name for name in functions if name != "log"]
    shape = draw(st.sampled_from(["plain", "plain", "scaled", "nested"]))
    if shape == "scaled":
        inner = product(draw(_number()), inner)
    elif shape == "nested":
        inner = _applied(draw(st.sampled_from(functions)), inner)
    return _applied(draw(st.sampled_from(functions)), inner)


def _applied(function, operand):
    return reciprocal(operand) if function == "recip" else Apply(function, (operand,))


@st.composite
def _read(draw, known, names, tokens):
    name = draw(st.sampled_from(sorted(known)))
    names = {axis: [Index(n, axis) for n in names[axis]] for axis in names}
    if tokens is not None:
        names["n"] = list(tokens)
    return Read(name, tuple(draw(st.sampled_from(names[axis])) for axis in known[name]))
