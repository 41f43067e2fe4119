"""Schemas that become a part of another."""

from __future__ import annotations

from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from dovetail.server.tools.forced_calls import calls_schema

NODE: dict[str, Any] = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
    "required": ["v"],
}


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": {"n": {"$ref": "#/$defs/Node"}}, "required": ["n"], "$defs": {"Node": NODE}},
        {
            "properties": {"n": {"$ref": "#/definitions/N"}},
            "required": ["n"],
            "definitions": {"N": {"type": "object", "required": ["v"]}},
        },
        {
            "properties": {"default": {"$ref": "#/$defs/Node"}, "n": {"$ref": "#/properties/default"}},
            "required": ["n"],
            "$defs": {"Node": NODE},
        },
        {"properties": {"n": {"$ref": "#node"}}, "required": ["n"], "$defs": {"Node": {**NODE, "$anchor": "node"}}},
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "$id": "http://example.com/tool",
            "properties": {"n": {"$ref": "http://example.com/tool#/$defs/Node"}},
            "required": ["n"],
            "$defs": {"Node": NODE},
        },
    ],
    ids=["$defs", "definitions", "properties", "anchor", "id"],
)
def test_references_of_parameters_lead_to_their_own_definitions(parameters: dict[str, Any]) -> None:
    other = {"properties": {"n": {"$ref": "#/$defs/Node"}}, "$defs": {"Node": {"type": "string", "$anchor": "node"}}}
    tools: list[Any] = [{"name": "a", "parameters": other}, {"name": "b", "parameters": parameters}]
    validator = jsonschema.Draft202012Validator(calls_schema(tools, parallel=True))

    def takes(name: str, arguments: Any) -> bool:
        return bool(validator.is_valid([{"name": name, "arguments": arguments}]))

    assert takes("b", {"n": {"v": 1}})
    assert not takes("b", {"n": {}})
    assert not takes("b", {"n": "x"})
    assert takes("a", {"n": "x"})
    assert not takes("a", {"n": {"v": 1}})


def test_a_reference_in_data_is_none() -> None:
    data = {"const": {"$ref": "#/x"}}
    tool: Any = {"name": "a", "parameters": {"properties": {"n": data, "m": {"$ref": "#"}}}}
    schema = calls_schema([tool], parallel=False)
    assert schema["$defs"]["arguments-0"]["properties"] == {"n": data, "m": {"$ref": "#/$defs/arguments-0"}}
