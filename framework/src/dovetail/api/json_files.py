"""Reads JSON files that come with a model or an adapter, and are not to be trusted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeVar

from dovetail.api.errors import ConfigError, DovetailError
from dovetail.api.text import quote_foreign, read_text

J = TypeVar("J", dict[str, Any], list[Any])

MAX_BYTES = 8 * 2**20
"""The most bytes of a file. The largest published ones have 2 MiB; a hostile one takes 30 times its size in memory."""
MAX_DEPTH = 64
"""The most objects and lists inside each other. What copies or compares a value needs several frames for each."""
REPAIR = "repair or download it again"


def read_json(file: Path, kind: type[J], error: type[DovetailError] = ConfigError) -> J:
    """Read a JSON file with an object or a list. Returns an empty one if there is no such file.

    The last of two equal keys counts, as everywhere. Infinity and NaN are read, because published files have them:
    who reads a number checks it.

    Args:
        error: the class of the error.

    Raises:
        DovetailError: it cannot be read, holds something else, is larger than :data:`MAX_BYTES`, nested deeper than
            :data:`MAX_DEPTH`, or has a text with half of a surrogate pair, which no other file or message can hold.
    """
    if not os.path.lexists(file):
        return kind()
    try:
        found = json.loads(read_text(file, MAX_BYTES))
    except RecursionError:
        raise _too_deep(file, error) from None
    except OSError as fault:
        raise error(f"{file} cannot be read ({fault.strerror or fault})", REPAIR) from None
    except ValueError as fault:
        raise error(f"{file} is not readable JSON ({quote_fault(fault)})", REPAIR) from None
    if not isinstance(found, kind):
        wanted = "an object" if kind is dict else "a list"
        raise error(f"{file} holds a JSON {type(found).__name__}, wanted {wanted}", REPAIR)
    _check(file, found, error)
    return found


def quote_fault(fault: Exception) -> str:
    """An exception's text for a message, without what it quotes of the file."""
    if isinstance(fault, UnicodeDecodeError):
        return f"byte {fault.start} is not {fault.encoding}: {fault.reason}"
    return str(fault)


def _check(file: Path, value: Any, error: type[DovetailError]) -> None:
    layer, depth = [value], 0
    while layer:
        depth += 1
        if depth > MAX_DEPTH:
            raise _too_deep(file, error)
        inner: list[Any] = []
        for each in layer:
            if isinstance(each, dict):
                inner += each.keys()
                inner += each.values()
            elif isinstance(each, list):
                inner += each
            elif isinstance(each, str) and not each.isascii():
                _check_text(file, each, error)
        # Numbers and the like have nothing in them, and most lists are of those.
        layer = [each for each in inner if isinstance(each, (dict, list, str))]


def _check_text(file: Path, text: str, error: type[DovetailError]) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as fault:
        raise error(
            f"{file} holds half of a surrogate pair in the text {quote_foreign(text[fault.start :], 40)}, which is no character",
            REPAIR,
        ) from None


def _too_deep(file: Path, error: type[DovetailError]) -> DovetailError:
    return error(f"{file} is nested deeper than {MAX_DEPTH} objects and lists", REPAIR)
