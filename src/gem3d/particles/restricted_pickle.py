"""Arrays from pickles, without unpickling: a pickle is a program, and the usual machine runs whatever it names.

Here a machine of our own carries out the few instructions that arrays and lists of numbers are written with, in
protocols 0 to 5, by numpy 1 and 2 and by Python 2. Nothing that a pickle names is looked up or called, and memory is
taken for what it holds, not for what it claims.
"""

from __future__ import annotations

import codecs
import math
import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError

# A list of a million numpy scalars takes eight million.
MOST_INSTRUCTIONS = 10_000_000
MOST_DIMENSIONS = 8
# Python appends to lists a thousand values at a time; only what is made to fill memory piles up more.
_MOST_WAITING = 100_000
_DTYPES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])


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
    except _RefusedError as error:
        raise ParticleFileError(f"{path}: {error}; {what}.") from None
    except (ValueError, IndexError, KeyError) as error:
        raise ParticleFileError(
            f"{path}: not a pickle, or a damaged one ({str(error)[:100]}); {what}."
        ) from None


class _RefusedError(Exception):
    """What is wrong with a pickle."""


class _Known(Enum):
    """What a pickle may name."""

    NDARRAY = auto()
    DTYPE = auto()
    RECONSTRUCT = auto()
    FROMBUFFER = auto()
    SCALAR = auto()
    ENCODE = auto()


_NAMES = {"numpy ndarray": _Known.NDARRAY, "numpy dtype": _Known.DTYPE, "_codecs encode": _Known.ENCODE} | {
    f"numpy.{core}.{name}": known
    for core in ("core", "_core")
    for name, known in {
        "multiarray _reconstruct": _Known.RECONSTRUCT,
        "multiarray scalar": _Known.SCALAR,
        "numeric _frombuffer": _Known.FROMBUFFER,
    }.items()
}


@dataclass
class _Dtype:
    """A dtype in the making: its byte order comes after its name."""

    name: str
    order: str = "="

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.name)


@dataclass
class _Array:
    """An array in the making: its contents come after it was named."""

    values: NDArray[Any] | None = None


class _Bounded:
    """A file that refuses to be asked for more than it has, before memory is taken for it."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self.size = stream, size
        self.readline = stream.readline

    def read(self, n: int) -> bytes:
        if n > 64 and n > self.size - self._stream.tell():
            raise _RefusedError(f"ends after {self.size} bytes, in the middle of its data; copy it again")
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
                raise _RefusedError("not a pickle, or cut short; copy it again if it should be one")
            name, reader = _READERS[code]
            argument = None if reader is None else reader(self._stream)
            if name == "STOP":
                return self._result()
            if name in _VALUES:
                self._stack.append(argument)
            else:
                self._carry_out(name, argument)
            if len(self._stack) + len(self._marks) > _MOST_WAITING:
                raise _RefusedError(
                    "values pile up that nothing is made of; it is damaged, or made to fill memory"
                )
        raise _RefusedError(
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
                stack.append(_call(stack.pop(), arguments))
                self._count(stack[-1])
            case "BUILD":
                state = stack.pop()
                _build(stack[-1], state)
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
                stack.append(_known(argument))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                if not isinstance(attribute, str) or not isinstance(module, str):
                    raise ValueError("a name is no text")
                stack.append(_known(f"{module} {attribute}"))
            case "PROTO" | "FRAME":
                pass
            case _:
                raise _RefusedError(f"holds something other than arrays (instruction {name})")

    def _count(self, made: object) -> None:
        """Refuse a pickle that makes more and more of the same data, which it holds once."""
        data = made.values if isinstance(made, _Array) else made
        if isinstance(data, bytes):
            self._may_make -= len(data)
        elif isinstance(data, np.ndarray):
            self._may_make -= data.nbytes
        if self._may_make < 0:
            raise _RefusedError("it makes more data than it holds; it is damaged, or made to fill memory")

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


def _known(name: str) -> _Known:
    try:
        return _NAMES[name]
    except KeyError:
        shown = name.replace(" ", ".")[:100].encode("ascii", "backslashreplace").decode()
        raise _RefusedError(f"it names {shown}, which is not array data") from None


def _call(function: object, arguments: object) -> object:
    """What a call gives, of the few that array data need."""
    match function, arguments:
        case _Known.RECONSTRUCT, (_Known.NDARRAY, *_):
            return _Array()
        case _Known.FROMBUFFER, (data, _Dtype() as dtype, tuple() as shape, "C" | "F" as order):
            return _Array(_array(data, dtype, shape, order))
        case _Known.FROMBUFFER, (data, _Dtype() as dtype, tuple() as shape, "K", tuple() as axes):
            values = _array(data, dtype, shape, "C")
            if set(map(type, axes)) - {int} or sorted(axes) != list(range(values.ndim)):
                raise ValueError("axes are not an order")
            return _Array(values.transpose(axes))
        case _Known.SCALAR, (_Dtype() as dtype, data):
            return _array(data, dtype, (), "C").item()
        case _Known.DTYPE, (str() as name, *_):
            if name not in _DTYPES:
                raise _RefusedError(f"holds an array of {name[:20]!r}, not of numbers")
            return _Dtype(name)
        case _Known.ENCODE, (str() as text, "latin1" | "latin-1"):
            return text.encode("latin-1")
    _refuse_use(function)


def _build(thing: object, state: object) -> None:
    """Fill in what was named before: a dtype's byte order, or an array's shape and contents."""
    match thing, state:
        case _Dtype(), (int(), "<" | ">" | "|" | "=" as order, None, None, None, *_):
            thing.order = order
        case _Array(), (int(), tuple() as shape, _Dtype() as dtype, bool() | 0 | 1 as by_column, data):
            thing.values = _array(data, dtype, shape, "F" if by_column else "C")
        case _:
            _refuse_use(thing)


def _refuse_use(thing: object) -> NoReturn:
    named = thing.name.lower() if isinstance(thing, _Known) else type(thing).__name__.strip("_").lower()
    raise _RefusedError(f"builds something other than an array of numbers (with {named})")


def _array(data: object, dtype: _Dtype, shape: tuple[Any, ...], order: Any) -> NDArray[Any]:
    if isinstance(data, str):  # of Python 2
        data = data.encode("latin-1")
    if not isinstance(data, bytes | bytearray):
        raise _RefusedError("holds an array of objects, not of numbers")
    if len(shape) > MOST_DIMENSIONS or not all(type(side) is int and 0 <= side < 1 << 62 for side in shape):
        raise ValueError("an array's shape makes no sense")
    needed = math.prod(shape) * dtype.dtype.itemsize
    if needed != len(data):
        raise _RefusedError(f"an array of {needed} bytes has {len(data)}")
    if not data:
        return np.empty(shape, dtype.dtype)
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _as_arrays(value: object) -> tuple[NDArray[Any], ...]:
    if isinstance(value, _Array):
        value = (value,)
    if isinstance(value, tuple | list):
        arrays = [item.values for item in value if isinstance(item, _Array) and item.values is not None]
        if value and len(arrays) == len(value):
            return tuple(arrays)
        kinds = set(map(type, value))
        if kinds <= {bool} or kinds <= {int} or kinds <= {int, float}:
            # Of mixed kinds the integers become floats; those beyond 64 bits would become objects.
            kind = np.float64 if float in kinds else (np.bool_ if kinds == {bool} else np.int64)
            try:
                return (np.array(value, dtype=kind),)
            except OverflowError:
                raise _RefusedError("holds numbers beyond 64 bits") from None
    raise _RefusedError("holds neither arrays nor a list of numbers")
