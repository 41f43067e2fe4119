"""Types of request fields, including those that accept several forms."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError


def _read_int(value: Any) -> Any:
    # JSON has one kind of number, so 16.0 is an integer to some clients.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _type_error(what: str) -> PydanticCustomError:
    return PydanticCustomError("wanted", "{what}", {"what": what})


def _read_stop(value: Any) -> list[str] | None:
    if isinstance(value, dict) and len(value) == 1 and next(iter(value)) in ("Single", "Multi", "Multiple"):
        value = next(iter(value.values()))
    if isinstance(value, str):
        value = [value]
    if value is None:
        return None
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return [part for part in value if part]  # an empty text ends nothing
    raise _type_error("a text or a list of texts")


def _read_arguments(value: Any) -> str | None:
    # Models write, and clients send back, whatever they like here; the chat template is given it as it is.
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_tool_choice(value: Any) -> Any:
    """A tool choice that is a word, which some clients put into an object. Some APIs have ``any`` for ``required``."""
    if isinstance(value, dict) and set(value) == {"type"}:
        value = value["type"]
    return "required" if value == "any" else value


def _read_prompt(value: Any) -> list[str] | list[list[int]]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(part, str) for part in value):
            return value
        if _are_ids(value):
            return [value]
        if all(isinstance(part, list) and part and _are_ids(part) for part in value):
            return value
    raise _type_error("a text, a list of texts, a list of token ids, or a list of lists of token ids")


def _read_texts(value: Any) -> list[str] | None:
    if isinstance(value, str):
        return [value]
    if value is None or (isinstance(value, list) and value and all(isinstance(part, str) for part in value)):
        return value
    raise _type_error("a text or a list of texts")


def _read_document(value: Any) -> Any:
    # Jina's and Cohere's clients may send objects.
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return value["text"]
    if isinstance(value, str):
        return value
    raise _type_error('a text, or {"text": "…"}')


def _read_count(value: Any) -> Any:
    # The chat route's field of this name is a flag, and some clients send its "no" here.
    return None if value is False else _read_int(value)


def _read_no(value: bool) -> bool:
    if value:
        raise _type_error("false")
    return value


def _read_json(value: Any) -> str | dict[str, Any] | None:
    if value is None or isinstance(value, str | dict):
        return value
    raise _type_error("a JSON object, or one as text")


def _are_ids(value: list[Any]) -> bool:
    return all(type(part) is int and part >= 0 for part in value)


_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}

Int = Annotated[int, BeforeValidator(_read_int)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Stop = Annotated[
    list[str] | None, PlainValidator(_read_stop), WithJsonSchema({"anyOf": [_TEXT, _TEXTS, {"type": "null"}]})
]
Arguments = Annotated[
    str | None,
    BeforeValidator(_read_arguments),
    Field(description="of a call: a JSON object as text; anything else goes to the chat template as it is"),
    WithJsonSchema({}),
]
Identifier = Annotated[Any, Field(description="an identifier; has no effect")]
Prompt = Annotated[
    list[str] | list[list[int]],
    PlainValidator(_read_prompt),
    WithJsonSchema(
        {"anyOf": [_TEXT, {**_TEXTS, "minItems": 1}, _IDS, {"type": "array", "items": _IDS, "minItems": 1}]}
    ),
]
Input = Annotated[
    list[str] | list[list[int]] | None,
    PlainValidator(lambda value: None if value is None else _read_prompt(value)),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                {**_TEXTS, "minItems": 1},
                _IDS,
                {"type": "array", "items": _IDS, "minItems": 1},
                {"type": "null"},
            ]
        }
    ),
]
Texts = Annotated[
    list[str] | None,
    PlainValidator(_read_texts),
    WithJsonSchema({"anyOf": [_TEXT, {**_TEXTS, "minItems": 1}, {"type": "null"}]}),
]
Document = Annotated[
    str,
    PlainValidator(_read_document),
    WithJsonSchema({"anyOf": [_TEXT, {"type": "object", "properties": {"text": _TEXT}, "required": ["text"]}]}),
]
Json = Annotated[
    str | dict[str, Any] | None,
    PlainValidator(_read_json),
    WithJsonSchema({"anyOf": [_TEXT, {"type": "object"}, {"type": "null"}]}),
]
Rank = Annotated[Int, Field(ge=-(2**31), lt=2**31)]
Count = Annotated[
    int | None,
    BeforeValidator(_read_count),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"const": False}, {"type": "null"}]}),
]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
"""Clients' labels of a stored response."""
No = Annotated[bool, AfterValidator(_read_no), WithJsonSchema({"const": False})]
"""False, but not 0, which a Literal treats as equal."""
