"""Every message of the parser, and the place it points at.

In the texts below ``§`` stands before the character that the message's line, column and caret name.
"""

from __future__ import annotations

import pickle

import pytest

from dtn_core.errors import NotationError
from dtn_core.lexer import MAX_NAME, MAX_TEXT
from dtn_core.notation import MAX_DEPTH, MAX_TERMS, parse


def refused(marked):
    """The error for a text with a mark, and the marked line and column."""
    before, mark, after = marked.partition("§")
    assert mark, "the test marks a place"
    with pytest.raises(NotationError) as caught:
        parse(before + after)
    return caught.value, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


CASES = {
    # the head
    "nothing": ("§", "expected the operator's name, got the end of the text"),
    "no name": ("§(x[n]) -> y[n]: y[i] = x[i]", "expected the operator's name, got '('"),
    "no bracket": ("f§", "expected '(' after the operator's name, got the end of the text"),
    "reserved name": ("§lambda(x[n]) -> y[n]: y[i] = x[i]", "'lambda' is a reserved word; choose another name"),
    "where as a name": ("f(§where[n]) -> y[n]: y[i] = where[i]", "'where' is a reserved word"),
    "function as a name": ("f(§exp[n]) -> y[n]: y[i] = exp[i]", "'exp' is a function; choose another name"),
    "matrix function as a name": ("f(§expm[n,m]) -> y[n]: y[i] = expm[i,j]", "'expm' is a function; choose another name"),
    "function as an axis": ("f(x[§tanh]) -> y[n]: y[i] = x[i]", "'tanh' is a function; choose another name"),
    "number for a parameter": ("f(§3) -> y[n]: y[i] = x[i]", "expected a parameter, got '3'"),
    "parameters without a comma": ("f(x[n] §y[n]) -> z[n]: z[i] = x[i]", "expected ',' or ')' after a parameter, got 'y'"),
    "parameter twice": ("f(x[n], §x[m]) -> y[n]: y[i] = x[i]", "parameter x is declared twice"),
    "axes without a comma": ("f(x[n §m]) -> y[n]: y[i] = x[i,j]", "expected ',' or ']' after an axis, got 'm'"),
    "empty brackets": ("f(x[§]) -> y: y = x", "expected an axis, got ']'"),
    "parameter and axis": ("f(x[n], §n) -> y[n]: y[i] = x[i]", "n names both a parameter and an axis"),
    "no arrow": ("f(x[n]) §y[n]: y[i] = x[i]", "expected '->' before the outputs, got 'y'"),
    "no output": ("f(x[n]) -> §: y[i] = x[i]", "expected an output, got ':'"),
    "no colon": ("f(x[n]) -> y[n]§\n    y[i] = x[i]", "expected ':' before the statements, got the end of the line"),
    "output over a new axis": ("f(x[n]) -> §y[m]: y[i] = x[i]", "axis m of output y belongs to no parameter"),
    "output not assigned": ("f(x[n]) -> §y[n]: z[i] = x[i]", "output y is never assigned"),
    "output is a parameter": ("f(x[n]) -> §x[n]: y[i] = x[i]", "output x is never assigned"),
    "output of other axes": ("f(x[n,m]) -> §y[n]: y[j] = x[i,j]", "output y has axes [m], declared [n]"),
    "no statement": ("f(x[n]) -> §y[n]:", "output y is never assigned"),
    # statements
    "assigned twice": ("f(x[n]) -> y[n]:\n    y[i] = x[i]\n    §y[i] = x[i]", "y is assigned or declared already"),
    "assigns a parameter": ("f(x[n]) -> y[n]: §x[i] = x[i]", "x is assigned or declared already; use a new name"),
    "assigns an axis": ("f(x[n]) -> y[n]: §n[i] = x[i]", "n names an axis; use another name"),
    "index twice on the left": ("f(x[n]) -> y[n]: §y[i,i] = x[i]", "y repeats an index on the left"),
    "index nowhere": ("f(x[n]) -> y[n]: y[§j] = x[i]", "output index j of y appears nowhere on the right"),
    "order on a matrix function": (
        "f(x[n,n]) -> y[n,n]: y[i,j] = expm(x[i,j]) §where j <= i",
        "expm takes no order; write where in the statement that reads y",
    ),
    "sum of a matrix function": (
        "f(x[n,n]) -> y[n]: §y[i] = expm(x[i,j])",
        "index j of expm is not on the left; sum over it in another statement",
    ),
    "multiple of a matrix function": (
        "f(x[n,n]) -> y[n,n]: §y[i,j] = 2 * expm(x[i,j])",
        "expm is a statement of its own; write it apart and read it here",
    ),
    "reserved index on the right": (
        "f(x[n]) -> o[n]: o[t] = x[§one] where one <= t",
        "'one' is a reserved word; choose another name for an index",
    ),
    "no equals sign": ("f(x[n]) -> y[n]: y[i] §x[i]", "expected '=' after y, got 'x'"),
    "two expressions": ("f(x[n]) -> y[n]: y[i] = x[i] §x[i]", "expected an operator or the end of the statement, got 'x'"),
    "bracket not closed": ("f(x[n]) -> y[n]: y[i] = (x[i]§", "expected ')', got the end of the text"),
    "operator at the end": ("f(x[n]) -> y[n]: y[i] = x[i] +§", "expected a number, a tensor or a function, got the end"),
    "operator twice": ("f(x[n]) -> y[n]: y[i] = x[i] * §/ x[i]", "expected a number, a tensor or a function, got '/'"),
    "unknown tensor": ("f(x[n]) -> y[n]: y[i] = §z[i]", "unknown tensor z; known: x"),
    "used before it is assigned": ("f(x[n]) -> y[n]:\n  y[i] = §z[i]\n  z[i] = x[i]", "unknown tensor z; known: x"),
    "unknown name": ("f(x[n]) -> y[n]: y[i] = x[i] * §g", "unknown name g: neither a scalar, a tensor nor an axis"),
    "indices forgotten": ("f(x[n,m]) -> y[n]: y[i] = §x", "x has axes [n,m]; write its indices"),
    "too few indices": ("f(x[n,m]) -> y[n]: y[i] = §x[i]", "x has 2 axes [n,m], got 1 indices"),
    "too many indices": ("f(x[n]) -> y[n]: y[i] = §x[i,j]", "x has 1 axes [n], got 2 indices"),
    "scalar with indices": ("f(x[n], g) -> y[n]: y[i] = §g[i] * x[i]", "g has 0 axes [], got 1 indices"),
    "number as an index": ("f(x[n]) -> y[n]: y[i] = x[§0]", "expected an index, got '0'"),
    "index over two axes": ("f(x[n,m]) -> y[n]: y[i] = x[i,§i]", "index i runs over two axes, n and m"),
    "index over two axes in two terms": ("f(x[n], z[m]) -> y[n]: y[i] = x[i] + z[§i]", "index i runs over two axes, n and m"),
    "division by a sum": ("f(x[n]) -> y[n]: y[i] = x[i] / §(1 + x[i])", "a sum in a denominator is written as a statement"),
    "division by zero": ("f(x[n]) -> y[n]: y[i] = x[i] / §0", "division by the number 0"),
    "division by zero times something": ("f(x[n]) -> y[n]: y[i] = 1 / §(0 * x[i])", "division by the number 0"),
    # functions
    "unknown function": ("f(x[n]) -> y[n]: y[i] = §sin(x[i])", "unknown function sin; known: conj, "),
    "sum in a function": ("f(x[n]) -> y[n]: y[i] = exp(§x[i] + 1)", "exp takes one indexed tensor; write the sum or product"),
    "product in a function": ("f(x[n]) -> y[n]: y[i] = exp(§x[i] * x[i])", "exp takes one indexed tensor"),
    "too few operands": ("f(x[n]) -> y[n]: y[i] = §select(x[i])", "select takes 2 operand(s), got 1"),
    "too many operands": ("f(x[n]) -> y[n]: y[i] = §exp(x[i], x[i])", "exp takes 1 operand(s), got 2"),
    "function not closed": ("f(x[n]) -> y[n]: y[i] = exp(x[i]§", "expected ')' to close exp(, got the end of the text"),
    "expm of a vector": ("f(x[n]) -> y[n]: y[i] = §expm(x[i])", "expm takes a matrix, a tensor with two different indices"),
    "expm of a diagonal": ("f(x[n]) -> y[n]:\n T[i,j] = x[i]*x[j]\n y[i] = §expm(T[i,i])", "expm takes a matrix"),
    "expm of an oblong matrix": ("f(x[n,m]) -> y[n]: T[i,j] = §expm(x[i,j])", "the matrices of expm are square"),
    "expm of unequal rows": (
        "f(x[n]) -> y[n]:\n T[i,j] = x[i]*x[j]\n E[i,j] = §expm(T[i,j], T[i,j]; T[i,j])[0,1]",
        "the blocks of expm form a square grid",
    ),
    "expm block outside": (
        "f(x[n]) -> y[n]:\n T[i,j] = x[i]*x[j]\n E[i,j] = expm(T[i,j], T[i,j]; 0, T[i,j])[0,§2]",
        "expected a block number below 2, got '2'",
    ),
    # order
    "order without a relation": ("f(x[n]) -> y[n]: y[i] = x[i] where i§", "expected '<=', '<' or '==' after index i, got the end of the text"),
    "unknown relation": ("f(x[n]) -> y[n]: y[i] = x[j] where j §= i", "expected '<=', '<' or '==' after index j, got '='"),
    "order of unknown indices": ("f(x[n]) -> y[n]: y[i] = x[i] where §p <= r", "unknown index p"),
    "order of an unknown index": ("f(x[n]) -> y[n]: y[i] = x[j] where j <= §p", "unknown index p; one[p:axis] sums over an index"),
    "order of another unknown index": ("f(x[n]) -> y[n]: y[i] = x[j] where j <= i, §p <= i", "unknown index p"),
    "an order with an offset": ("f(x[n]) -> y[n]: y[i] = x[j] where j <= i§-1", "got '-'; order is between indices, without offsets"),
    "two apart": ("f(x[n], w[n]) -> y[n]: y[i] = x[j]*w[l] + w[l] §where l < j < i", "ordered through it by l < j and j < i, so l and i are two apart"),
    "two decays through an index": ("f(x[n], w[n]) -> y[n]: y[i] = x[j]*w[l] + w[l] §where l <= j decay 0.5, j <= i decay 0.9", "without index j is ordered through it with two different decays"),
    "a decay of equal indices": ("f(x[n], g) -> y[n]: y[i] = x[j] where j == i §decay g", "a decay weighs a distance, and what is equal has none"),
    "a decay divided by 0": ("f(x[n]) -> y[n]: y[i] = x[j] where j <= i decay 1/§0", "decay is divided by a number, got '0'"),
    "a decay of a fraction above 1": ("f(x[n]) -> y[n]: y[i] = x[j] where j <= i decay §3/2", "decay 1.5 is outside (0, 1]"),
    "an output twice": ("f(x[n]) -> y[n], §y[n]: y[i] = x[i]", "output y is declared twice"),
    "order by more": ("f(x[n]) -> y[n]: y[i] = x[j] where i §> j", "unexpected character '>'; indices are ordered by <=, < and ==; write t > i as i < t"),
    "a strict cycle": ("f(x[n]) -> y[n]: y[i] = x[j] where §i < j <= i", "the order has a cycle, i < j <= i, which no indices fulfil"),
    "an order that nothing fulfils": ("f(x[n]) -> y[n]: y[i] = x[j] where i == j, §j < i", "no indices fulfil i == j, j < i"),
    "no operator": ("f(x[n]) -> y[n]: y[i] = 2§x[i]", "expected an operator or the end of the statement, got 'x'"),
    "a number with two points": ("f(x[n]) -> y[n]: y[i] = 1.5§.2 * x[i]", "expected an operator or the end of the statement, got '.2'"),
    "order over two axes": ("f(x[n,m]) -> y[n]: y[i] = x[i,j] where i <= §j", "index j runs over two axes, m and n"),
    "order with itself": ("f(x[n]) -> y[n]: y[i] = x[i] where §i <= i", "index i is ordered with itself"),
    "cycle": (
        "f(x[n]) -> y[n]: y[i] = x[j] where §i <= j <= i",
        "the order has a cycle, i <= j <= i; indices that are equal are written i == j",
    ),
    "decay by a tensor": ("f(x[n]) -> y[n]: y[i] = x[j] where j <= i decay §x", "decay takes a number or a scalar, got 'x', which has axes"),
    "decay by nothing": ("f(x[n]) -> y[n]: y[i] = x[j] where j <= i decay§", "decay takes a number or a scalar, got the"),
    "decay of more than 1": ("f(x[n]) -> y[n]: y[i] = x[j] where j <= i decay §1.5", "decay 1.5 is outside (0, 1]"),
    "decay of 0": ("f(x[n]) -> y[n]: y[i] = x[j] where j <= i decay §0", "decay 0 is outside (0, 1]"),
    "decay by a result with axes": ("f(x[n]) -> y[n]:\n h[i] = x[i]\n y[i] = x[j] where j <= i decay §h", "decay takes a number or a scalar, got 'h', which has axes"),
    "decay by a later result": ("f(x[n], g) -> y[n]:\n y[i] = x[j] where j <= i decay §h\n h = g * g", "decay takes a number or a scalar, got 'h'"),
    "decay by a product": ("f(x[n], g, h) -> y[n]: y[i] = x[j] where j <= i decay §g*h", "decay takes a number or a scalar; write s = g*… and decay s"),
    "decay by a function": ("f(x[n], g) -> y[n]: y[i] = x[j] where j <= i decay §sigmoid(g)", "decay takes a number or a scalar, got 'sigmoid'"),
    # words
    "power": ("f(x[n]) -> y[n]: y[i] = x[i] §^ 2", "unexpected character '^'"),
    "not ASCII": ("f(x[n]) -> y[n]: y[i] = §α[i]", "unexpected character 'α'"),
    "null byte": ("f(x[n]) -> y[n]: §\0", "unexpected character '\\x00'"),
    "number beyond floating point": ("f(x[n]) -> y[n]: y[i] = §1e400 * x[i]", "1e400 is outside the range of float64"),
    "number below floating point": ("f(x[n]) -> y[n]: y[i] = §1e-400 * x[i]", "1e-400 is outside the range of float64"),
    "a product beyond floating point": ("f(x[n]) -> y[n]: y[i] = 1e300 * 1e300§", "a product of numbers that is outside the range of float64"),
    "a quotient beyond floating point": ("f(x[n]) -> y[n]: y[i] = x[i] / 1e-320§", "a product of numbers that is outside the range of float64"),
    # what people write who come from elsewhere
    "an einsum": ("ij§,jk->ik", "expected '(' after the operator's name, got ','; a definition begins with its head, as in f(q[n,d]"),
    "a statement alone": ("s§[i] = q[i,a]", "expected '(' after the operator's name, got '['; a definition begins with its head"),
    "a name of the catalogue": ("tensor_attention§:mask=causal", "got ':'; a definition begins with its head, as in f(q[n,d], k[m,d]) -> s[n,m]: s[i,j] = q[i,a] * k[j,a]; dtn_core.operators.load reads"),
    "def": ("§def f(x[n]) -> y[n]: y[i] = x[i]", "a definition begins with the operator's name, without def"),
    "outputs in another line": ("f(x[n])§\n    -> y[n]: y[i] = x[i]", "got the end of the line; outputs follow the parameters in the same line, as in"),
    "outputs left out": ("f(x[n])§: y[i] = x[i]", "expected '->' before the outputs, got ':'; outputs follow the parameters"),
    "a fat arrow": ("f(x[n]) =§> y[n]: y[i] = x[i]", "unexpected character '>'; write ->"),
    "an arrow": ("f(x[n]) §→ y[n]: y[i] = x[i]", "unexpected character '→'; write ->"),
    "outputs in brackets": ("f(x[n]) -> §(y[n], z[n]): y[i] = x[i]", "expected an output, got '('; several are separated by commas"),
    "axes after a colon": ("f(x§: [n,d]) -> y[n]: y[i] = x[i]", "got ':'; axes are put in brackets, x[n,d]"),
    "axes in round brackets": ("f(x§(n)) -> y(n): y(i) = x(i)", "got '('; axes are put in brackets, x[n,d]"),
    "a default": ("f(x[n], g§=1) -> y[n]: y[i] = g * x[i]", "got '='; a value is given at a call, or bound by Operator"),
    "a size": ("f(x[§3]) -> y[3]: y[i] = x[i]", "expected an axis, got '3'; an axis is a name, which calls give a size"),
    "leading axes": ("f(x[§..., n]) -> y[n]: y[i] = x[i]", "unexpected character '.'; leading axes (batch, heads) are not written"),
    "a power by stars": ("f(x[n]) -> y[n]: y[i] = x[i]*§*2", "got '*'; a power is written as a product, x[i] * x[i]"),
    "a power by a hat": ("f(x[n]) -> y[n]: y[i] = x[i]§^2", "unexpected character '^'; a power is written as a product"),
    "two slashes": ("f(x[n]) -> y[n]: y[i] = x[i] /§/ 2", "got '/'; x / y divides, and a comment begins with #"),
    "a product of matrices": ("f(x[n,d]) -> y[n]: y = x §@ x", "unexpected character '@'; a product of matrices is written with indices"),
    "a transpose": ("f(x[n,d]) -> y[n]: y = x§.T", "unexpected character '.'; a tensor is its name and indices, whose order says what"),
    "a point for times": ("f(x[n]) -> y[n]: y[i] = x[i] §· x[i]", "unexpected character '·'; write *"),
    "a sign for minus": ("f(x[n]) -> y[n]: y[i] = x[i] §− x[i]", "unexpected character '−'; write -"),
    "no sign for times": ("f(x[n]) -> y[n]: y[i] = 2§x[i]", "got 'x'; a product is written with *"),
    "a sum over an index": ("f(x[n,d]) -> y[n]: y[i] = §sum_a x[i,a]", "unknown name sum_a: neither a scalar, a tensor nor an axis; an index that is not on the left is summed"),
    "a sum as a function": ("f(x[n,d]) -> y[n]: y[i] = §sum(x[i,a])", "unknown function sum; an index that is not on the left is summed"),
    "a sign for a sum": ("f(x[n,d]) -> y[n]: y[i] = §Σ x[i,a]", "unexpected character 'Σ'; an index that is not on the left is summed"),
    "adding to the left": ("f(x[n,d]) -> y[n]: y[i] §+= x[i,a]", "expected '=' after y, got '+'; an index that is not on the left is summed"),
    "softmax": ("f(x[n]) -> y[n]: y[i] = §softmax(x[i])", "unknown function softmax; write it as E[i,j] = exp(s[i,j]), r[i] = E[i,j]"),
    "a tensor that is called": ("f(x[n]) -> y[n]: y[i] = §x(i)", "x is a tensor, not a function; indices and axes are put in brackets [ ]"),
    "a function that is not called": ("f(x[n]) -> y[n]: y[i] = §relu x[i]", "relu is a function; write relu(x[i])"),
    "brackets after brackets": ("f(x[n,m]) -> y[n]: y[i] = §x[i][j]", "x has 2 axes [n,m], got 1 indices; all are put in one pair of brackets"),
    "arithmetic of indices": ("f(x[n]) -> y[n]: y[i] = x[i§-1]", "got '-'; an index is a name, and runs over its whole axis"),
    "a slice": ("f(x[n,m]) -> y[n]: y[i] = x[i,§:]", "expected an index, got ':'; an index is a name, and runs over its whole axis"),
    "two operators": ("f(x[n]) -> y[n]: y[i] = x[i]\ng§(x[n]) -> y[n]: y[i] = x[i]", "expected '=' after g, got '('; indices and axes are put in brackets [ ], and a text holds one operator"),
    "a line that ends with a sign": ("f(x[n]) -> y[n]:\n  y[i] = x[i] +§\n    x[i]", "got the end of the line; an expression of several lines is put in brackets ( )"),
    "a line that begins with a sign": ("f(x[n]) -> y[n]:\n  y[i] = x[i]\n    §+ x[i]", "got '+'; an expression of several lines is put in brackets ( )"),
    "a backslash": ("f(x[n]) -> y[n]: y[i] = x[i] + §\\\n x[i]", "unexpected character '\\\\'; an expression of several lines is put in brackets ( )"),
    "order the other way round": ("f(x[n]) -> y[n]: y[i] = x[j] where i §>= j", "unexpected character '>'; indices are ordered by <=, < and ==; write t >= i as i <= t"),
    "order by a mathematician": ("f(x[n]) -> y[n]: y[i] = x[j] where j §≤ i", "unexpected character '≤'; write <="),
    "equal by one sign": ("f(x[n]) -> y[n]: y[i] = x[j] where j §= i", "expected '<=', '<' or '==' after index j, got '='; indices that are equal are written i == j"),
    "order by if": ("f(x[n]) -> y[n]: y[i] = x[j] §if j <= i", "got 'if'; order begins with where, as in where i <= t"),
    "relations joined by and": ("f(x[n]) -> y[n]: y[i] = x[j]*x[l] where j <= i §and l <= i", "got 'and'; a statement has one where, and commas between"),
    "order by an axis": ("f(x[n]) -> y[n]: y[i] = x[i] where i <= §n", "unknown index n; it names an axis, and order is between indices of one"),
    "decay like a keyword": ("f(x[n]) -> y[n]: y[i] = x[j] where j <= i decay§=0.9", "got '='; write decay 0.9"),
    "a space that does not break": ("f(x[n]) -> y[n]: y[i] =§\N{NO-BREAK SPACE}x[i]", "unexpected character '\\xa0'; write a plain space"),
    "a Greek letter": ("f(x[n], §λ) -> y[n]: y[i] = x[i]", "unexpected character 'λ'; names are of the letters a to z and A to Z, digits and _"),
    # limits
    "long name": (f"f(§{'x' * (MAX_NAME + 1)}[n]) -> y[n]: y[i] = 1", f"a name of {MAX_NAME + 1} characters; at most {MAX_NAME} are read"),
    "long number": (f"f(x[n]) -> y[n]: y[i] = §{'1' * (MAX_NAME + 1)}", f"a number of {MAX_NAME + 1} characters; at most {MAX_NAME}"),
    "long text": ("§" + " " * (MAX_TEXT + 1), f"the text has {MAX_TEXT + 1:,} characters; at most {MAX_TEXT:,} are read"),
    "deep brackets": (
        f"f(x[n]) -> y[n]: y[i] = {'(' * MAX_DEPTH}§(x[i]",
        f"brackets or signs nested more than {MAX_DEPTH} deep",
    ),
    "many terms": (f"f(x[n]) -> y[n]: y[i] = x[i]{' + x[i]' * MAX_TERMS}§", f"more than {MAX_TERMS} terms in one statement"),
}  # fmt: skip


@pytest.mark.parametrize(("marked", "message"), CASES.values(), ids=CASES.keys())
def test_message_and_place(marked, message):
    error, line, column = refused(marked)
    assert message in error.message
    assert (error.line, error.column) == (line, column)


def test_the_text_of_an_error_names_the_operator_and_shows_the_line_with_a_caret():
    with pytest.raises(NotationError) as caught:
        parse("head(x[n]) -> y[n]:\n    y[i] = x[i] * z[i]")
    assert str(caught.value) == (
        "head, line 2, column 19: unknown tensor z; known: x\n"
        "    y[i] = x[i] * z[i]\n"
        "                  ^"
    )  # fmt: skip


@pytest.mark.parametrize("name", ["expected a number", "unexpected character"])
def test_the_operator_is_named_for_errors_of_grammar_and_of_characters_alike(name):
    text = {
        "expected a number": "mine(x[n]) -> y[n]: y[i] = *",
        "unexpected character": "mine(x[n]) -> y[n]: y[i] = $",
    }[name]
    with pytest.raises(NotationError, match=name) as caught:
        parse(text)
    assert caught.value.operator == "mine"


def test_an_operator_without_a_name_is_a_question_mark():
    error, _, _ = refused("§(x[n]) -> y[n]: y[i] = x[i]")
    assert error.operator == "?"


def test_a_notation_error_is_a_value_error():
    with pytest.raises(ValueError, match="unknown tensor"):
        parse("f(x[n]) -> y[n]: y[i] = z[i]")


def test_a_long_line_is_cut_and_the_caret_stays_within_it():
    error, _, column = refused(f"f(x[n]) -> y[n]: y[i] = {'x[i] + ' * 100}§z[i]")
    message, shown, caret = str(error).split("\n")
    assert f"column {column}" in message
    assert len(shown) == 200
    assert len(caret) <= 201


def test_a_tab_counts_as_one_column():
    error, line, column = refused("f(x[n]) -> y[n]:\n\ty[i] = §z[i]")
    assert (error.line, error.column) == (line, column)


def test_the_caret_stands_below_what_it_points_at_where_a_line_begins_with_tabs():
    error, _, _ = refused("f(x[n]) -> y[n]:\n\ty[i] = §z[i]")
    assert str(error).splitlines()[1:] == ["\ty[i] = z[i]", "\t       ^"]


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_the_line_ends_of_other_systems_are_read(end):
    text = "f(x[n]) -> y[n]:  # a comment\n    y[i] = x[i]\n"
    assert parse(text.replace("\n", end)) == parse(text)
    error, _, _ = refused(f"f(x[n]) -> y[n]:{end}    y[i] = §z[i]{end}")
    assert (error.line, error.source_line) == (2, "    y[i] = z[i]")


def test_an_error_goes_through_a_pool_of_processes():
    with pytest.raises(NotationError) as caught:
        parse("f(q[n,d]) -> s[n]: s[i] = q[i,a,b]")
    found = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (str(found), vars(found)) == (str(caught.value), vars(caught.value))
