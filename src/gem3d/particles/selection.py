"""Expressions that choose particles by the columns of their file, such as `rlnClassNumber==2 and rlnDefocusU<20000`.

    expression = term {"or" term};  term = factor {"and" factor}
    factor = "not" factor | "(" expression ")" | comparison
    comparison = column operator value | value operator column

`|`, `&` and `!` are `or`, `and` and `not`. A value is a number, or text in quotes. Nothing is evaluated as Python.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import SettingsError

Value = int | float | str
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_WORDS = {"&": "and", "&&": "and", "|": "or", "||": "or", "!": "not", "~": "not"}
# Names as STAR files and .cs files have them: alignments3D/class.
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<text>'[^']*'|"[^"]*")
    |(?P<name>[A-Za-z_][\w./]*)
    |(?P<mark>==|!=|<=|>=|<|>|\(|\)|&&?|\|\|?|!|~)
    |(?P<end>$))""",
    re.VERBOSE,
)
_DEEPEST = 50
_LONGEST_NUMBER = 40


@dataclass(frozen=True)
class Comparison:
    """A column held against a number or a text."""

    column: str
    operator: str
    value: Value


@dataclass(frozen=True)
class Negation:
    """What the term does not hold for."""

    term: Selection


@dataclass(frozen=True)
class Combination:
    """What all terms hold for, or any."""

    word: Literal["and", "or"]
    terms: tuple[Selection, ...]


Selection = Comparison | Negation | Combination


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    place: int


def parse_selection(text: str) -> Selection:
    """The selection that an expression means.

    Raises
    ------
    SettingsError: it is not an expression; the message says at which character.
    """
    return _Parser(text).whole()


def columns_of(selection: Selection) -> list[str]:
    """Names of the columns that it asks for, each once."""
    if isinstance(selection, Comparison):
        return [selection.column]
    terms = (selection.term,) if isinstance(selection, Negation) else selection.terms
    return list(dict.fromkeys(name for term in terms for name in columns_of(term)))


def select(selection: Selection, column: Callable[[str], NDArray[Any]]) -> NDArray[np.bool_]:
    """Which rows it holds for, `(rows,)`.

    Parameters
    ----------
    column: gives the `(rows,)` numbers or texts of a column.

    Raises
    ------
    SettingsError: numbers are compared with a text, or texts with a number.
    """
    if isinstance(selection, Negation):
        return ~select(selection.term, column)
    if isinstance(selection, Combination):
        join = np.logical_and if selection.word == "and" else np.logical_or
        masks = [select(term, column) for term in selection.terms]
        joined: NDArray[np.bool_] = join.reduce(masks)
        return joined
    values = column(selection.column)
    numbers = values.dtype.kind in "biuf"
    asked = f"--select: {selection.column} {selection.operator} {selection.value!r}"
    if numbers == isinstance(selection.value, str):
        example = values[0].item() if numbers and len(values) else (values[0] if len(values) else "")
        raise SettingsError(
            f"{asked}: the column holds {'numbers' if numbers else 'text'} (the first is {example!r}); "
            f"{'leave out the quotes' if numbers else 'put the text in quotes'}"
        )
    if not numbers and selection.operator in _TURNED:
        raise SettingsError(f"{asked}: text can only be compared with == and !=")
    found: NDArray[np.bool_] = np.asarray(_COMPARE[selection.operator](values, selection.value), dtype=bool)
    return found


class _Parser:
    """Recursive descent, one token ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._tokenise()
        self._at = 0
        self._depth = 0

    def whole(self) -> Selection:
        selection = self._joined("or")
        if self._next.kind != "end":
            raise self._unexpected("and, or, or the end")
        return selection

    def _tokenise(self) -> list[_Token]:
        tokens: list[_Token] = []
        place = 0
        while not tokens or tokens[-1].kind != "end":
            match = _TOKEN.match(self._text, place)
            if match is None:
                place += len(self._text[place:]) - len(self._text[place:].lstrip())
                raise self._error(place, f"{self._text[place : place + 10]!r} cannot be read")
            kind = match.lastgroup or "end"
            tokens.append(_Token(kind, match[kind], match.start(kind)))
            place = match.end()
        return tokens

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._next
        self._at += token.kind != "end"
        return token

    def _word(self) -> str:
        """`and`, `or`, `not`, or the text of the token as it is."""
        token = self._next
        if token.kind == "mark":
            return _WORDS.get(token.text, token.text)
        return token.text.lower() if token.kind == "name" else ""

    def _joined(self, word: Literal["and", "or"]) -> Selection:
        part: Callable[[], Selection] = self._factor if word == "and" else lambda: self._joined("and")
        terms = [part()]
        while self._word() == word:
            self._take()
            terms.append(part())
        return terms[0] if len(terms) == 1 else Combination(word, tuple(terms))

    def _factor(self) -> Selection:
        begins = self._word()
        if begins not in ("not", "("):
            return self._comparison()
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._error(self._next.place, f"more than {_DEEPEST} brackets or nots within one another")
        self._take()
        if begins == "not":
            inner: Selection = Negation(self._factor())
        else:
            inner = self._joined("or")
            if self._word() != ")":
                raise self._unexpected("a closing bracket")
            self._take()
        self._depth -= 1
        return inner

    def _comparison(self) -> Comparison:
        left = self._operand()
        found = self._next
        if found.text not in _COMPARE or found.kind != "mark":
            raise self._unexpected(f"one of {' '.join(_COMPARE)}")
        self._take()
        right = self._operand()
        if left.kind == right.kind == "name":
            raise self._error(
                right.place,
                f"{right.text} is not a value: give a number, or text in quotes ('{right.text}')",
            )
        if "name" not in (left.kind, right.kind):
            raise self._error(left.place, f"{left.text} {found.text} {right.text} names no column")
        if left.kind == "name":
            return Comparison(left.text, found.text, self._value(right))
        return Comparison(right.text, _TURNED.get(found.text, found.text), self._value(left))

    def _operand(self) -> _Token:
        if self._next.kind not in ("name", "number", "text") or self._word() in ("and", "or", "not"):
            raise self._unexpected("a column or a value")
        return self._take()

    def _value(self, token: _Token) -> Value:
        if token.kind == "text":
            return token.text[1:-1]
        if len(token.text) > _LONGEST_NUMBER:
            raise self._error(token.place, "a number of so many digits makes no sense")
        # Whole numbers stay whole: some identifiers have more digits than a float.
        return int(token.text) if re.fullmatch(r"[+-]?\d+", token.text) else float(token.text)

    def _unexpected(self, wanted: str) -> SettingsError:
        found = repr(self._next.text) if self._next.kind != "end" else "nothing more"
        return self._error(self._next.place, f"{wanted} should stand here, there is {found}")

    def _error(self, place: int, what: str) -> SettingsError:
        hint = "; to compare, write ==" if re.match(r"=(?!=)", self._text[place:]) else ""
        shown = self._text if len(self._text) <= 200 else f"{self._text[:200]}..."
        return SettingsError(
            f"--select {shown!r}, character {place + 1}: {what}{hint}. It should read like "
            '"rlnClassNumber==2 and rlnDefocusU<20000"'
        )
