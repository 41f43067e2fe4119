"""References in a JSON schema that becomes a part of another schema."""

from __future__ import annotations

from typing import Any

DATA = ("const", "enum", "default", "example", "examples")
"""Keywords whose values are not schemas."""
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose values map any names to schemas."""


def refers(schema: Any) -> bool:
    """Whether a schema has references to itself."""
    todo = [schema]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                return True
            todo += node.values()
        elif isinstance(node, list):
            todo += node
    return False


def moved_schema(schema: dict[str, Any], place: str) -> dict[str, Any]:
    """Move a schema to another place, with references adapted to its parts there.

    Args:
        schema: a whole schema. Not changed.
        place: a JSON pointer to its new place, such as ``/$defs/a``, without escapes.

    Raises:
        RecursionError: it is nested too deeply.
    """
    base = schema.get("$id")
    base = base.rstrip("#") if isinstance(base, str) else ""
    mark = place.replace("/", "-").replace("$", "")

    def moved(node: Any, named: bool = False) -> Any:
        if isinstance(node, list):
            return [moved(part) for part in node]
        if not isinstance(node, dict):
            return node
        if named:
            return {name: moved(part) for name, part in node.items()}
        copy = {word: part if word in DATA else moved(part, word in NAMED) for word, part in node.items()}
        if isinstance(copy.get("$ref"), str):
            copy["$ref"] = reference(copy["$ref"])
        if isinstance(copy.get("$anchor"), str):
            copy["$anchor"] += mark
        return copy

    def reference(text: str) -> str:
        start, _, fragment = text.partition("#")
        if start and start != base:
            return text
        return f"#{place}{fragment}" if not fragment or fragment.startswith("/") else f"#{fragment}{mark}"

    return {word: part for word, part in moved(schema).items() if word not in ("$id", "$schema")}
