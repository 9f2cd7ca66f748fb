"""The exceptions this library raises on purpose."""

from __future__ import annotations


class DtnError(Exception):
    """Base of every error that is about an operator rather than about Python.

    A text that cannot be read (:class:`NotationError`) and arguments that do not fit (:class:`ShapeError`) are a
    ``ValueError`` too.

    Examples
    --------
    >>> import dtn_numpy as dtn
    >>> try:
    ...     dtn.tensor_attention([[1.0]], [[1.0, 2.0]], [[1.0]])
    ... except DtnError as error:
    ...     print(error)
    tensor_attention: axis d has size 1 in q (shape (1, 1)) but 2 in k (shape (1, 2))
    """

    __init__ = Exception.__init__  # AutoGraph rebuilds an exception of its own type only if it has this one


class NotationError(DtnError, ValueError):
    """Index notation that cannot be read.

    Parameters
    ----------
    message : str
        What is wrong and what to write instead.
    operator : str
        Name of the operator, or ``"?"`` when the text stops before naming one.
    line, column : int
        One-based position of the offending token.
    source_line : str
        The line of text the caret points into.

    Examples
    --------
    >>> print(NotationError("unknown index j", "f", 2, 7, "    o[t] = j"))
    f, line 2, column 7: unknown index j
        o[t] = j
          ^
    """

    def __init__(self, message: str, operator: str, line: int, column: int, source_line: str) -> None:
        self.message = message
        self.operator = operator
        self.line = line
        self.column = column
        self.source_line = source_line
        shown = source_line[:200]
        before = source_line[: min(column - 1, 200)]
        caret = "".join("\t" if character == "\t" else " " for character in before).ljust(min(column - 1, 200)) + "^"
        super().__init__(f"{operator}, line {line}, column {column}: {message}\n{shown}\n{caret}")

    def __reduce__(self) -> tuple[type[NotationError], tuple[str, str, int, int, str]]:
        return type(self), (self.message, self.operator, self.line, self.column, self.source_line)


class VerificationError(DtnError):
    """A program that breaks a rule of the IR; raised after a pass, it names that pass's fault."""


class ShapeError(DtnError, ValueError):
    """Arguments whose shapes do not fit the operator; names the axis and both sizes."""


class CompileError(DtnError):
    """A program that a pass or a backend cannot compile, with the reason."""
