"""Reads the output format of a request: OpenAI's ``response_format``, vLLM's ``structured_outputs``, and its older
names.
"""

from __future__ import annotations

import json
from typing import Any

from dovetail.api.grammar import STRICT
from dovetail.engine.request.params import StructuredOutputs
from dovetail.server.http.errors import ApiError
from dovetail.server.protocol.requests import GenerationRequest, ResponseFormat, Structured

LEGACY_FIELDS = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "structural_tag": "structural_tag",
}
KINDS = ("json", "json_object", "regex", "choice", "grammar", "structural_tag")


def read_structured_outputs(body: GenerationRequest) -> StructuredOutputs | None:
    """The output format that a request asks for, under any of the names.

    Raises:
        ApiError: the request asks for more than one format, or a format is incomplete.
        RequestError: the format is not valid.
    """
    requested: dict[str, dict[str, Any]] = {}  # field of the request → what it says
    if body.response_format is not None and (found := _read_response_format(body.response_format)):
        requested["response_format"] = found
    if body.structured_outputs is not None:
        requested["structured_outputs"] = _read_structured(body.structured_outputs)
    for legacy_name, kind in LEGACY_FIELDS.items():
        if (value := getattr(body, legacy_name)) is not None:
            requested[legacy_name] = {kind: value}
    if len(requested) > 1:
        message = f"{' and '.join(requested)} each ask for a form of the answer; give one of them"
        raise ApiError(400, message, param=list(requested)[1], code="invalid_value")
    return StructuredOutputs(**next(iter(requested.values()))) if requested else None


def schema_text(schema: dict[str, Any] | bool, *, strict: bool) -> dict[str, Any] | str:
    """A schema for :class:`StructuredOutputs`; where it is strict, nothing of it may be left out."""
    if isinstance(schema, bool):
        return json.dumps(schema)
    return {**schema, STRICT: True} if strict else schema


def _read_structured(requested: Structured) -> dict[str, Any]:
    found = {
        kind: value
        for kind, value in requested.model_dump(by_alias=True, exclude_none=True).items()
        if not (kind == "json_object" and value is False)
    }
    if len(found) != 1:
        given = ", ".join(found) or "none"
        message = f"structured_outputs: wanted one of {', '.join(KINDS)}, found {given}"
        raise ApiError(400, message, param="structured_outputs", code="invalid_value")
    return found


def _read_response_format(requested: ResponseFormat) -> dict[str, Any]:
    if requested.type == "text":
        return {}
    if requested.type in ("json_object", "json_schema"):
        given = requested.json_schema or requested
        if given.schema_ is None:
            if requested.type == "json_schema" and requested.json_schema is None:
                raise _missing("json_schema")
            return {"json_object": True}
        return {"json": schema_text(given.schema_, strict=bool(given.strict))}
    if requested.format is None and (requested.structures is None or requested.triggers is None):
        raise _missing("structures and triggers" if requested.structures is None else "triggers")
    return {
        "structural_tag": requested.model_dump(include={"type", "format", "structures", "triggers"}, exclude_none=True)
    }


def _missing(what: str) -> ApiError:
    message = f"response_format: {what} is required with this type"
    return ApiError(400, message, param="response_format", code="missing_required_parameter")
