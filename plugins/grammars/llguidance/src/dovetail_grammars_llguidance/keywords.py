"""Normalises the keywords of one schema: from what users write to what llguidance supports."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from llguidance import LLMatcher

from dovetail_grammars_llguidance.errors import FormatError

FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown")
)
"""Keywords that llguidance supports. In JSON Schema, unknown keywords are annotations."""
LACKING = (
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
)
"""Keywords that llguidance does not support."""
MEANT_FOR_READERS = ("$dynamicAnchor", "$recursiveAnchor")
COMBINING = ("allOf", "anyOf", "oneOf", "$ref", "if", "dependentSchemas", "$dynamicRef")
KEPT_BESIDE_REF = frozenset(
    ("type", "const", "enum", "anyOf", "oneOf", "allOf", "items", "prefixItems", "minItems", "maxItems", "properties")
) | frozenset(
    ("additionalProperties", "patternProperties", "required", "minProperties", "maxProperties", "minLength", "maxLength")
) | frozenset(
    ("pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "additionalItems")
)  # fmt: skip
"""Keywords that restrict a value. Other keywords beside a ``$ref`` would only prevent llguidance from following it."""
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
MAX_COUNT = 1 << 31
BOUND = 1 << 63
"""llguidance only supports bounds below this number."""
SHAPES: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems", "required"), (list, "a list")),
    **dict.fromkeys(("properties", "patternProperties"), (dict, "an object")),
}
"""Keywords that are read here before llguidance checks them."""
VALUES = ("const", "default", "example", "examples", "enum")


def drop_nulls(node: dict[str, Any]) -> None:
    """Remove keywords with the value ``null``, which means that they are not given."""
    for word in [word for word, value in node.items() if value is None and word not in ("const", "default", "example")]:
        del node[word]
    if isinstance(node.get("properties"), dict):
        node["properties"] = {name: True if part is None else part for name, part in node["properties"].items()}


def check_shapes(node: dict[str, Any], place: str) -> None:
    """
    Raises:
        FormatError: a keyword has a value of another type than the rest of this package takes it for.
    """
    for word, (shape, name) in SHAPES.items():
        if word in node and not isinstance(node[word], shape):
            raise FormatError(f"{word} must be {name}, at {place}, found {str(node[word])[:40]!r}")
    if not all(isinstance(name, str) for name in node.get("required", ())):
        raise FormatError(f"required must list names, at {place}")


def drop_empty(node: dict[str, Any]) -> None:
    """Remove unsupported keywords with values that restrict nothing."""
    for word in MEANT_FOR_READERS:
        node.pop(word, None)
    if "if" not in node or not {"then", "else"} & set(node):
        for word in ("if", "then", "else"):
            node.pop(word, None)
    if "contains" not in node or (node.get("minContains") == 0 and "maxContains" not in node):
        for word in ("contains", "minContains", "maxContains"):
            node.pop(word, None)
    for word in ("uniqueItems", "not"):
        if node.get(word) is False:
            del node[word]
    for word in ("unevaluatedItems", "unevaluatedProperties"):
        if node.get(word) in (True, {}):
            del node[word]
    for word in ("dependentRequired", "dependentSchemas", "dependencies"):
        if node.get(word) == {}:
            del node[word]


def read_numbers(node: dict[str, Any]) -> list[str]:
    """Convert counts to integers, and remove bounds that exclude no value.

    Returns:
        The bounds that are too large to be supported.
    """
    for word in COUNTS:
        value = node.get(word)
        if isinstance(value, float) and value.is_integer():
            value = node[word] = int(value)
        if isinstance(value, int) and value >= MAX_COUNT and word.startswith("max"):
            del node[word]
    lost = []
    for word, sign in (("maximum", 1), ("exclusiveMaximum", 1), ("minimum", -1), ("exclusiveMinimum", -1)):
        value = node.get(word)
        if isinstance(value, int | float) and not isinstance(value, bool) and value * sign >= BOUND - 1:
            del node[word]
            lost.append(word)
    return lost


def read_unevaluated(node: dict[str, Any]) -> None:
    """Convert ``unevaluated…`` to ``additional…`` if no other keyword evaluates parts."""
    if any(word in node for word in COMBINING):
        return
    for word, same in (("unevaluatedProperties", "additionalProperties"), ("unevaluatedItems", "items")):
        if word in node:
            value = node.pop(word)
            node.setdefault(same, value)


def hoist_required(node: dict[str, Any]) -> None:
    """Convert ``required: true`` in a property (draft 3) to the list of later drafts."""
    if isinstance(node.get("required"), bool):
        del node["required"]
    properties = node.get("properties")
    required = node.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        return
    more = [name for name, part in properties.items() if isinstance(part, dict) and part.get("required") is True]
    if more:
        node["required"] = [*required, *(name for name in more if name not in required)]


def keeps_counts(node: dict[str, Any]) -> bool:
    """Whether llguidance can count the properties of a schema. It can if all listed ones are required."""
    properties = node.get("properties") or {}
    if set(properties) <= set(node.get("required") or ()):
        return True
    closed = node.get("additionalProperties") is False and not node.get("patternProperties")
    return closed and not node.get("required") and node.get("minProperties", 0) == 1 and "maxProperties" not in node


@lru_cache(4096)
def pattern_lacks(pattern: str) -> str:
    """The feature of a valid expression that llguidance lacks; empty if none."""
    message = LLMatcher.validate_grammar(LLMatcher.grammar_from_regex(pattern))
    for word in ("look-around", "lookarounds", "backreferences"):
        if word in message:
            return word.replace("lookarounds", "look-around")
    return ""
