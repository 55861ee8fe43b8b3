"""Damage to files: from the bytes of one or two to those of another that a reader may not have been written for.

Blind damage (bits, numbers at the limits of their type, pieces left out, repeated, moved, or taken from another file)
soon breaks the outermost form of a file and tests no more than that. So there are kinds of damage that know a format:
they change words of a STAR file, the header of a `.cs` file with its length kept right, whole instructions of a
pickle, and the words of an MRC header.
"""

from __future__ import annotations

import itertools
import pickletools
import re
import struct
from collections.abc import Callable, Sequence
from random import Random

MOST_BYTES = 16_384
_LIMITS = (
    0,
    1,
    2,
    4,
    127,
    128,
    255,
    256,
    1024,
    32_767,
    32_768,
    65_535,
    65_536,
    2**20,
    2**31 - 1,
    2**31,
    2**32 - 1,
)
_LONG_LIMITS = (*_LIMITS, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, 3.4e38, float("inf"), float("-inf"), float("nan"))
_WORD = re.compile(rb"[^\s]+")

Damage = Callable[[bytes, Random, Sequence[bytes], bytes], bytes]
"""From a file, a source of chance, words of the format, and another file."""


def flip_bit(data: bytes, rng: Random, words: Sequence[bytes], other: bytes) -> bytes:
    """One bit."""
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def set_byte(data: bytes, rng: Random, words: Sequence[bytes], other: bytes) -> bytes:
    """One byte."""
    place = rng.randrange(len(data))
    return data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]


def set_number(data: bytes, rng: Random, words: Sequence[bytes], other: bytes) -> bytes:
    """A number of 2 to 8 bytes, of either byte order, at the limits of its type."""
    return _put(data, rng.randrange(len(data)), _number(rng))


def cut(data: bytes, rng: Random, words: Sequence[bytes], other: bytes) -> bytes:
    """The end is missing."""
    return data[: rng.randrange(len(data))]


def leave_out(data: bytes, rng: Random, words: Sequence[bytes], other: bytes) -> bytes:
    """A piece is missing."""
    start, end = _piece(data, rng)
    return data[:start] + data[end:]


def repeat(data: bytes, rng: Random, words: Sequence[bytes], other: bytes) -> bytes:
    """A piece is there several times."""
    start, end = _piece(data, rng)
    return data[:start] + data[start:end] * rng.choice((2, 2, 3, 10)) + data[end:]


def move(data: bytes, rng: Random, words: Sequence[bytes], other: bytes) -> bytes:
    """A piece stands elsewhere."""
    start, end = _piece(data, rng)
    rest = data[:start] + data[end:]
    place = rng.randrange(len(rest) + 1)
    return rest[:place] + data[start:end] + rest[place:]


def splice(data: bytes, rng: Random, words: Sequence[bytes], other: bytes) -> bytes:
    """A piece of another file in place of one."""
    start, end = _piece(data, rng)
    first, last = _piece(other, rng)
    return data[:start] + other[first:last] + data[end:]


def join(data: bytes, rng: Random, words: Sequence[bytes], other: bytes) -> bytes:
    """The beginning of one file, the end of another."""
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def insert_word(data: bytes, rng: Random, words: Sequence[bytes], other: bytes) -> bytes:
    """A word of the format, anywhere, over what was there or between."""
    place, word = rng.randrange(len(data)), rng.choice(words)
    return _put(data, place, word) if rng.random() < 0.5 else data[:place] + word + data[place:]


BLIND: tuple[Damage, ...] = (
    flip_bit, set_byte, set_number, cut, leave_out, repeat, move, splice, join, insert_word,
)  # fmt: skip


def change_word(data: bytes, rng: Random, words: Sequence[bytes], other: bytes) -> bytes:
    """Another word in place of one: of the format, or from elsewhere in the file."""
    found = list(_WORD.finditer(data))
    if not found:
        return data + rng.choice(words)
    match = rng.choice(found)
    word = rng.choice(words) if rng.random() < 0.6 else rng.choice(found)[0]
    return data[: match.start()] + word + data[match.end() :]


def change_lines(data: bytes, rng: Random, words: Sequence[bytes], other: bytes) -> bytes:
    """A line, or several, left out, repeated, moved, or taken from another file."""
    lines, others = data.splitlines(keepends=True), other.splitlines(keepends=True)
    start = rng.randrange(len(lines))
    end = min(len(lines), start + rng.choice((1, 1, 1, 2, 5)))
    place = rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            del lines[start:end]
        case 1:
            lines[start:end] *= rng.choice((2, 2, 20))
        case 2:
            lines[start], lines[place] = lines[place], lines[start]
        case _:
            lines[place:place] = others[start:end]
    return b"".join(lines)


TEXT: tuple[Damage, ...] = (change_word, change_word, change_word, change_lines, change_lines)


def change_npy_header(data: bytes, rng: Random, words: Sequence[bytes], other: bytes) -> bytes:
    """The text of a `.npy` header changed, and its length with it."""
    start = 10 if data[6:7] == b"\x01" else 12
    if len(data) < start + 2:
        return data
    end = start + int.from_bytes(data[8:start], "little")
    text, rest = data[start:end], data[end:]
    columns = list(re.finditer(rb"\('[^']*'[^)]*?(?:\([^)]*\))?\), ", text))
    if columns and rng.random() < 0.6:
        column, twin = rng.choice(columns), rng.choice(columns)
        match rng.randrange(4):
            case 0:
                changed = text[: column.start()] + text[column.end() :]
            case 1:
                changed = text[: column.start()] + twin[0] + text[column.start() :]
            case 2:
                changed = text[: column.start()] + twin[0] + text[column.end() :]
            case _:
                inner = rng.choice((flip_bit, insert_word, change_word, leave_out))
                changed = text[: column.start()] + inner(column[0], rng, words, other) + text[column.end() :]
    else:
        changed = rng.choice((change_word, insert_word, flip_bit, leave_out))(text or b" ", rng, words, other)
    return data[:8] + len(changed).to_bytes(8, "little")[: start - 8] + changed + rest


def change_npy_rows(data: bytes, rng: Random, words: Sequence[bytes], other: bytes) -> bytes:
    """A number, or a byte, behind the header."""
    start = 10 + int.from_bytes(data[8:10], "little")
    if start >= len(data):
        return data
    inner = rng.choice((set_number, set_number, flip_bit, set_byte))
    return data[:start] + inner(data[start:], rng, words, other)


NPY: tuple[Damage, ...] = (change_npy_header, change_npy_rows, change_npy_rows)


def change_instructions(data: bytes, rng: Random, words: Sequence[bytes], other: bytes) -> bytes:
    """Whole instructions of a pickle left out, repeated, moved, or taken from another."""
    mine, theirs = _instructions(data), _instructions(other)
    if not mine or not theirs:
        return flip_bit(data, rng, words, other)
    start = rng.randrange(len(mine))
    end = min(len(mine), start + rng.choice((1, 1, 1, 2, 4, 12)))
    place = rng.randrange(len(mine))
    match rng.randrange(5):
        case 0:
            del mine[start:end]
        case 1:
            mine[start:end] *= rng.choice((2, 2, 20))
        case 2:
            mine[place:place] = mine[start:end]
        case 3:
            mine[start], mine[place] = mine[place], mine[start]
        case _:
            first = rng.randrange(len(theirs))
            mine[place:place] = theirs[first : first + end - start]
    return b"".join(mine)


PICKLE: tuple[Damage, ...] = (change_instructions, change_instructions, change_instructions, insert_word)


def change_mrc_word(data: bytes, rng: Random, words: Sequence[bytes], other: bytes) -> bytes:
    """A word of the header that readers look at."""
    if len(data) < 1024:
        return data
    # Size, mode, start, sampling, cell, axes, extended header, origin, "MAP ", stamp.
    word = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 17, 18, 22, 23, 49, 52, 53))
    if rng.random() < 0.5:  # within what may make sense
        value = struct.pack(rng.choice("<>") + "i", rng.choice((0, 1, 2, 3, 4, 5, 6, 8, 12, 16, 101, 401)))
    else:
        value = _number(rng)[:4]
    return _put(data, 4 * word, value)


MRC: tuple[Damage, ...] = (change_mrc_word,) * 8


class Mutator:
    """Makes files out of a pool of files.

    Parameters
    ----------
    pool: files, to which the caller may add.
    damage: kinds of damage that know the format, used as often as the blind ones.
    words: of the format.
    """

    def __init__(
        self, pool: list[bytes], damage: Sequence[Damage], words: Sequence[bytes], rng: Random
    ) -> None:
        self._first, self._pool, self._damage, self._words, self._rng = tuple(pool), pool, damage, words, rng

    def make(self) -> bytes:
        """A file, damaged a few times; half of the time one of the first, which are whole."""
        rng = self._rng
        data = rng.choice(self._first if rng.random() < 0.5 else self._pool)
        while True:
            data = data or b"\0"
            kinds = self._damage if rng.random() < 0.6 else BLIND
            data = rng.choice(kinds)(data, rng, self._words, rng.choice(self._pool) or b"\0")[:MOST_BYTES]
            if rng.random() < 0.5:
                return data


def _piece(data: bytes, rng: Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    length = min(len(data) - start, 1 << rng.randrange(10))
    return start, start + rng.randint(1, length)


def _put(data: bytes, place: int, word: bytes) -> bytes:
    return data[:place] + word + data[place + len(word) :]


def _number(rng: Random) -> bytes:
    order = rng.choice("<>")
    if rng.random() < 0.25:
        return struct.pack(order + rng.choice("fd"), rng.choice(_FLOATS))
    form = rng.choice("HIIQ")
    bits = 8 * struct.calcsize(form)
    value = rng.choice(_LONG_LIMITS if form == "Q" else _LIMITS)
    return struct.pack(order + form, (value if rng.random() < 0.8 else -value) % (1 << bits))


def _instructions(data: bytes) -> list[bytes]:
    places = []
    try:
        places = [place for _, _, place in pickletools.genops(data) if place is not None]
    except Exception:  # a damaged one: the library's reader gives up anyhow
        places = []
    return [data[start:end] for start, end in itertools.pairwise([*places, len(data)])]
