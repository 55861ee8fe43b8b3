"""What a pickle of arrays may name, and what comes of it: no more is ever called than what stands here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

MOST_DIMENSIONS = 8
_DTYPES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])


class RefusedError(Exception):
    """What is wrong with a pickle."""


class Known(Enum):
    """What a pickle may name."""

    NDARRAY = auto()
    DTYPE = auto()
    RECONSTRUCT = auto()
    FROMBUFFER = auto()
    SCALAR = auto()
    ENCODE = auto()


_NAMES = {"numpy ndarray": Known.NDARRAY, "numpy dtype": Known.DTYPE, "_codecs encode": Known.ENCODE} | {
    f"numpy.{core}.{name}": known
    for core in ("core", "_core")
    for name, known in {
        "multiarray _reconstruct": Known.RECONSTRUCT,
        "multiarray scalar": Known.SCALAR,
        "numeric _frombuffer": Known.FROMBUFFER,
    }.items()
}


@dataclass
class Dtype:
    """A dtype in the making: its byte order comes after its name."""

    name: str
    order: str = "="

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.name)


@dataclass
class Array:
    """An array in the making: its contents come after it was named."""

    values: NDArray[Any] | None = None


def find_known(name: str) -> Known:
    """What stands under a name.

    Raises
    ------
    RefusedError: nothing that array data need.
    """
    try:
        return _NAMES[name]
    except KeyError:
        shown = name.replace(" ", ".")[:100].encode("ascii", "backslashreplace").decode()
        raise RefusedError(f"it names {shown}, which is not array data") from None


def call(function: object, arguments: object) -> object:
    """What a call gives, of the few that array data need."""
    match function, arguments:
        case Known.RECONSTRUCT, (Known.NDARRAY, *_):
            return Array()
        case Known.FROMBUFFER, (data, Dtype() as dtype, tuple() as shape, "C" | "F" as order):
            return Array(_array(data, dtype, shape, order))
        case Known.FROMBUFFER, (data, Dtype() as dtype, tuple() as shape, "K", tuple() as axes):
            values = _array(data, dtype, shape, "C")
            if set(map(type, axes)) - {int} or sorted(axes) != list(range(values.ndim)):
                raise ValueError("axes are not an order")
            return Array(values.transpose(axes))
        case Known.SCALAR, (Dtype() as dtype, data):
            return _array(data, dtype, (), "C").item()
        case Known.DTYPE, (str() as name, *_):
            if name not in _DTYPES:
                raise RefusedError(f"holds an array of {name[:20]!r}, not of numbers")
            return Dtype(name)
        case Known.ENCODE, (str() as text, "latin1" | "latin-1"):
            return text.encode("latin-1")
    _refuse_use(function)


def build(thing: object, state: object) -> None:
    """Fill in what was named before: a dtype's byte order, or an array's shape and contents."""
    match thing, state:
        case Dtype(), (int(), "<" | ">" | "|" | "=" as order, None, None, None, *_):
            thing.order = order
        case Array(), (int(), tuple() as shape, Dtype() as dtype, bool() | 0 | 1 as by_column, data):
            thing.values = _array(data, dtype, shape, "F" if by_column else "C")
        case _:
            _refuse_use(thing)


def _refuse_use(thing: object) -> NoReturn:
    named = thing.name.lower() if isinstance(thing, Known) else type(thing).__name__.strip("_").lower()
    raise RefusedError(f"builds something other than an array of numbers (with {named})")


def _array(data: object, dtype: Dtype, shape: tuple[Any, ...], order: Any) -> NDArray[Any]:
    if isinstance(data, str):  # of Python 2
        data = data.encode("latin-1")
    if not isinstance(data, bytes | bytearray):
        raise RefusedError("holds an array of objects, not of numbers")
    if len(shape) > MOST_DIMENSIONS or not all(type(side) is int and 0 <= side < 1 << 62 for side in shape):
        raise ValueError("an array's shape makes no sense")
    needed = math.prod(shape) * dtype.dtype.itemsize
    if needed != len(data):
        raise RefusedError(f"an array of {needed} bytes has {len(data)}")
    if not data:
        return np.empty(shape, dtype.dtype)
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)
