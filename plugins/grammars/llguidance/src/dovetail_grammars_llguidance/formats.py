"""Formats of structural tags: xgrammar's, which vLLM uses, and the older notation, which is converted to one of
them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from dovetail.api import GrammarSource
from dovetail_grammars_llguidance.errors import grammar_error, read_json

EXAMPLE = 'for example {"format": {"type": "tag", "begin": "<f>", "content": {"type": "json_schema", "json_schema": {}}, "end": "</f>"}}'
BY_TOKEN = "write a special token as its text, in a const_string or a tag"
UNSUPPORTED = {
    **dict.fromkeys(("token", "exclude_token", "any_tokens", "token_triggered_tags", "token_dispatch"), BY_TOKEN),
    "dispatch": "write triggered_tags",
    "qwen_xml_parameter": "write a sequence with a tag for each parameter",
}
"""xgrammar's types that are not supported, and what to use instead."""
NonEmptyStr = Annotated[str, Field(min_length=1)]
Schema = dict[str, Any] | bool


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ConstString(Part):
    type: Literal["const_string"]
    value: str


class JsonSchema(Part):
    type: Literal["json_schema"]
    json_schema: Schema
    style: Literal["json"] = "json"
    any_order: Literal[False] = False


class Regex(Part):
    type: Literal["regex"]
    pattern: str


class GrammarText(Part):
    type: Literal["grammar"]
    grammar: str


class AnyText(Part):
    """Any text, up to what follows it or to the end of the output."""

    type: Literal["any_text"]
    excludes: list[NonEmptyStr] = []


class Sequence(Part):
    type: Literal["sequence"]
    elements: list[Format] = Field(min_length=1)


class Either(Part):
    type: Literal["or"]
    elements: list[Format] = Field(min_length=1)


class Optional(Part):
    type: Literal["optional"]
    content: Format


class Star(Part):
    type: Literal["star"]
    content: Format


class Plus(Part):
    type: Literal["plus"]
    content: Format


class Repeat(Part):
    """A repetition; ``max`` is -1 for no limit."""

    type: Literal["repeat"]
    min: int = Field(ge=0, le=10_000)
    max: int = Field(ge=-1, le=10_000)
    content: Format


class Tag(Part):
    type: Literal["tag"] = "tag"
    begin: str
    content: Format
    end: str | Annotated[list[str], Field(min_length=1)]


class TriggeredTags(Part):
    """Any text. After a trigger, one of the tags must follow; each tag begins with a trigger."""

    type: Literal["triggered_tags"]
    triggers: list[NonEmptyStr] = Field(min_length=1)
    tags: list[Tag] = Field(min_length=1)
    at_least_one: bool = False
    stop_after_first: bool = False
    excludes: list[NonEmptyStr] = []


class TagsWithSeparator(Part):
    type: Literal["tags_with_separator"]
    tags: list[Tag] = Field(min_length=1)
    separator: str
    at_least_one: bool = False
    stop_after_first: bool = False


Format = Annotated[
    ConstString
    | JsonSchema
    | Regex
    | GrammarText
    | AnyText
    | Sequence
    | Either
    | Optional
    | Star
    | Plus
    | Repeat
    | Tag
    | TriggeredTags
    | TagsWithSeparator,
    Field(discriminator="type"),
]
TYPES = [get_args(part.model_fields["type"].annotation)[0] for part in get_args(get_args(Format)[0])]


class StructuralTag(Part):
    type: Literal["structural_tag"] = "structural_tag"
    format: Format


class Structure(Part):
    begin: str
    schema_: Schema = Field(alias="schema")
    end: str


class LegacyStructuralTag(Part):
    type: Literal["structural_tag"] = "structural_tag"
    structures: list[Structure] = Field(min_length=1)
    triggers: list[NonEmptyStr] = Field(min_length=1)


for part in (Sequence, Either, Optional, Star, Plus, Repeat, Tag, TriggeredTags, TagsWithSeparator, StructuralTag):
    part.model_rebuild()


def read(source: GrammarSource) -> Format:
    """Parse the format of a structural tag.

    Raises:
        RequestError: the text is not a structural tag; says where.
    """
    value = read_json(source)
    if not (isinstance(value, dict) and ("format" in value or "structures" in value)):
        raise grammar_error(source, "wanted an object with format, or with structures and triggers", EXAMPLE)
    try:
        if "format" in value:
            return StructuralTag.model_validate(value).format
        return _upgrade_legacy(LegacyStructuralTag.model_validate(value))
    except ValidationError as error:
        raise grammar_error(source, _reason(value, error.errors(include_url=False)[0])) from None


def _upgrade_legacy(older: LegacyStructuralTag) -> TriggeredTags:
    tags = [
        Tag(begin=part.begin, content=JsonSchema(type="json_schema", json_schema=part.schema_), end=part.end)
        for part in older.structures
    ]
    return TriggeredTags(type="triggered_tags", triggers=older.triggers, tags=tags)


def _reason(value: Any, error: ErrorDetails) -> str:
    """The place of an error, and its reason."""
    place, at, told = "", value, True
    for step in error["loc"]:
        if isinstance(step, int):
            place += f"[{step}]"
            at, told = at[step], False
        elif isinstance(at, dict) and step == at.get("type") and not told:
            told = True  # to pydantic, the type of a format is a step of its own
        elif isinstance(at, dict):
            place += f".{step}" if place else step
            at, told = at.get(step), False
    if error["type"].startswith("recursion_"):
        return f"{place[:80]}… nests too deep"
    if error["type"] == "union_tag_not_found":
        return f"{place}: wanted an object with type, one of {', '.join(TYPES)}"
    if error["type"] == "union_tag_invalid":
        return f"{place}: {_unknown(error['ctx']['tag'])}"
    return f"{place}: {error['msg']}"


def _unknown(found: str) -> str:
    if found in UNSUPPORTED:
        return f"{found} is not supported: {UNSUPPORTED[found]}"
    return f"wanted the type to be one of {', '.join(TYPES)}, found {found[:40]!r}"
