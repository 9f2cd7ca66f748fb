"""simplify: flatten nested contractions, distribute sums over them, share equal statements, fold constants.

Intermediate statements are names, not evaluation orders.  A statement that is read once, that has two
sequence axes, or one and more axes than any argument, is expanded into the contractions that read it;
``contract`` then chooses the order of evaluation of the whole.
"""

from __future__ import annotations

from collections import Counter
from itertools import product as cartesian

from ..ir.axes import sequence_axes
from ..ir.build import Builder, fresh_index
from ..ir.nodes import (
    ONES,
    Apply,
    Expr,
    Extent,
    Index,
    MatrixFunction,
    Number,
    Product,
    Program,
    Read,
    Relation,
    Statement,
    factors_of,
    indices_of,
    map_order,
    product,
    statement_reads,
    sum_of,
    terms_of,
)
from ..ir.terms import Factor, Term, multiply

MAX_TERMS = 64


class Flattener:
    """Expands statements into sums of flat terms, and materialises the ones that must be tensors.

    Parameters
    ----------
    program : Program
        What to flatten.
    complex_input : bool
        Keep ``conj`` and ``real``; for real input they are the identity and go away.
    """

    def __init__(self, program: Program, *, complex_input: bool) -> None:
        self.program = program
        self.complex = complex_input
        self.builder = Builder(program)
        self.expansions: dict[str, tuple[tuple[Index, ...], list[Term]]] = {}
        self.lefts = {statement.name: statement.indices for statement in program.statements}
        self.long = sequence_axes(program)
        self.widest = max((len(param.axes) for param in program.params), default=0)
        self.uses = Counter(read.tensor for s in program.statements for read in set(statement_reads(s)))

    def run(self) -> Program:
        """The flattened program."""
        for statement in self.program.statements:
            self.add(statement)
        for output in self.program.outputs:
            self.tensor_read(Read(output.name, self.lefts[output.name]))
        return self.builder.finish()

    def add(self, statement: Statement) -> None:
        """Take a statement in, expanded where it reads statements that may be."""
        value = statement.value
        if isinstance(value, MatrixFunction):
            grid = tuple(tuple(None if cell is None else self.tensor_read(cell) for cell in row) for row in value.grid)
            made = _straight(MatrixFunction(value.function, grid, value.block, value.indices))
            self.builder.alias(
                statement.name, statement.indices, self.builder.define(statement.name, made.indices, made)
            )
            return
        terms: list[Term] = []
        for term in terms_of(value):
            terms.extend(self.expand(self.term(term, statement), statement.indices))
        self.expansions[statement.name] = (statement.indices, terms)

    def inlined(self, name: str) -> bool:
        """Whether reads of ``name`` are expanded rather than materialised."""
        if name not in self.expansions:
            return False
        indices, terms = self.expansions[name]
        long = sum(index.axis in self.long for index in indices)
        bulky = long > 1 or (long == 1 and len(indices) > self.widest)
        return bulky or (len(terms) == 1 and self.uses[name] == 1)

    # ------------------------------------------------------------ to terms

    def term(self, expr: Expr, statement: Statement) -> Term:
        """A product of a statement as a flat term."""
        coefficient: list[Expr] = []
        factors: list[Factor] = []
        for factor in factors_of(expr):
            match factor:
                case Number() | Extent() | Apply("recip", (Extent(),)):
                    coefficient.append(factor)
                case Read():
                    factors.append(Factor(factor))
                case Apply("conj", (Read() as read,)):
                    factors.append(Factor(read, conj=self.complex))
                case Apply():
                    factors.append(Factor(self.pointwise(factor, statement.name), resolved=True))
                case _:
                    raise AssertionError(f"{factor} inside a product passed the verifier")
        return Term(tuple(coefficient), tuple(factors), map_order(statement.order, self.tensor_read))

    def pointwise(self, expr: Apply, hint: str) -> Read:
        """A tensor holding a pointwise function of tensors; returns its read."""
        operands = tuple(self.operand(operand, hint) for operand in expr.operands)
        if expr.function in ("conj", "real") and not self.complex and isinstance(operands[0], Read):
            return operands[0]
        made = Apply(expr.function, operands)
        if expr.function == "recip":
            hint = f"inv_{_name_of(operands[0], hint)}"
        elif hint == self.program.outputs[0].name or expr.function == "select":
            hint = f"{expr.function}_{_name_of(operands[-1], hint)}"
        return self.builder.define(hint, indices_of(made), made)

    def operand(self, expr: Expr, hint: str) -> Expr:
        """An operand of a function: a number, or the read of a tensor that holds it."""
        match expr:
            case Number() | Extent():
                return expr
            case Read():
                return self.tensor_read(expr)
            case Apply():
                return self.pointwise(expr, hint)
            case Product(factors):
                made = product(*(self.operand(factor, hint) for factor in factors))
                if isinstance(made, Product):
                    return self.builder.define(f"{hint}_arg", indices_of(made), made)
                return made
        made = sum_of(*(self.operand(term, hint) for term in terms_of(expr)))
        return self.builder.define(f"{hint}_arg", indices_of(made), made)

    def tensor_read(self, read: Read) -> Read:
        """The read, of the tensor as it is called in the new program."""
        if read.tensor in self.expansions:
            self.materialise(read.tensor)
        return self.builder.resolve(read)

    # ------------------------------------------------------------ expansion

    def expand(self, term: Term, out: tuple[Index, ...]) -> list[Term]:
        """Replace the reads of inlined statements by their terms."""
        parts: list[list[Term]] = [[Term(term.coefficient, (), term.order)]]
        names = {index.name for index in (*term.indices(), *out)}
        names.update(index.name for r in term.order for index in (r.lower, r.upper))
        for factor in term.factors:
            name = factor.read.tensor
            if factor.resolved or not self.inlined(name):
                parts.append([Term((), (self.resolved(factor),))])
                continue
            indices, inner = self.expansions[name]
            chosen = []
            for piece in inner:
                renamed = self.instantiate(piece, indices, factor.read.indices, names)
                chosen.append(renamed.conjugate() if factor.conj else renamed)
            parts.append(chosen)
        expanded = []
        for choice in cartesian(*parts):
            made = choice[0]
            for piece in choice[1:]:
                made = multiply(made, piece)
            expanded.append(self.sized(made, out, term).simplified(out).without_ones(out))
        if len(expanded) > MAX_TERMS:
            return [self.sized(self.kept(term), out, term).simplified(out).without_ones(out)]
        return expanded

    def kept(self, term: Term) -> Term:
        """The term with every statement it reads materialised."""
        return Term(term.coefficient, tuple(map(self.resolved, term.factors)), term.order)

    def resolved(self, factor: Factor) -> Factor:
        """The factor as a read of the new program."""
        return factor if factor.resolved else Factor(self.tensor_read(factor.read), factor.conj, resolved=True)

    def instantiate(self, piece: Term, formal: tuple[Index, ...], actual: tuple[Index, ...], taken: set[str]) -> Term:
        """``piece`` with its left indices replaced by the actual ones and its summed ones made fresh."""
        names = dict(zip(formal, actual, strict=True))
        ordered = (index for relation in piece.order for index in (relation.lower, relation.upper))
        for index in dict.fromkeys((*piece.indices(), *ordered)):
            if index not in names:
                names[index] = fresh_index(index.name, index.axis, taken)
        taken.update(index.name for index in actual)
        return piece.rename(names)

    @staticmethod
    def sized(made: Term, out: tuple[Index, ...], original: Term) -> Term:
        """Keep what the original sums over: an index that the expanded term does not carry is one of ones."""
        lost = set(original.indices()) - set(out) - set(made.indices())
        ones = tuple(Factor(Read(ONES, (i,)), resolved=True) for i in sorted(lost, key=lambda i: i.name))
        return Term(made.coefficient, made.factors + ones, made.order)

    # ------------------------------------------------------------ to tensors

    def store(self, name: str, indices: tuple[Index, ...], value: Expr, order: tuple[Relation, ...] = ()) -> None:
        """Compute what the source program calls ``name``."""
        self.builder.alias(name, indices, self.builder.define(name, indices, value, order))

    def materialise(self, name: str) -> None:
        """Compute the tensor of statement ``name``, on first demand."""
        if name in self.builder.aliases:
            return
        indices, terms = self.expansions[name]
        if len(terms) == 1:
            self.store(name, indices, terms[0].expression(), terms[0].order)
            return
        parts: list[Expr] = []
        for term in terms:
            if _plain(term, indices):
                parts.append(term.expression())
            else:
                left = tuple(index for index in indices if index in term_indices(term))
                parts.append(self.builder.define(f"{name}_part", left, term.expression(), term.order))
        self.store(name, indices, sum_of(*parts))


def term_indices(term: Term) -> set[Index]:
    """Every index of a term, ordered ones included."""
    return {*term.indices(), *(index for r in term.order for index in (r.lower, r.upper))}


def _plain(term: Term, out: tuple[Index, ...]) -> bool:
    """Whether a term is a number times at most one tensor, read as the output is."""
    if len(term.factors) > 1 or term.order or any(factor.conj for factor in term.factors):
        return False
    own = term.indices()
    return all(index in out for index in own) and all(len(set(f.indices)) == len(f.indices) for f in term.factors)


def _straight(value: MatrixFunction) -> MatrixFunction:
    """``f(Aᵀ)`` as ``f(A)``, read the other way round: the indices turned, and the grid of its blocks."""
    *batch, row, column = value.indices
    turned = (*batch, column, row)
    if any(cell is not None and cell.indices != turned for cells in value.grid for cell in cells):
        return value
    return MatrixFunction(value.function, tuple(zip(*value.grid, strict=True)), value.block[::-1], turned)


def _name_of(expr: Expr, default: str) -> str:
    found = [read.tensor for read in ([expr] if isinstance(expr, Read) else [])]
    return found[0] if found else default


def flatten(program: Program, *, complex_input: bool = True) -> Program:
    """Flatten nested contractions.

    Examples
    --------
    >>> from dtn_core.notation import parse
    >>> from dtn_core.printer import to_notation
    >>> program = parse('''attention(q[n,d], k[n,d], v[n,e]) -> o[n,e]:
    ...     T[i,j] = q[i,a] * k[j,a]
    ...     o[i,c] = T[i,j] * v[j,c]''')
    >>> print(to_notation(flatten(program)))
    attention(q[n,d], k[n,d], v[n,e]) -> o[n,e]:
        o[i,c] = q[i,a] * k[j,a] * v[j,c]
    """
    return Flattener(program, complex_input=complex_input).run()
