"""The OpenAPI document. Bodies are parsed by :mod:`dovetail.server.protocol.body`, so their models are added here."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Response
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from dovetail.server.http.error_formats import AnthropicErrorResponse
from dovetail.server.http.errors import ErrorResponse

ErrorResponses = dict[int | str, dict[str, Any]]


def _error_responses(model: type[BaseModel]) -> ErrorResponses:
    return {
        "4XX": {"description": "The request is at fault", "model": model},
        "5XX": {"description": "The server is at fault", "model": model},
    }


ERROR_RESPONSES = _error_responses(ErrorResponse)
ANTHROPIC_ERROR_RESPONSES = _error_responses(AnthropicErrorResponse)
REF = "#/components/schemas/{model}"


def route_docs(
    body: type[BaseModel] | None,
    summary: str,
    *,
    streams: bool = False,
    media_type: str = "application/json",
    error_responses: ErrorResponses = ERROR_RESPONSES,
) -> dict[str, Any]:
    """Arguments of a route that document its body and its responses."""
    content: dict[str, Any] = {media_type: {"schema": {"type": "object" if media_type.endswith("json") else "string"}}}
    if streams:
        content["text/event-stream"] = {}
    takes: dict[str, Any] = {}
    if body is not None:
        schema = {"$ref": REF.format(model=body.__name__)}
        takes = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
    return {
        "summary": summary,
        # Without its own content type, the response under 200 is the only one.
        "response_class": Response,
        "responses": {200: {"description": "The answer", "content": content}, **error_responses},
        "openapi_extra": takes,
    }


def add_body_schemas(app: FastAPI, *bodies: type[BaseModel]) -> None:
    """Add the models of bodies to the app's OpenAPI document."""
    build_document = app.openapi

    def openapi() -> dict[str, Any]:
        document = build_document()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        if bodies[0].__name__ not in schemas:
            _, described = models_json_schema([(body, "validation") for body in bodies], ref_template=REF)
            schemas.update(described["$defs"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend the document
