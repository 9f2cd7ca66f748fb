"""What to write instead of what people write who come from einsum, from NumPy or from a paper."""

from __future__ import annotations

HEAD = "a definition begins with its head, as in f(q[n,d], k[m,d]) -> s[n,m]: s[i,j] = q[i,a] * k[j,a]"
OUTPUTS = "outputs follow the parameters in the same line, as in f(x[n,d]) -> y[n]:"
SUMMED = "an index that is not on the left is summed without a word for it"
BRACKETS = "an expression of several lines is put in brackets ( )"
INDEX = "an index is a name, and runs over its whole axis"
POWER = "a power is written as a product, x[i] * x[i]"
PRODUCT = "a product is written with *"
SQUARE = "indices and axes are put in brackets [ ]"
COMMENT = "a comment begins with #"
SIGNS = ("+", "-", "*", "/")

_ORDER = "indices are ordered by <=, < and =="
_CHARACTERS = {
    "=>": "write ->",
    ">=": f"{_ORDER}; write t >= i as i <= t",
    ">": f"{_ORDER}; write t > i as i < t",
    "!=": _ORDER,
    "^": POWER,
    "@": "a product of matrices is written with indices, q[i,a] * k[j,a]",
    "...": "leading axes (batch, heads) are not written",
    ".": "a tensor is its name and indices, whose order says what is transposed",
    "{": "brackets are ( ) of expressions and [ ] of indices",
    "|": "the absolute value is abs(x[i])",
    "\\": BRACKETS,
    "'": COMMENT,
    '"': COMMENT,
    **dict.fromkeys("≤⩽", "write <="),
    **dict.fromkeys("≥⩾", f"{_ORDER}; write t >= i as i <= t"),
    "≠": _ORDER,
    **dict.fromkeys("·⋅×∗", "write *"),
    "÷": "write /",
    **dict.fromkeys("−–—", "write -"),
    **dict.fromkeys("→⟶⇒", "write ->"),
    **dict.fromkeys("Σ∑", SUMMED),
}
_FUNCTIONS = {
    **dict.fromkeys(("sum", "einsum", "matmul", "dot"), SUMMED),
    "mean": f"{SUMMED}; divide by the axis, as in x[i] / n",
    "softmax": "write it as E[i,j] = exp(s[i,j]), r[i] = E[i,j] and E[i,j] / r[i], a statement each",
    "pow": POWER,
}


def character(text: str, position: int) -> str:
    """What to do about a character that belongs to no word.

    Examples
    --------
    >>> character("q @ k", 2)
    '; a product of matrices is written with indices, q[i,a] * k[j,a]'
    >>> character("q $ k", 2)
    ''
    """
    if text[position - 1 : position + 1] == "=>":
        position -= 1
    for length in (3, 2, 1):
        if text[position : position + length] in _CHARACTERS:
            return f"; {_CHARACTERS[text[position : position + length]]}"
    if text[position].isspace():
        return "; write a plain space"
    return "; names are of the letters a to z and A to Z, digits and _" if text[position].isalnum() else ""


def function(name: str) -> str:
    """What to write for a function that there is not, or a name that stands for a sum.

    Examples
    --------
    >>> function("sum_i")
    '; an index that is not on the left is summed without a word for it'
    """
    found = _FUNCTIONS.get(name) or _FUNCTIONS.get(name.partition("_")[0])
    return f"; {found}" if found else ""


def after_parameter(name: str, got: str) -> str:
    """What to do about a word after a parameter that is no comma and no bracket."""
    if got == "=":
        return "a value is given at a call, or bound by Operator(program, scalars)"
    return f"axes are put in brackets, {name}[n,d]" if got in (":", "(") else ""


def instead_of_equals(got: str) -> str:
    """What to do about a word after a left side that is no ``=``."""
    if got in SIGNS:
        return SUMMED
    return f"{SQUARE}, and a text holds one operator" if got == "(" else ""


def end_of_statement(kind: str, got: str) -> str:
    """What to do about a word that neither goes on with an expression nor ends it."""
    if got in ("+", "-"):
        return "; order is between indices, without offsets"
    if got in ("if", "for", "when"):
        return "; order begins with where, as in where i <= t"
    if got in ("and", "where"):
        return "; a statement has one where, and commas between its relations"
    return f"; {PRODUCT}" if kind in ("name", "number") or got == "(" else ""


def factor(before: str, kind: str, got: str) -> str:
    """What to do about a word that is no factor, after the word ``before``."""
    if kind == "newline":
        return f"; {BRACKETS}"
    found = {"**": POWER, "//": f"x / y divides, and {COMMENT}"}.get(before + got)
    return f"; {found}" if found else ""
