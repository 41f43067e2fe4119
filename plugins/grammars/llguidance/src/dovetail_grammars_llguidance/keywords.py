"""The keywords of one schema, as its user means them and llguidance reads them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from llguidance import LLMatcher

FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown")
)
"""Those that llguidance keeps. JSON Schema has any other as a remark for the reader."""
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
"""What llguidance does not do."""
MEANT_FOR_READERS = ("$dynamicAnchor", "$recursiveAnchor")
COMBINING = ("allOf", "anyOf", "oneOf", "$ref", "if", "dependentSchemas", "$dynamicRef")
KEPT_BESIDE_REF = frozenset(
    ("type", "const", "enum", "anyOf", "oneOf", "allOf", "items", "prefixItems", "minItems", "maxItems", "properties")
) | frozenset(
    ("additionalProperties", "patternProperties", "required", "minProperties", "maxProperties", "minLength", "maxLength")
) | frozenset(
    ("pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "additionalItems")
)  # fmt: skip
"""Keywords that say something about a value. Others beside a ``$ref`` would only keep llguidance from following it."""
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
MAX_COUNT = 1 << 31
BOUND = 1 << 63
"""Numbers that llguidance can compare with are smaller."""
VALUES = ("const", "default", "example", "examples", "enum")


def drop_nulls(node: dict[str, Any]) -> None:
    """``null`` in place of a keyword's value means that it is not given."""
    for word in [word for word, value in node.items() if value is None and word not in ("const", "default", "example")]:
        del node[word]
    if isinstance(node.get("properties"), dict):
        node["properties"] = {name: True if part is None else part for name, part in node["properties"].items()}


def drop_empty(node: dict[str, Any]) -> None:
    """Take out what llguidance lacks where it says nothing."""
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
    """Counts are whole numbers, and bounds without a value that is past them say nothing.

    Returns:
        The bounds that are too large to be kept.
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
    """Where nothing else evaluates parts, what is unevaluated is what is additional."""
    if any(word in node for word in COMBINING):
        return
    for word, same in (("unevaluatedProperties", "additionalProperties"), ("unevaluatedItems", "items")):
        if word in node:
            value = node.pop(word)
            node.setdefault(same, value)


def hoist_required(node: dict[str, Any]) -> None:
    """``required: true`` in a property, as the third draft had it, for the list that later ones have."""
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
    """Whether llguidance can count the properties of a schema, which it does where all that are named are required."""
    properties = node.get("properties") or {}
    if set(properties) <= set(node.get("required") or ()):
        return True
    closed = node.get("additionalProperties") is False and not node.get("patternProperties")
    return closed and not node.get("required") and node.get("minProperties", 0) == 1 and "maxProperties" not in node


@lru_cache(4096)
def pattern_lacks(pattern: str) -> str:
    """What llguidance lacks for an expression that is one otherwise; empty if nothing."""
    message = LLMatcher.validate_grammar(LLMatcher.grammar_from_regex(pattern))
    for word in ("look-around", "lookarounds", "backreferences"):
        if word in message:
            return word.replace("lookarounds", "look-around")
    return ""
