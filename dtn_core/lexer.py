"""Words of index notation, and a cursor over them whose errors point at the character."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from functools import cache
from typing import NoReturn

from . import hints
from .errors import NotationError
from .ir.functions import FUNCTIONS, MATRIX_FUNCTIONS
from .ir.nodes import ONES

MAX_TEXT = 100_000
MAX_NAME = 64

_TOKEN = (
    r"(?P<space>[ \t]+|#[^\n]*)|(?P<newline>\n)|(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<symbol>->|<=|==|[-+*/<()\[\],:=;])"
)


@cache
def _words() -> re.Pattern[str]:
    return re.compile(_TOKEN)  # when the first text is read: it takes as long as importing all of this file


@dataclass(frozen=True)
class Token:
    """A word of the text with its one-based position."""

    kind: str
    text: str
    line: int
    column: int


class Cursor:
    """The words of a text, one after another.

    Parameters
    ----------
    text : str
        Index notation of one operator.

    Raises
    ------
    NotationError
        For a character that belongs to no word, or a text or name that is too long.
    """

    def __init__(self, text: str) -> None:
        text = text.removeprefix("\N{BYTE ORDER MARK}")  # some editors begin a file with one
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        self.lines = text[: MAX_TEXT + 1].split("\n")
        named = re.match(r"\s*([A-Za-z_][A-Za-z0-9_]{0,63})\s*\(", text[: 2 * MAX_NAME])
        self.name = named.group(1) if named else "?"
        self.position = 0
        self.tokens = self.tokenize(text)

    def tokenize(self, text: str) -> list[Token]:
        """The words of a text; a newline inside brackets is none."""
        if len(text) > MAX_TEXT:
            self.fail(f"the text has {len(text):,} characters; at most {MAX_TEXT:,} are read", Token("", "", 1, 1))
        tokens: list[Token] = []
        match_word = _words().match
        position, line, start, brackets = 0, 1, 0, 0
        while position < len(text):
            match = match_word(text, position)
            here = Token("", text[position], line, position - start + 1)
            if match is None:
                self.fail(f"unexpected character {text[position]!r}{hints.character(text, position)}", here)
            kind, word = str(match.lastgroup), match.group()
            if kind == "newline":
                if not brackets:
                    tokens.append(Token("newline", "", line, here.column))
                line, start = line + 1, match.end()
            elif kind != "space":
                if len(word) > MAX_NAME:
                    self.fail(f"a {kind} of {len(word)} characters; at most {MAX_NAME} are read", here)
                brackets += (word in "([") - (word in ")]")
                tokens.append(Token(kind, word, line, here.column))
            position = match.end()
        tokens.append(Token("end", "", line, position - start + 1))
        return tokens

    @property
    def here(self) -> Token:
        """The next word."""
        return self.tokens[self.position]

    def take(self) -> Token:
        """The next word, which is passed."""
        token = self.here
        self.position += token.kind != "end"
        return token

    def accept(self, text: str) -> Token | None:
        """The next word if it is ``text``, which is passed then; else None."""
        return self.take() if self.here.text == text and self.here.kind != "number" else None

    def expect(self, text: str, why: str = "", hint: str = "") -> Token:
        """The next word, which has to be ``text``; ``hint`` says what to do where it is not."""
        token = self.accept(text)
        if token is None:
            self.fail(f"expected {text!r}{why}, got {self.shown(self.here)}{hint and f'; {hint}'}", self.here)
        return token

    def expect_name(self, what: str, hint: str = "") -> Token:
        """The next word, which has to be a name; ``hint`` says what to do where it is not."""
        token = self.here
        if token.kind != "name":
            self.fail(f"expected {what}, got {self.shown(token)}{hint and f'; {hint}'}", token)
        return self.take()

    def new_name(self, what: str, hint: str = "") -> Token:
        """The next word, which has to be a name that the language does not use."""
        token = self.expect_name(what, hint)
        if keyword.iskeyword(token.text) or token.text in ("where", ONES):
            self.fail(f"{token.text!r} is a reserved word; choose another name for {what}", token)
        if token.text in FUNCTIONS or token.text in MATRIX_FUNCTIONS:
            self.fail(f"{token.text!r} is a function; choose another name for {what}", token)
        return token

    def skip_lines(self) -> None:
        """Pass ends of lines and statements."""
        while self.here.kind == "newline" or self.here.text == ";":
            self.take()

    @staticmethod
    def shown(token: Token) -> str:
        """A word as errors show it."""
        return {"end": "the end of the text", "newline": "the end of the line"}.get(token.kind, repr(token.text))

    def fail(self, message: str, token: Token) -> NoReturn:
        """Raise NotationError that points at ``token``."""
        source = self.lines[token.line - 1] if token.line <= len(self.lines) else ""
        raise NotationError(message, self.name, token.line, token.column, source)
