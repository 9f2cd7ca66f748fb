"""Index notation to IR: a small recursive-descent parser whose errors point at the character.

Grammar (``#`` starts a comment; a line that opens a bracket goes on until it closes, and a line that
starts with ``where`` continues the statement above it)::

    operator  = NAME "(" param {"," param} ")" "->" output {"," output} ":" statement {statement}
    param     = NAME ["[" AXIS {"," AXIS} "]"]              a scalar when it has no brackets
    output    = NAME ["[" AXIS {"," AXIS} "]"]
    statement = NAME ["[" INDEX {"," INDEX} "]"] "=" sum ["where" chain {"," chain}]
    chain     = INDEX relop INDEX {relop INDEX} ["decay" (NAME | NUMBER ["/" NUMBER])]   relop = "<=" | "<" | "=="
    sum       = ["-"] term {("+" | "-") term}
    term      = factor {("*" | "/") factor}
    factor    = NUMBER | "-" factor | "(" sum ")" | FUNCTION "(" sum ")" | NAME ["[" INDEX {"," INDEX} "]"]
              | "one" "[" INDEX ":" AXIS {"," INDEX ":" AXIS} "]"
"""

from __future__ import annotations

import math
import re
import sys
from fractions import Fraction

from . import hints
from .errors import VerificationError
from .ir.functions import FUNCTIONS, MATRIX_FUNCTIONS
from .ir.nodes import (
    MINUS_ONE,
    ONES,
    SIGNS,
    ZERO,
    Apply,
    Expr,
    Extent,
    Index,
    MatrixFunction,
    Number,
    Param,
    Product,
    Program,
    Read,
    Relation,
    Sign,
    Statement,
    Sum,
    factors_of,
    product,
    reads,
    reciprocal,
    subexpressions,
    sum_of,
    terms_of,
)
from .ir.verify import contradiction, verify, verify_terms
from .lexer import Cursor, Token

MAX_DEPTH = 40
MAX_TERMS = 1_000
TINIEST, LARGEST = Fraction(math.ulp(0.0)), Fraction(sys.float_info.max)


def parse(text: str) -> Program:
    """Read one operator in index notation.

    Parameters
    ----------
    text : str
        The notation; see the module's grammar and the README's tour.

    Returns
    -------
    Program
        The verified IR.

    Raises
    ------
    NotationError
        Names the operator, the line and the column, with a caret under the fault.

    Examples
    --------
    >>> program = parse("scores(q[n,d], k[m,d]) -> s[n,m]:  s[i,j] = q[i,a] * k[j,a]")
    >>> program.axes
    ('n', 'd', 'm')
    """
    parser = _Parser(text)
    program = parser.operator()
    try:
        return verify(program)
    except VerificationError as error:
        parser.fail(str(error), parser.tokens[0])


class _Parser(Cursor):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.params: dict[str, Param] = {}
        self.defined: dict[str, tuple[str, ...]] = {}  # axes of every tensor known so far
        self.axis_names: dict[str, None] = {}
        self.ranges: dict[str, str] = {}  # index -> axis, within one statement

    def operator(self) -> Program:
        self.skip_lines()
        if self.here.text == "def":
            self.fail("a definition begins with the operator's name, without def", self.here)
        self.name = self.new_name("the operator's name", hints.HEAD).text
        named = "" if self.here.text not in (":", "") else "; dtn_core.operators.load reads names of the catalogue"
        self.expect("(", " after the operator's name", hints.HEAD + named)
        places: dict[str, Token] = {}
        while not self.accept(")"):
            token, param = self.declaration("a parameter")
            places[param.name] = token
            if param.name in self.params:
                self.fail(f"parameter {param.name} is declared twice", token)
            self.params[param.name] = param
            self.defined[param.name] = param.axes
            self.axis_names.update(dict.fromkeys(param.axes))
            if self.here.text != ")":
                self.expect(",", " or ')' after a parameter", hints.after_parameter(param.name, self.here.text))
        for param in self.params.values():
            if param.name in self.axis_names:
                self.fail(f"{param.name} names both a parameter and an axis", places[param.name])
        self.expect("->", " before the outputs", hints.OUTPUTS)
        outputs = [self.declaration("an output")]
        while self.accept(","):
            outputs.append(self.declaration("an output"))
        for place, (token, output) in enumerate(outputs):
            if output.name in {other.name for _, other in outputs[:place]}:
                self.fail(f"output {output.name} is declared twice", token)
            unknown = [axis for axis in output.axes if axis not in self.axis_names]
            if unknown:
                self.fail(f"axis {unknown[0]} of output {output.name} belongs to no parameter", token)
        self.expect(":", " before the statements")
        statements: list[Statement] = []
        self.skip_lines()
        while self.here.kind != "end":
            statements.append(self.statement())
            self.end_of_statement()
            self.skip_lines()
        for token, output in outputs:
            axes = None if output.name in self.params else self.defined.get(output.name)
            if axes is None:
                self.fail(f"output {output.name} is never assigned", token)
            if axes != output.axes:
                self.fail(
                    f"output {output.name} has axes [{','.join(axes)}], declared [{','.join(output.axes)}]",
                    token,
                )
        return Program(self.name, tuple(self.params.values()), tuple(param for _, param in outputs), tuple(statements))

    def declaration(self, what: str) -> tuple[Token, Param]:
        token = self.new_name(what, "several are separated by commas" if self.here.text == "(" else "")
        axes: list[str] = []
        if self.accept("["):
            axes = [axis.text for axis in self.names("an axis", "an axis is a name, which calls give a size")]
        return token, Param(token.text, tuple(axes))

    def names(self, what: str, hint: str) -> list[Token]:
        found = [self.new_name(what, hint)]
        while not self.accept("]"):
            self.expect(",", f" or ']' after {what}", hint if self.here.text in (*hints.SIGNS, ":") else "")
            found.append(self.new_name(what, hint))
        return found

    # ------------------------------------------------------------- statements

    def statement(self) -> Statement:
        target = self.new_name("a tensor to assign", hints.BRACKETS if self.here.text in hints.SIGNS else "")
        if target.text in self.defined:
            self.fail(f"{target.text} is assigned or declared already; use a new name", target)
        if target.text in self.axis_names:
            self.fail(f"{target.text} names an axis; use another name", target)
        left = self.names("an index", hints.INDEX) if self.accept("[") else []
        if len({token.text for token in left}) < len(left):
            self.fail(f"{target.text} repeats an index on the left", target)
        self.expect("=", f" after {target.text}", hints.instead_of_equals(self.here.text))
        self.ranges = {}
        value = self.sum()
        if self.here.text != "where":
            self.end_of_statement()
        after = self.position
        self.skip_lines()
        self.check_matrix_functions(value, target, left)
        order: list[Relation] = []
        place = self.here
        if self.accept("where"):
            if isinstance(value, MatrixFunction):
                self.fail(
                    f"{value.function} takes no order; write where in the statement that reads {target.text}", place
                )
            order = self.order({token.text for token in left})
            try:
                verify_terms(value, [Index(token.text, self.ranges[token.text]) for token in left], tuple(order))
            except VerificationError as error:
                self.fail(str(error), place)
        else:
            self.position = after
        indices = []
        for token in left:
            if token.text not in self.ranges:
                self.fail(f"output index {token.text} of {target.text} appears nowhere on the right", token)
            indices.append(Index(token.text, self.ranges[token.text]))
        self.defined[target.text] = tuple(index.axis for index in indices)
        return Statement(target.text, tuple(indices), value, tuple(order))

    def check_matrix_functions(self, value: Expr, target: Token, left: list[Token]) -> None:
        """Refuse a matrix function in a larger expression, or summed over an index of its own."""
        for inside in subexpressions(value):
            if not isinstance(inside, MatrixFunction):
                continue
            if inside is not value:
                self.fail(f"{inside.function} is a statement of its own; write it apart and read it here", target)
            names = {token.text for token in left}
            for index in inside.indices:
                if index.name not in names:
                    self.fail(
                        f"index {index.name} of {inside.function} is not on the left; sum over it in another statement",
                        target,
                    )

    def end_of_statement(self) -> None:
        """Refuse anything but what ends a statement."""
        here = self.here
        if here.kind in ("newline", "end") or here.text == ";":
            return
        hint = hints.end_of_statement(here.kind, here.text)
        self.fail(f"expected an operator or the end of the statement, got {self.shown(here)}{hint}", here)

    def order(self, left: set[str]) -> list[Relation]:
        relations: list[Relation] = []
        while True:
            words = [self.expect_name("an index")]
            signs: list[Sign] = []
            while found := next((sign for sign in SIGNS if sign == self.here.text), None):
                signs.append(found)
                self.take()
                words.append(self.expect_name("an index"))
            if not signs:
                hint = "; indices that are equal are written i == j" if self.here.text == "=" else ""
                self.fail(
                    f"expected '<=', '<' or '==' after index {words[0].text}, got {self.shown(self.here)}{hint}",
                    self.here,
                )
            weighed = self.accept("decay")
            if weighed and "==" in signs and len(set(signs)) == 1:
                self.fail("a decay weighs a distance, and what is equal has none", weighed)
            decay = self.decay() if weighed else None
            known = [word for word in words if word.text in self.ranges]
            unknown = [word for word in words if word.text not in self.ranges and word.text not in left]
            if unknown or not known:
                word = (unknown or words)[0]
                hint = f"one[{word.text}:axis] sums over an index that nothing else has"
                if word.text in self.axis_names:
                    hint = "it names an axis, and order is between indices of one"
                self.fail(f"unknown index {word.text}; {hint}", word)
            axis = self.ranges[known[0].text]
            chain = [self.index(word, axis) for word in words]
            for lower, upper, sign in zip(chain, chain[1:], signs, strict=False):
                if lower == upper:
                    self.fail(f"index {lower.name} is ordered with itself", words[0])
                relations.append(Relation(lower, upper, None if sign == "==" else decay, sign))
            wrong = contradiction(relations)
            if wrong:
                self.fail(wrong, words[0])
            if self.accept(","):
                continue
            return relations

    def decay(self) -> Number | Read:
        token = self.take()
        if token.kind == "number":
            value = self.number(token)
            if self.accept("/"):
                below = self.take()
                if below.kind != "number" or not self.number(below).value:
                    self.fail(f"decay is divided by a number, got {self.shown(below)}", below)
                value = Number(value.value / self.number(below).value)
            if not 0 < value.value <= 1:
                self.fail(f"decay {float(value.value):g} is outside (0, 1]", token)
            return value
        if token.kind == "name" and self.defined.get(token.text) == ():
            if self.here.text in ("*", "/", "("):
                made = f"s = {token.text}{self.here.text}…"
                self.fail(f"decay takes a number or a scalar; write {made} and decay s", token)
            return Read(token.text)
        hint = "; write decay 0.9" if token.text == "=" else ""
        if token.text in self.defined:
            hint = ", which has axes"
        return self.fail(f"decay takes a number or a scalar, got {self.shown(token)}{hint}", token)

    def index(self, token: Token, axis: str) -> Index:
        if self.ranges.setdefault(token.text, axis) != axis:
            self.fail(f"index {token.text} runs over two axes, {self.ranges[token.text]} and {axis}", token)
        return Index(token.text, axis)

    # ------------------------------------------------------------ expressions

    def sum(self) -> Expr:
        terms = [self.term()]
        count = len(terms_of(terms[0]))
        while self.here.text in ("+", "-"):
            sign = MINUS_ONE if self.take().text == "-" else Number(Fraction(1))
            terms.append(self.times(sign, self.term()))
            count += len(terms_of(terms[-1]))
            if count > MAX_TERMS:
                self.fail(f"more than {MAX_TERMS} terms in one statement", self.here)
        return sum_of(*terms)

    def times(self, left: Expr, right: Expr) -> Expr:
        """Product of two expressions, distributed over sums: each term sums its own indices."""
        if len(terms_of(left)) * len(terms_of(right)) > MAX_TERMS:
            self.fail(f"more than {MAX_TERMS} terms after expanding the brackets", self.here)
        made = [product(a, b) for a in terms_of(left) for b in terms_of(right)]
        for first in (factors_of(term)[0] for term in made):
            if isinstance(first, Number) and first.value and not TINIEST <= abs(first.value) <= LARGEST:
                self.fail("a product of numbers that is outside the range of float64", self.here)
        return sum_of(*made)

    def term(self) -> Expr:
        value = self.factor()
        while self.here.text in ("*", "/"):
            operator = self.take()
            token = self.here
            right = self.factor()
            if operator.text == "/":
                if isinstance(right, Sum):
                    self.fail("a sum in a denominator is written as a statement of its own", token)
                if right == Number(Fraction(0)) or (
                    isinstance(right, Product) and right.factors[0] == Number(Fraction(0))
                ):
                    self.fail("division by the number 0", token)
                right = reciprocal(right)
            value = self.times(value, right)
        return value

    def factor(self) -> Expr:
        token = self.take()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(f"brackets or signs nested more than {MAX_DEPTH} deep", token)
        try:
            if token.kind == "number":
                return self.number(token)
            if token.text == "-":
                return self.times(MINUS_ONE, self.factor())
            if token.text == "(":
                value = self.sum()
                self.expect(")")
                return value
            if token.kind != "name":
                hint = hints.factor(self.tokens[max(0, self.position - 2)].text, token.kind, token.text)
                self.fail(f"expected a number, a tensor or a function, got {self.shown(token)}{hint}", token)
            if self.here.text == "(":
                return self.function(token)
            return self.read(token)
        finally:
            self.depth -= 1

    def number(self, token: Token) -> Number:
        value = float(token.text)
        if value == 0 and not re.search(r"[1-9]", token.text.lower().split("e")[0]):
            return ZERO  # whatever its exponent, which may be long
        if math.isinf(value) or value == 0:
            self.fail(f"{token.text} is outside the range of float64", token)
        return Number(Fraction(token.text))

    def function(self, token: Token) -> Expr:
        name = token.text
        self.expect("(")
        if name in MATRIX_FUNCTIONS:
            return self.matrix_function(token)
        if name not in FUNCTIONS:
            if name in self.defined:
                self.fail(f"{name} is a tensor, not a function; {hints.SQUARE}", token)
            known = f"known: {', '.join((*FUNCTIONS, *MATRIX_FUNCTIONS))}"
            self.fail(f"unknown function {name}{hints.function(name) or f'; {known}'}", token)
        operands = [self.operand(token)]
        while self.accept(","):
            operands.append(self.operand(token))
        self.expect(")", f" to close {name}(")
        if len(operands) != FUNCTIONS[name].arity:
            self.fail(f"{name} takes {FUNCTIONS[name].arity} operand(s), got {len(operands)}", token)
        return Apply(name, tuple(operands))

    def operand(self, token: Token) -> Expr:
        at = self.here
        value = self.sum()
        if isinstance(value, Sum) or len([r for r in reads(value) if r.indices]) > 1:
            self.fail(
                f"{token.text} takes one indexed tensor; write the sum or product as a statement of its own",
                at,
            )
        return value

    def matrix_function(self, token: Token) -> Expr:
        """``expm(T[i,j])``, or a block of a grid of matrices: ``expm(X[i,j], E[i,j]; 0, X[i,j])[0,1]``."""
        rows: list[list[Read | None]] = [[]]
        while True:
            if self.here.kind == "number" and self.here.text == "0":
                self.take()
                rows[-1].append(None)
            else:
                cell = self.read(self.expect_name("a matrix"))
                if not isinstance(cell, Read) or len(set(cell.indices)) < max(2, len(cell.indices)):
                    self.fail(f"{token.text} takes a matrix, a tensor with two different indices", token)
                rows[-1].append(cell)
            if self.accept(";"):
                rows.append([])
            elif not self.accept(","):
                break
        self.expect(")", f" to close {token.text}(")
        cells = [cell for row in rows for cell in row if cell is not None]
        if not cells or any(len(row) != len(rows) for row in rows):
            self.fail(f"the blocks of {token.text} form a square grid with one matrix at least", token)
        first = cells[0].indices
        if any(cell.indices != first for cell in cells) or first[-2].axis != first[-1].axis:
            self.fail(f"the matrices of {token.text} are square, over one pair of indices", token)
        block = (0, 0)
        if self.accept("["):
            row, column = self.block_number(len(rows)), 0
            self.expect(",")
            column = self.block_number(len(rows))
            self.expect("]")
            block = (row, column)
        return MatrixFunction(token.text, tuple(map(tuple, rows)), block, first)

    def block_number(self, size: int) -> int:
        token = self.take()
        if token.kind != "number" or not token.text.isdigit() or int(token.text) >= size:
            self.fail(f"expected a block number below {size}, got {self.shown(token)}", token)
        return int(token.text)

    def ones(self, token: Token) -> Expr:
        """``one[a:d]``: 1 for every index a over axis d."""
        self.expect("[", " after one, as in one[a:d]")
        indices = []
        while True:
            word = self.expect_name("an index")
            self.expect(":", " and an axis after the index, as in one[a:d]")
            axis = self.expect_name("an axis")
            if axis.text not in self.axis_names:
                self.fail(f"unknown axis {axis.text}", axis)
            indices.append(self.index(word, axis.text))
            if self.accept("]"):
                return Read(token.text, tuple(indices))
            self.expect(",", " or ']' after an index of one")

    def read(self, token: Token) -> Expr:
        name = token.text
        if name == ONES:
            return self.ones(token)
        axes = self.defined.get(name)
        if self.accept("["):
            if axes is None:
                self.fail(f"unknown tensor {name}; known: {', '.join(self.defined) or 'none'}", token)
            words = self.names("an index", hints.INDEX)
            if len(words) != len(axes):
                hint = "; all are put in one pair of brackets" if self.here.text == "[" else ""
                self.fail(f"{name} has {len(axes)} axes [{','.join(axes)}], got {len(words)} indices{hint}", token)
            return Read(name, tuple(self.index(word, axis) for word, axis in zip(words, axes, strict=True)))
        if name in self.axis_names:
            return Extent(name)
        if axes is None:
            if name in FUNCTIONS or name in MATRIX_FUNCTIONS:
                self.fail(f"{name} is a function; write {name}(x[i])", token)
            self.fail(f"unknown name {name}: neither a scalar, a tensor nor an axis{hints.function(name)}", token)
        if axes:
            self.fail(f"{name} has axes [{','.join(axes)}]; write its indices", token)
        return Read(name)
