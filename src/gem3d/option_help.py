"""Help of command-line options from the text under each field of a dataclass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from types import MappingProxyType
from typing import Annotated, TypeVar

import docstring_parser
from tyro.conf import arg

T = TypeVar("T")

Flag = Annotated[bool, arg(help_behavior_hint="")]
"""A switch; what it does is its help, so no default need be shown."""


def helped_by_docstrings(cls: type[T]) -> type[T]:
    """Class decorator: joins the lines of each field's text, where tyro would keep the source's line breaks."""
    texts = {p.arg_name: p.description for p in docstring_parser.parse_from_object(cls).params}
    for field in fields(cls):  # type: ignore[arg-type]
        if text := texts.get(field.name):
            field.metadata = MappingProxyType({**field.metadata, "help": " ".join(text.split())})
    return cls


def in_order(*last: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: lists these fields last, in this order, whatever base classes they come from."""

    def sort(cls: type[T]) -> type[T]:
        found = cls.__dataclass_fields__  # type: ignore[attr-defined]
        first = [name for name in found if name not in last]
        cls.__dataclass_fields__ = {name: found[name] for name in (*first, *last)}  # type: ignore[attr-defined]
        return cls

    return sort
