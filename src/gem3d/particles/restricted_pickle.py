"""Arrays from pickles, without unpickling: a pickle is a program, and the usual machine runs whatever it names.

Here a machine of our own carries out the few instructions that arrays and lists of numbers are written with, in
protocols 0 to 5, by numpy 1 and 2 and by Python 2. Nothing that a pickle names is looked up or called, and memory is
taken for what it holds, not for what it claims.
"""

from __future__ import annotations

import codecs
import pickletools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError
from gem3d.particles.pickled_arrays import Array, RefusedError, build, call, find_known

# A list of a million numpy scalars takes eight million.
MOST_INSTRUCTIONS = 10_000_000
# Python appends to lists a thousand values at a time; only what is made to fill memory piles up more.
_MOST_WAITING = 100_000


def load_arrays(path: Path, what: str) -> tuple[NDArray[Any], ...]:
    """Read the arrays of a pickle: an array, a tuple or list of arrays, or a list of numbers (which makes one array).

    Parameters
    ----------
    what: what the file should be, to end messages with: "give cryoDRGN's ctf.pkl".

    Returns
    -------
    Arrays of booleans, integers or floats of at most 64 bits; they may be read-only.

    Raises
    ------
    ParticleFileError: the file cannot be read, is damaged, or holds anything else.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ParticleFileError(f"{path}: no such file; {what}.")
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python knows no more
            return _as_arrays(_Machine(_Bounded(stream, path.stat().st_size)).run())
    except OSError as error:
        raise ParticleFileError(f"{path}: cannot be read ({error.strerror}); {what}.") from None
    except RefusedError as error:
        raise ParticleFileError(f"{path}: {error}; {what}.") from None
    except (ValueError, IndexError, KeyError) as error:
        raise ParticleFileError(
            f"{path}: not a pickle, or a damaged one ({str(error)[:100]}); {what}."
        ) from None


class _Bounded:
    """A file that refuses to be asked for more than it has, before memory is taken for it."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self.size = stream, size
        self.readline = stream.readline

    def read(self, n: int) -> bytes:
        if n > 64 and n > self.size - self._stream.tell():
            raise RefusedError(f"ends after {self.size} bytes, in the middle of its data; copy it again")
        return self._stream.read(n)


def _read_string(stream: Any) -> str:
    """A quoted Python 2 string, bytes as Latin-1; the library's own reader takes only ASCII."""
    quoted: Any = pickletools.read_stringnl(stream, decode=False)  # bytes, as not decoded
    return codecs.escape_decode(quoted)[0].decode("latin-1")


# Instructions that push the value which follows them.
_INTEGERS = frozenset(["INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"])
_TEXTS = frozenset(["UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"])
_PYTHON_2_TEXTS = frozenset(["STRING", "BINSTRING", "SHORT_BINSTRING"])
_BYTES = frozenset(["BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"])
_VALUES = _INTEGERS | _TEXTS | _PYTHON_2_TEXTS | _BYTES | {"FLOAT", "BINFLOAT"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_READERS: dict[bytes, tuple[str, Callable[[Any], Any] | None]] = {
    opcode.code.encode("latin-1"): (opcode.name, None if opcode.arg is None else opcode.arg.reader)
    for opcode in pickletools.opcodes
} | {b"S": ("STRING", _read_string)}


class _Machine:
    """Carries out the instructions of one pickle."""

    def __init__(self, stream: _Bounded) -> None:
        self._stream = stream
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        # Data that is written once is encoded once, and makes one array.
        self._may_make = 2 * stream.size

    def run(self) -> object:
        """What the pickle builds."""
        for _ in range(MOST_INSTRUCTIONS):
            code = self._stream.read(1)
            if code not in _READERS:
                raise RefusedError("not a pickle, or cut short; copy it again if it should be one")
            name, reader = _READERS[code]
            argument = None if reader is None else reader(self._stream)
            if name == "STOP":
                return self._result()
            if name in _VALUES:
                self._stack.append(argument)
            else:
                self._carry_out(name, argument)
            if len(self._stack) + len(self._marks) > _MOST_WAITING:
                raise RefusedError(
                    "values pile up that nothing is made of; it is damaged, or made to fill memory"
                )
        raise RefusedError(
            f"more than {MOST_INSTRUCTIONS:,} instructions; save the numbers as one numpy array"
        )

    def _carry_out(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self._memo[argument])
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "REDUCE":
                arguments = stack.pop()
                stack.append(call(stack.pop(), arguments))
                self._count(stack[-1])
            case "BUILD":
                state = stack.pop()
                build(stack[-1], state)
                self._count(stack[-1])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                start = len(stack) - _TUPLES[name]
                if start < 0:
                    raise IndexError("too few values")
                stack[start:] = [tuple(stack[start:])]
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                stack.append(_CONSTANTS[name])
            case "MARK":
                self._marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "LIST":
                stack.append(self._since_mark())
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND":
                value = stack.pop()
                self._extend([value])
            case "APPENDS":
                self._extend(self._since_mark())
            case "GLOBAL":
                stack.append(find_known(argument))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                if not isinstance(attribute, str) or not isinstance(module, str):
                    raise ValueError("a name is no text")
                stack.append(find_known(f"{module} {attribute}"))
            case "PROTO" | "FRAME":
                pass
            case _:
                raise RefusedError(f"holds something other than arrays (instruction {name})")

    def _count(self, made: object) -> None:
        """Refuse a pickle that makes more and more of the same data, which it holds once."""
        data = made.values if isinstance(made, Array) else made
        if isinstance(data, bytes):
            self._may_make -= len(data)
        elif isinstance(data, np.ndarray):
            self._may_make -= data.nbytes
        if self._may_make < 0:
            raise RefusedError("it makes more data than it holds; it is damaged, or made to fill memory")

    def _result(self) -> object:
        if len(self._stack) != 1:
            raise ValueError(f"it leaves {len(self._stack)} values")
        return self._stack[0]

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _extend(self, values: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise ValueError("appends to what is no list")
        self._stack[-1].extend(values)


def _as_arrays(value: object) -> tuple[NDArray[Any], ...]:
    if isinstance(value, Array):
        value = (value,)
    if isinstance(value, tuple | list):
        arrays = [item.values for item in value if isinstance(item, Array) and item.values is not None]
        if value and len(arrays) == len(value):
            return tuple(arrays)
        kinds = set(map(type, value))
        if kinds <= {bool} or kinds <= {int} or kinds <= {int, float}:
            # Of mixed kinds the integers become floats; those beyond 64 bits would become objects.
            kind = np.float64 if float in kinds else (np.bool_ if kinds == {bool} else np.int64)
            try:
                return (np.array(value, dtype=kind),)
            except OverflowError:
                raise RefusedError("holds numbers beyond 64 bits") from None
    raise RefusedError("holds neither arrays nor a list of numbers")
