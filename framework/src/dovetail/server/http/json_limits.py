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
}
"""Field → maximum number of entries. Each entry costs time, for every token or before the first."""


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
    for name in COMPILED_FIELDS:
        # JSON text is longer than the value, so most values need not be encoded to check their size.
        if (
            len(raw) > MAX_COMPILED_BYTES
            and name in data
            and (size := len(msgspec.json.encode(data[name]))) > MAX_COMPILED_BYTES
        ):
            raise _too_large(name, f"{size} bytes", str(MAX_COMPILED_BYTES))


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
