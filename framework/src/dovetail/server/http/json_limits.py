"""Limits for the parts of a request's JSON. The size of the whole body is a setting; these limits are far above what
real requests need.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from dovetail.server.http.errors import ApiError

MAX_DEPTH = 128
"""Maximum nesting of objects and lists. Checks, copies and templates recurse, and a thread's stack holds about a
thousand calls.
"""
MAX_COMPILED_BYTES = 1 << 20
"""Maximum size of each field that defines an output format or tools, because those are compiled."""
COMPILED_FIELDS = (
    "response_format",
    "structured_outputs",
    "structural_tag",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "tools",
    "functions",
    "text",
)
MAX_VALUES = 1 << 19
"""Maximum number of values in a body: numbers, texts, objects, lists and the like. A value takes up to 100 bytes of
memory, and 50 ns to read. For models with a longer context it is twice that, for prompts of token ids.
"""
MAX_CONTAINERS = 1 << 16
"""Maximum number of objects and lists in a body. They take several times as long as other values, and the garbage
collector looks at each of them.
"""
MAX_TEXTS = 1 << 18
"""Maximum number of texts in a body, names of fields included."""
MAX_DIGITS = 256
"""Maximum number of digits in a row outside of texts. The time to read an integer grows with their square."""
MAX_BYTES = {"stop": 64 << 10, "stop_sequences": 64 << 10, "bad_words": 256 << 10}
"""Field → maximum length of all its texts together, in bytes."""
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
MAX_ENTRIES = {
    "messages": 16_384,
    "input": 16_384,
    "documents": 16_384,
    "tools": 1_024,
    "functions": 1_024,
    "stop": 256,
    "stop_sequences": 256,
    "stop_token_ids": 4_096,
    "bad_words": 4_096,
    "logit_bias": 16_384,
    "allowed_token_ids": 262_144,
}
"""Field → maximum number of entries. Each entry costs time, for every token or before the first."""


def value_limit(max_model_len: int) -> int:
    """The maximum number of values in a body, for a model of this context."""
    return max(MAX_VALUES, 2 * max_model_len)


def check_raw_limits(raw: bytes, max_values: int = MAX_VALUES) -> None:
    """Refuse a body that would take long to decode. Only counts bytes, and takes about 1 ms a megabyte, more for bodies
    that consist of texts of a few bytes.

    Raises:
        ApiError: it has too many values or digits.
    """
    # None can be reached by fewer bytes than these, as nearly all bodies have.
    if len(raw) <= MAX_DIGITS:
        return
    has_digits = b"0" * (MAX_DIGITS + 1) in raw.translate(_DIGITS)
    if len(raw) <= MAX_CONTAINERS and not has_digits:
        return
    commas, containers, quotes = raw.count(b","), raw.count(b"[") + raw.count(b"{"), raw.count(b'"')
    if not has_digits and commas + containers <= min(max_values, MAX_CONTAINERS) and quotes <= 2 * MAX_TEXTS:
        return
    # Some of that may be in texts, where it does not count. Without escapes, every second quote ends one.
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if (texts := raw.count(b'"') // 2) > MAX_TEXTS:
        raise _too_many(f"{texts} texts", MAX_TEXTS)
    outside = b" ".join(raw.split(b'"')[::2])
    containers = outside.count(b"[") + outside.count(b"{")
    if containers > MAX_CONTAINERS:
        raise _too_many(f"{containers} objects and lists", MAX_CONTAINERS)
    if (values := outside.count(b",") + containers) > max_values:
        raise _too_many(f"{values} values", max_values)
    if b"0" * (MAX_DIGITS + 1) in outside.translate(_DIGITS):
        message = f"the body has a number of more than {MAX_DIGITS} digits, the limit"
        raise ApiError(400, message, code="invalid_json")


def _too_many(found: str, limit: int) -> ApiError:
    return ApiError(400, f"the body has {found}, more than the {limit} that this server takes", code="invalid_json")


def check_limits(raw: bytes, data: Mapping[str, Any]) -> None:
    """Refuse a body that would take too long to check or to compute.

    Args:
        raw: the body.
        data: the parsed body.

    Raises:
        ApiError: names the field that is too large.
    """
    # Nothing is nested deeper than there are brackets, which most bodies have few of.
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _is_deeper(data, MAX_DEPTH):
        raise ApiError(400, f"the body is JSON nested too deeply; the limit is {MAX_DEPTH} levels", code="invalid_json")
    for name, limit in MAX_ENTRIES.items():
        value = data.get(name)
        if isinstance(value, list | dict) and len(value) > limit:
            raise _too_large(name, f"{len(value)} entries", str(limit))
    for name, limit in MAX_BYTES.items():
        if len(raw) > limit and name in data and (size := _text_bytes(data[name])) > limit:
            raise _too_large(name, f"{size} bytes", str(limit))
    for name in COMPILED_FIELDS:
        # JSON text is longer than the value, so most values need not be encoded to check their size.
        if (
            len(raw) > MAX_COMPILED_BYTES
            and name in data
            and (size := len(msgspec.json.encode(data[name]))) > MAX_COMPILED_BYTES
        ):
            raise _too_large(name, f"{size} bytes", str(MAX_COMPILED_BYTES))


def _text_bytes(value: object) -> int:
    """Length in UTF-8 of a text, or of the texts in a list or an object."""
    if isinstance(value, str):
        return len(value.encode())
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_text_bytes, inner))


def _is_deeper(data: object, levels: int) -> bool:
    layer: list[Any] = [data]
    while layer and levels > 0:
        levels -= 1
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, list | dict)
        ]
    return bool(layer)


def _too_large(name: str, found: str, limit: str) -> ApiError:
    message = f"{name} has {found}, more than the {limit} that this server takes"
    return ApiError(400, message, param=name, code="invalid_value")
