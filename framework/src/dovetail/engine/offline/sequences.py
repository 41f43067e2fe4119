"""Reads sequences of any ordered type: lists, tuples, arrays, tensors, series, views of dicts, generators."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from dovetail.api.errors import RequestError

BYTES = (bytes, bytearray, memoryview)


def read_sequence(value: Any, param: str = "prompt") -> list[Any] | None:
    """The items of a sequence, in order; None if the value is not a sequence. Texts and mappings are not sequences
    here.

    Raises:
        RequestError: it is bytes, or a set, which has no order.
    """
    if isinstance(value, list):
        return value
    if isinstance(value, str | Mapping):
        return None
    if isinstance(value, BYTES):
        raise RequestError(
            f"{param} is {type(value).__name__}", "give text: decode it, with .decode() if it is UTF-8", param=param
        )
    # The keys of a dict are a set too, and have an order.
    if isinstance(value, set | frozenset):
        raise RequestError(
            f"{param} is a {type(value).__name__}, which has no order", "give a list, such as sorted(...)", param=param
        )
    if callable(to_list := getattr(value, "tolist", None)):  # arrays, tensors and series; a single number is none
        found = to_list()
        return found if isinstance(found, list) else None
    return list(value) if isinstance(value, Iterable) else None


def read_token_ids(values: Iterable[Any]) -> list[int] | None:
    """Whole numbers of any type as ints; None if there is another value among them."""
    found = []
    for value in values:
        if type(value) is int:
            found.append(value)
        elif (number := _read_integer(value)) is not None:
            found.append(number)
        else:
            return None
    return found


def _read_integer(value: Any) -> int | None:
    # A list of one is no number, though some arrays of one are to Python.
    if isinstance(value, bool) or tuple(getattr(value, "shape", ())):
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # a text, a fraction, a boolean of an array's
        return None
