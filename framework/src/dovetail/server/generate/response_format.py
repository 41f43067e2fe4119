"""The form that an answer must have: OpenAI's ``response_format``, vLLM's ``structured_outputs`` and its older names for the same."""

from __future__ import annotations

from typing import Any

from dovetail.engine.request.params import StructuredOutputs
from dovetail.server.http.errors import ApiError
from dovetail.server.protocol.requests import GenerationRequest, ResponseFormat, Structured

OLDER = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "structural_tag": "structural_tag",
}
KINDS = ("json", "json_object", "regex", "choice", "grammar", "structural_tag")


def structured_outputs(body: GenerationRequest) -> StructuredOutputs | None:
    """What a request asks for, by whichever name.

    Raises:
        ApiError: it asks for more than one form, or for one that lacks a part.
        RequestError: the form is none.
    """
    asked: dict[str, dict[str, Any]] = {}  # field of the request → what it says
    if body.response_format is not None and (found := _of_format(body.response_format)):
        asked["response_format"] = found
    if body.structured_outputs is not None:
        asked["structured_outputs"] = _of_structured(body.structured_outputs)
    for older, kind in OLDER.items():
        if (value := getattr(body, older)) is not None:
            asked[older] = {kind: value}
    if len(asked) > 1:
        message = f"{' and '.join(asked)} each ask for a form of the answer; give one of them"
        raise ApiError(400, message, param=list(asked)[1], code="invalid_value")
    return StructuredOutputs(**next(iter(asked.values()))) if asked else None


def _of_structured(asked: Structured) -> dict[str, Any]:
    found = {
        kind: value
        for kind, value in asked.model_dump(by_alias=True, exclude_none=True).items()
        if not (kind == "json_object" and value is False)
    }
    if len(found) != 1:
        given = ", ".join(found) or "none"
        message = f"structured_outputs: wanted one of {', '.join(KINDS)}, found {given}"
        raise ApiError(400, message, param="structured_outputs", code="invalid_value")
    return found


def _of_format(asked: ResponseFormat) -> dict[str, Any]:
    if asked.type == "text":
        return {}
    if asked.type == "json_object":
        return {"json_object": True}
    if asked.type == "json_schema":
        if asked.json_schema is None:
            raise _missing("json_schema")
        return {"json": asked.json_schema.schema_}
    if asked.format is None and (asked.structures is None or asked.triggers is None):
        raise _missing("structures and triggers" if asked.structures is None else "triggers")
    return {"structural_tag": asked.model_dump(exclude_none=True)}


def _missing(what: str) -> ApiError:
    message = f"response_format: {what} is required with this type"
    return ApiError(400, message, param="response_format", code="missing_required_parameter")
