"""Finds the types of finite values that a schema has.

A schema whose required parts refer back to itself has no finite value: a model would open one object inside the other
until it is cut off. Such parts are found here, and removed from the schema. llguidance itself finds schemas that are
empty for another reason (no number between two bounds, no text that matches a pattern).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from dovetail_grammars_llguidance.references import References, subschemas

ALL = frozenset(("null", "boolean", "integer", "number", "string", "array", "object"))
NONE: frozenset[str] = frozenset()


def declared(node: dict[str, Any]) -> frozenset[str]:
    """The types in a schema's ``type``; all if it has none."""
    types = node.get("type")
    if isinstance(types, str):
        types = [types]
    if not isinstance(types, list):
        return ALL
    found = frozenset(name for name in types if isinstance(name, str))
    return found | {"integer"} if "number" in found else found


class Instances:
    """The types of finite values of a schema, and of each schema that it refers to.

    Args:
        references: of the whole schema, which are canonical.
    """

    def __init__(self, references: References) -> None:
        self._references = references
        self._types: dict[str, frozenset[str]] = {}
        self._users: dict[str, set[str]] = defaultdict(set)
        self._at = "#"
        self._todo = ["#"]
        self._types["#"] = NONE
        while self._todo:
            self._at = self._todo.pop()
            types = self.of(references.target(self._at))
            if types != self._types[self._at]:
                self._types[self._at] = types
                self._todo += self._users[self._at] - set(self._todo[-1:])

    def of(self, node: Any) -> frozenset[str]:
        if node is False:
            return NONE
        if not isinstance(node, dict):
            return ALL
        types = declared(node)
        if isinstance(reference := node.get("$ref"), str):
            types &= self._of_reference(reference)
        for part in node.get("allOf") or ():
            types &= self.of(part)
        for word in ("anyOf", "oneOf"):
            if isinstance(node.get(word), list):
                types &= frozenset().union(*map(self.of, node[word]))
        return types - self._endless_error(node, types)

    def narrow(self, node: Any) -> Any:
        """Remove the parts that never end. The schema is changed in place, unless it never ends itself."""
        if not self.of(node):
            return False
        if isinstance(node, dict) and "$ref" not in node:
            types = declared(node)
            ends = types - self._endless_error(node, types)
            if ends != types:
                node["type"] = sorted(ends - {"integer"} if "number" in ends else ends)
        return node

    def narrow_parts(self, node: dict[str, Any]) -> None:
        """Do the same for the schemas inside one."""
        own = declared(node)
        for container, key, place in subschemas(node):
            container[key] = self.narrow(container[key])
            if place.startswith(("anyOf/", "oneOf/")) and not self.of(container[key]) & own:
                container[key] = False

    def _of_reference(self, reference: str) -> frozenset[str]:
        if not reference.startswith("#"):
            return ALL
        if reference not in self._types:
            if self._references.target(reference) is None:
                return ALL
            self._types[reference] = NONE
            self._todo.append(reference)
        self._users[reference].add(self._at)
        return self._types[reference]

    def _endless_error(self, node: dict[str, Any], types: frozenset[str]) -> frozenset[str]:
        """The types that have no finite value, because of the parts that a schema requires."""
        lost = {"object"} if "object" in types and not self._has_object(node) else set()
        return frozenset(lost | {"array"} if "array" in types and not self._has_array(node) else lost)

    def _has_object(self, node: dict[str, Any]) -> bool:
        properties = node.get("properties") or {}
        patterns = node.get("patternProperties")
        for name in node.get("required") or ():
            if name in properties:
                part = properties[name]
            else:
                part = True if patterns else node.get("additionalProperties", True)
            if not self.of(part):
                return False
        return True

    def _has_array(self, node: dict[str, Any]) -> bool:
        count = node.get("minItems", 0)
        if not isinstance(count, int) or count < 1:
            return True
        first = node.get("prefixItems")
        rest = node.get("items", True)
        if isinstance(rest, list):
            first, rest = rest, node.get("additionalItems", True)
        first = first if isinstance(first, list) else []
        return all(self.of(part) for part in first[:count]) and (count <= len(first) or bool(self.of(rest)))
