"""Types of arguments from the tools' schemas, for formats that write arguments without types."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dovetail.api.parsers import Tool

Types = frozenset[str]
"""Names of JSON schema types; empty if the schema has no type, or there is no schema."""

_WORDS = {"true": True, "false": False, "null": None}
_KINDS: dict[type, tuple[str, ...]] = {
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number", "integer"),
    str: ("string",),
    list: ("array",),
    dict: ("object",),
    type(None): ("null",),
}
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_PAIR = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = frozenset("\\'\"abfnrtvxuUN01234567")
DEPTH = 8
"""Maximum nesting of schemas that are searched for a type."""


def tool_names(tools: Sequence[Tool]) -> frozenset[str]:
    """The names of the tools."""
    return frozenset(str(tool["name"]) for tool in tools)


def parameter_types(tools: Sequence[Tool], function: str, parameter: str) -> Types:
    """The types that a parameter of a tool may have."""
    for tool in tools:
        if tool["name"] == function:
            schema = tool.get("parameters")
            properties = schema.get("properties") if isinstance(schema, Mapping) else None
            if isinstance(schema, Mapping) and isinstance(properties, Mapping):
                return frozenset(_types(properties.get(parameter), schema, DEPTH))
    return frozenset()


def _types(schema: Any, root: Mapping[str, Any], depth: int) -> Iterator[str]:
    if not isinstance(schema, Mapping) or not depth:
        return
    named = schema.get("type")
    if isinstance(named, str):
        yield named
    elif isinstance(named, Sequence):
        yield from (name for name in named if isinstance(name, str))
    else:
        values = schema["enum"] if isinstance(schema.get("enum"), list) else []
        for value in [*values, *([schema["const"]] if "const" in schema else [])]:
            yield _KINDS.get(type(value), ("string",))[0]
        for word in ("anyOf", "oneOf", "allOf"):
            branches = schema.get(word)
            for branch in branches if isinstance(branches, list) else ():
                yield from _types(branch, root, depth - 1)
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/"):
            yield from _types(_at(root, reference[2:].split("/")), root, depth - 1)


def _at(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        value = value.get(key.replace("~1", "/").replace("~0", "~")) if isinstance(value, Mapping) else None
    return value


def json_value(text: str, types: Types) -> str:
    """The JSON of an argument that is written without quotation marks.

    A text that is a valid value of one of the types becomes that value; any other text is a string. If the types are
    unknown, text that is valid JSON is read as JSON.
    """
    if types != {"string"}:
        stripped = text.strip()
        try:
            value, written = json.loads(stripped, parse_constant=_refuse), stripped
        except (ValueError, RecursionError):
            # Models write Python's True, and its quotation marks, where they were shown Python's.
            value = python_value(stripped)
            written = dumps(value)
        if not isinstance(value, str) and (not types or types.intersection(_KINDS[type(value)])):
            return written
    return dumps(text)


def python_value(text: str) -> Any:
    """The value of a Python literal; JSON's ``true``, ``false`` and ``null`` are accepted too. The text itself if it
    is not a literal that JSON can represent.
    """
    try:
        value = _evaluate(ast.parse(_QUOTED.sub(_spelled, text), mode="eval").body)
        json.dumps(value, allow_nan=False)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
    return value


def _spelled(quoted: re.Match[str]) -> str:
    """A string in Python's notation. Line ends, and backslashes without a valid escape, are accepted unescaped, as
    models and templates write them.
    """
    text = quoted[0].replace("\n", "\\n").replace("\r", "\\r")
    return _PAIR.sub(lambda pair: pair[0] if pair[1] in _ESCAPES else "\\" + pair[0], text)


def dumps(value: Any) -> str:
    """JSON for arguments. Halves of surrogate pairs become question marks, because no response could be sent with
    them.
    """
    return json.dumps(value, ensure_ascii=False).encode(errors="replace").decode()


def _evaluate(node: ast.AST) -> Any:
    match node:
        case ast.Constant(value=value) if type(value) in _KINDS:
            return value
        case ast.Name(id=name) if name.lower() in _WORDS:
            return _WORDS[name.lower()]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_evaluate(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _evaluate(value) for key, value in zip(keys, values, strict=True)}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
    raise ValueError("no literal that JSON has")


def _key(node: ast.AST | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError("a key that is no text")


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
