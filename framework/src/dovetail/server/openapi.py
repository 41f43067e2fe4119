"""The description of the API. Bodies are parsed by :mod:`dovetail.server.body`, so FastAPI is told of them here."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from dovetail.server.errors import ErrorResponse

FAILURES: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request is at fault", "model": ErrorResponse},
    "5XX": {"description": "The server is at fault", "model": ErrorResponse},
}
REF = "#/components/schemas/{model}"


def documented(body: type[BaseModel], summary: str, *, streams: bool = False) -> dict[str, Any]:
    """Arguments of a route: what it takes, and what it can answer."""
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    schema = {"$ref": REF.format(model=body.__name__)}
    return {
        "summary": summary,
        "responses": {
            200: {"description": "The answer", "content": content},
            **FAILURES,
        },
        "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
    }


def describe_bodies(app: FastAPI, *bodies: type[BaseModel]) -> None:
    """Add the models of bodies to the app's OpenAPI document."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        if bodies[0].__name__ not in schemas:
            _, described = models_json_schema([(body, "validation") for body in bodies], ref_template=REF)
            schemas.update(described["$defs"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend the document
