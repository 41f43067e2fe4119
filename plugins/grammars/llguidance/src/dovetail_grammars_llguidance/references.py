"""``$ref`` inside one schema, and the subschemas of a schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

SINGLE = ("items", "additionalItems", "additionalProperties")
LISTS = ("prefixItems", "items", "anyOf", "oneOf", "allOf")
MAPS = ("properties", "patternProperties")
DEFINITIONS = ("$defs", "definitions")
SAFE = "/~!$&'()*+,;=:@?"
"""Characters that need no escaping in a JSON pointer."""


def subschemas(node: dict[str, Any]) -> Iterator[tuple[Any, Any, str]]:
    """The subschemas that a schema's values must follow: the container, the key in it, and the place as text.

    Definitions are not included; they are reached by references.
    """
    for word in SINGLE:
        if isinstance(node.get(word), dict | bool):
            yield node, word, word
    for word in LISTS:
        if isinstance(node.get(word), list):
            for index in range(len(node[word])):
                yield node[word], index, f"{word}/{index}"
    for word in MAPS:
        if isinstance(node.get(word), dict):
            for name in list(node[word]):
                yield node[word], name, f"{word}/{name}"


class References:
    """Resolves the ``$ref`` of a schema.

    Args:
        root: the whole schema.
    """

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._base = root["$id"].rstrip("#") if isinstance(root.get("$id"), str) else ""
        self._anchors: dict[str, str] | None = None
        self._targets: dict[str, Any] = {}

    def canonical(self, reference: str) -> str | None:
        """The same reference as ``#`` and a JSON pointer; None if it does not refer to a place in this schema."""
        base, _, fragment = reference.partition("#")
        if base and base.rstrip("#") != self._base:
            return None
        if fragment and not fragment.startswith("/"):
            pointer = self._anchor(unquote(fragment))
            return None if pointer is None else f"#{pointer}"
        for pointer in (unquote(fragment), fragment):
            if self._at(pointer) is not None:
                return "#" + quote(pointer, safe=SAFE)
        return None

    def target(self, reference: str) -> Any:
        """The schema at a canonical reference."""
        if reference not in self._targets:
            self._targets[reference] = self._at(unquote(reference[1:]))
        return self._targets[reference]

    def _at(self, pointer: str) -> Any:
        """The schema at a JSON pointer; None if there is none."""
        at: Any = self._root
        for step in pointer.split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(at, dict):
                at = at.get(step)
            elif isinstance(at, list) and step.isdecimal() and int(step) < len(at):
                at = at[int(step)]
            else:
                return None
        return at if isinstance(at, dict | bool) else None

    def _anchor(self, name: str) -> str | None:
        if self._anchors is None:
            self._anchors = {}
            todo: list[tuple[Any, str]] = [(self._root, "")]
            while todo:
                node, place = todo.pop()
                steps: Any = enumerate(node) if isinstance(node, list) else ()
                if isinstance(node, dict):
                    steps = node.items()
                    for word in ("$anchor", "$dynamicAnchor"):
                        if isinstance(node.get(word), str):
                            self._anchors.setdefault(node[word], place)
                for step, part in steps:
                    if isinstance(part, dict | list):
                        todo.append((part, f"{place}/{str(step).replace('~', '~0').replace('/', '~1')}"))
        return self._anchors.get(name)
