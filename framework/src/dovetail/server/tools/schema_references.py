"""References within a JSON schema that becomes a part of another."""

from __future__ import annotations

from typing import Any

DATA = ("const", "enum", "default", "example", "examples")
"""Keywords whose values are no schemas."""
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose values are schemas by names, which may be any."""


def refers(schema: Any) -> bool:
    """Whether anything in a schema leads to another place in it."""
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
    """A schema for another place, where its references still lead to its own parts.

    Args:
        schema: a whole schema. Not changed.
        place: a JSON pointer to where it will be, such as ``/$defs/a``, in which nothing is escaped.

    Raises:
        RecursionError: it nests too deep.
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
