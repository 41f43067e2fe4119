"""Ways to damage files: bytes and JSON values, chosen by a seeded random generator."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

NASTY_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    2**64,
    10**12,
    10**30,
    -(2**63),
    0.5,
    -0.0,
    1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
    "",
    "x",
    "0",
    "\x1b]0;title\x07\n\r\x00",
    "\ud800",
    "é" * 5000,
    "../../etc/passwd",
    [],
    {},
    [[[[[[]]]]]],
    [None],
    ["x"] * 1000,
    {"a": {"b": {}}},
)
"""Values that programs forget about. Some are not JSON, but Python reads and writes them as such."""


def damage_bytes(data: bytes, rng: random.Random, first: int | None = None) -> bytes:
    """Damage some bytes: flipped, set to extremes, removed, repeated or cut off.

    Args:
        first: damage only the first so many bytes, where a header is.
    """
    changed = bytearray(data)
    limit = min(len(changed), first or len(changed))
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if not changed or limit < 1:
            break
        at = rng.randrange(min(limit, len(changed)))
        match rng.randrange(6):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                width = rng.choice((2, 4, 8))
                value = rng.choice((0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), rng.randrange(2 ** (8 * width))))
                changed[at : at + width] = value.to_bytes(width, "little")
            case 3:
                del changed[at : at + rng.choice((1, 4, 8, 100))]
            case 4:
                changed[at:at] = changed[at : at + rng.choice((1, 4, 8, 100))]
            case 5:
                del changed[at:]
    return bytes(changed)


def damage_json(value: Any, rng: random.Random) -> Any:
    """A copy with one to three places replaced by a nasty value, removed, renamed or repeated."""
    changed = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        changed = _damage_one(changed, rng)
    return changed


def _damage_one(root: Any, rng: random.Random) -> Any:
    places = list(_places(root))
    if not places:
        return copy.deepcopy(rng.choice(NASTY_VALUES))
    holder, key = rng.choice(places)
    match rng.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(("", "x", "__class__", f"{key}_", "\x1b[31m"))] = holder.pop(key)
        case 2 if isinstance(holder, list):
            holder.extend([holder[key]] * rng.choice((1, 3, 50)))
        case 3 if isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
            holder[key] = rng.choice((-holder[key], holder[key] * 10**6, holder[key] * 10**12, holder[key] + 1, 0))
        case 4:
            deep: Any = holder[key]
            for _ in range(rng.choice((3, 100, 2000))):
                deep = [deep]
            holder[key] = deep
        case _:
            # A copy: later damage to it must not change what other files get, or put it into itself.
            holder[key] = copy.deepcopy(rng.choice(NASTY_VALUES))
    return root


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value: its container, and the key or index."""
    found: list[tuple[Any, Any]] = []
    layer = [value]
    while layer:
        inner = []
        for holder in layer:
            keys = holder.keys() if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
            for key in keys:
                found.append((holder, key))
                inner.append(holder[key])
        layer = inner
    return found


def dump_json(value: Any) -> bytes:
    """Write any nesting as JSON, which ``json.dumps`` cannot, with halves of surrogate pairs escaped."""
    import sys

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        return json.dumps(value).encode()
    finally:
        sys.setrecursionlimit(limit)
