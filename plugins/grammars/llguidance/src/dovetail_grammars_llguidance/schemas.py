"""Prepares JSON schemas, as people write them, for llguidance.

Outputs follow the resulting schema. If it restricts less than the original, because llguidance lacks a keyword, notices
say so. A schema with ``"x-strict": true``, at its top or in any part, is refused instead if it would lose something
there.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import Any

from dovetail.api.grammar import STRICT
from dovetail_grammars_llguidance import keywords
from dovetail_grammars_llguidance.errors import FormatError
from dovetail_grammars_llguidance.instances import ALL, Instances, declared
from dovetail_grammars_llguidance.key_patterns import matches
from dovetail_grammars_llguidance.references import DEFINITIONS, References, subschemas

BLANKS = r" |\n( {0,40}|\t{0,10})"
"""White space between two parts of JSON: what people write there, but limited, so that a model cannot fill its
output with it.
"""
MAX_DEPTH = 120


@dataclass
class Prepared:
    """A prepared schema.

    Attributes:
        text: as JSON in one line.
        types: of its values.
        notices: what was ignored, and where.
    """

    text: str
    types: frozenset[str] = ALL
    notices: list[str] = field(default_factory=list)


def prepare_schema(value: Any) -> Prepared:
    """Prepare a schema. The original is not changed.

    Raises:
        FormError: it is not a schema, it has no valid value, or it is strict and has unsupported keywords.
    """
    if value is True:
        value = {}
    if value is False:
        raise FormatError("the schema false has no values", "leave it out")
    if not isinstance(value, dict):
        raise FormatError(f"wanted an object, found {json.dumps(value)[:40]!r}")
    try:
        return _Preparation(copy.deepcopy(value)).run()
    except RecursionError:
        raise FormatError("it nests too deep", "make it flatter") from None
    except ValueError:
        raise FormatError("a number in it is too large") from None


class _Preparation:
    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._references = References(root)
        self._seen: dict[tuple[int, bool], dict[str, Any]] = {}
        """Schemas that were visited, and whether they are parts of a strict one."""
        self._lost: dict[int, list[str]] = {}
        self._notices: dict[str, None] = {}
        self._targets: list[tuple[str, bool]] = []
        self._names = -1

    def run(self) -> Prepared:
        root = self._root
        options = _options(root)
        self._visit(root, "#", False, 0)
        for word in DEFINITIONS:
            if isinstance(root.get(word), dict) and not self._closed():
                for name, part in root[word].items():
                    self._visit(part, f"#/{word}/{name}", False, 1)
        while self._targets:
            reference, strict = self._targets.pop()
            self._visit(self._references.target(reference), reference, strict, 0)
        if self._closed():
            root.pop("$id", None)
        self._end_what_never_ends()
        strict = any(strict for _, strict in self._seen)
        # What a schema's own options may not do is ignore keywords without a word.
        root["x-guidance"] = {"coerce_one_of": not strict, **options, "lenient": False}
        if options.get("whitespace_flexible", True) is True:
            root["x-guidance"].setdefault("whitespace_pattern", BLANKS)
        text = json.dumps(root, ensure_ascii=False, allow_nan=False)
        return Prepared(text, declared(root), list(self._notices))

    def _closed(self) -> bool:
        """Whether every reference was resolved inside the schema, so that its ``$id`` is not needed."""
        return not any(
            isinstance(node.get("$ref"), str) and not node["$ref"].startswith("#") for node in self._seen.values()
        )

    def _visit(self, node: Any, place: str, strict: bool, depth: int) -> None:
        if not isinstance(node, dict):
            return
        if depth > MAX_DEPTH:
            raise FormatError(f"it nests deeper than {MAX_DEPTH} levels", "make it flatter")
        strict = strict or node.get(STRICT) is True
        if (id(node), strict) in self._seen:
            return
        first = (id(node), not strict) not in self._seen
        self._seen[id(node), strict] = node
        if first:
            self._lost[id(node)] = self._read(node, place)
        self._report(self._lost[id(node)], place, strict)
        if isinstance(node.get("$ref"), str) and node["$ref"].startswith("#"):
            self._targets.append((node["$ref"], strict))
        for container, key, step in subschemas(node):
            self._visit(container[key], f"{place}/{step}", strict, depth + 1)

    def _report(self, lost: list[str], place: str, strict: bool) -> None:
        for what in lost:
            if strict:
                raise FormatError(
                    f"{what} at {place} cannot be kept, and the schema is strict",
                    "leave it out and check it on the output, or send the schema without strict",
                )
            self._notices[f"{what} at {place} is not kept"] = None

    def _read(self, node: dict[str, Any], place: str) -> list[str]:
        """Normalise the keywords of one schema. Returns what is lost."""
        keywords.drop_nulls(node)
        for word in ("$schema", STRICT, *(("x-guidance",) if node is self._root else ())):
            node.pop(word, None)
        if isinstance(node.get("$ref"), str):
            node["$ref"] = self._references.canonical(node["$ref"]) or node["$ref"]
        keywords.hoist_required(node)
        keywords.check_shapes(node, place)
        keywords.drop_empty(node)
        keywords.read_unevaluated(node)
        lost = keywords.read_numbers(node)
        self._read_names(node)
        if isinstance(node.get("format"), str) and node["format"] not in keywords.FORMATS:
            del node["format"]
        if isinstance(node.get("pattern"), str) and (lack := keywords.pattern_lacks(node["pattern"])):
            del node["pattern"]
            lost.append(f"pattern, for its {lack},")
        for word in keywords.LACKING:
            if word in node:
                del node[word]
                lost.append(word)
        self._list_few_names(node)
        lost += self._read_counts(node)
        if "$ref" in node:
            lost += self._read_beside_ref(node)
        return lost

    def _read_names(self, node: dict[str, Any]) -> None:
        """Convert ``propertyNames`` to other keywords if possible."""
        names = node.get("propertyNames")
        if isinstance(names, dict) and isinstance(names.get("$ref"), str):
            names = self._references.target(self._references.canonical(names["$ref"]) or "#")
        if names is True:
            del node["propertyNames"]
        if not isinstance(names, dict):
            return
        said = {word: names[word] for word in names if word in keywords.KEPT_BESIDE_REF or word in keywords.LACKING}
        if isinstance(said.get("format"), str) and said["format"] not in keywords.FORMATS:
            del said["format"]
        if said.get("type", "string") != "string":
            return
        said.pop("type", None)
        if not said:
            del node["propertyNames"]
        elif len(said) > 1 or node.get("patternProperties"):
            return
        elif "enum" in said or "const" in said:
            listed = said["enum"] if "enum" in said else [said["const"]]
            if isinstance(listed, list):
                self._allow_only(node, [name for name in listed if isinstance(name, str)])
        elif isinstance(pattern := said.get("pattern"), str) and not node.get("properties"):
            if keywords.pattern_lacks(pattern):
                return
            node["patternProperties"] = {pattern: node.get("additionalProperties", True)}
            node["additionalProperties"] = False
            del node["propertyNames"]

    def _allow_only(self, node: dict[str, Any], names: list[str]) -> None:
        properties = node.get("properties") or {}
        others = node.get("additionalProperties", True)
        order = [*(name for name in properties if name in names), *(name for name in names if name not in properties)]
        node["properties"] = {name: properties.get(name, others) for name in order}
        node["additionalProperties"] = False
        del node["propertyNames"]

    def _list_few_names(self, node: dict[str, Any]) -> None:
        """Replace patterns with few matching names by these names, so that no pattern is left without a name."""
        patterns = node.get("patternProperties")
        if not isinstance(patterns, dict) or not isinstance(node.get("properties", {}), dict):
            return
        if self._names < 0:
            self._names = _count_names(self._root)
        for pattern in list(patterns):
            names = matches(pattern, self._names)
            if names is None:
                continue
            part = patterns.pop(pattern)
            properties = node.setdefault("properties", {})
            for name in sorted(names):
                properties[name] = {"allOf": [properties[name], part]} if name in properties else part
        if not patterns:
            del node["patternProperties"]

    def _read_counts(self, node: dict[str, Any]) -> list[str]:
        lost: list[str] = []
        if node.get("minProperties") == 0:
            del node["minProperties"]
        least = node.get("minProperties", 0)
        for word in ("minProperties", "maxProperties"):
            if word in node and not keywords.keeps_counts(node):
                del node[word]
                lost.append(word)
        if isinstance(least, int) and least > 1 and "minProperties" in node:
            named = len(set(node.get("required") or ()))
            if least > max(named, 1):
                lost.append("minProperties, since a name may come twice,")
        return lost

    def _read_beside_ref(self, node: dict[str, Any]) -> list[str]:
        """Keep only keywords beside a ``$ref`` that restrict more than it does. Otherwise llguidance cannot follow a
        recursive reference.
        """
        for word in [
            word for word in node if word not in keywords.KEPT_BESIDE_REF and word not in ("$ref", *DEFINITIONS)
        ]:
            if node is not self._root:
                del node[word]
        reference = node["$ref"]
        beside = [word for word in node if word in keywords.KEPT_BESIDE_REF]
        if not beside or not isinstance(reference, str) or not reference.startswith("#"):
            return []
        target = self._references.target(reference)
        if isinstance(target, dict) and "type" in node and "type" in target and declared(target) <= declared(node):
            del node["type"]
            beside.remove("type")
        if not beside or not self._leads_to_itself(reference):
            return []
        for word in beside:
            del node[word]
        return [f"{word} beside a $ref that leads back to itself" for word in beside]

    def _leads_to_itself(self, reference: str) -> bool:
        seen: set[str] = set()
        todo = [reference]
        while todo:
            for found in _all_references(self._references.target(todo.pop())):
                name = self._references.canonical(found)
                if name == reference:
                    return True
                if name is not None and name not in seen:
                    seen.add(name)
                    todo.append(name)
        return False

    def _end_what_never_ends(self) -> None:
        if not any(isinstance(node.get("$ref"), str) for node in self._seen.values()):
            return
        instances = Instances(self._references)
        if not instances.of(self._root):
            raise FormatError(
                "no value of it comes to an end, since its required parts lead back to itself",
                "let one of them be left out, be null or be empty",
            )
        nodes = {id(node): node for node in self._seen.values()}
        for node in nodes.values():
            instances.narrow_parts(node)
        for node in nodes.values():
            instances.narrow(node)


def _options(root: dict[str, Any]) -> dict[str, Any]:
    options = root.get("x-guidance") or {}
    if not isinstance(options, dict):
        raise FormatError(f"x-guidance: wanted an object, found {str(options)[:40]}", "leave it out")
    return {name: value for name, value in options.items() if value is not None}


def _count_names(root: dict[str, Any]) -> int:
    """Maximum number of property names that a schema lists."""
    count = 0
    todo: list[Any] = [root]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            for word in ("properties", "required", "enum"):
                count += len(node[word]) if isinstance(node.get(word), dict | list) else 0
            todo += node.values()
        elif isinstance(node, list):
            todo += node
    return count


def _all_references(node: Any) -> list[str]:
    found: list[str] = []
    todo: list[Any] = [node]
    while todo:
        at = todo.pop()
        if isinstance(at, dict):
            if isinstance(at.get("$ref"), str):
                found.append(at["$ref"])
            todo += at.values()
        elif isinstance(at, list):
            todo += at
    return found
