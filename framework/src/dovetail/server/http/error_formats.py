"""The error objects of the two APIs: OpenAI's, and Anthropic's on its own routes."""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import BaseModel
from starlette.types import Scope

from dovetail.server.asgi_scope import route_path

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
RATE_LIMIT = "rate_limit_error"
ANTHROPIC_PREFIX = "/v1/messages"
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: RATE_LIMIT,
    503: "overloaded_error",
    529: "overloaded_error",
}
"""Status → error type. Other 4xx are ``invalid_request_error``, other 5xx ``api_error``."""


class AnthropicErrorObject(BaseModel):
    """The error."""

    type: str
    message: str


class AnthropicErrorResponse(BaseModel):
    """The body of every error response on Anthropic's routes."""

    type: str
    error: AnthropicErrorObject


def is_anthropic_route(scope: Scope) -> bool:
    """Whether a request is for one of Anthropic's routes."""
    path = route_path(scope)
    return path == ANTHROPIC_PREFIX or path.startswith(ANTHROPIC_PREFIX + "/")


def openai_error(status: int, message: str, param: str | None, code: str | None) -> bytes:
    """OpenAI's error object."""
    kind = SERVER_ERROR if status >= 500 else RATE_LIMIT if status == 429 else INVALID_REQUEST
    error = {"message": message, "type": kind, "param": param, "code": code}
    return msgspec.json.encode({"error": error})


def anthropic_error(status: int, message: str, param: str | None = None) -> bytes:
    """Anthropic's error object. It has no field for a parameter or a code."""
    kind = ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else INVALID_REQUEST)
    error: dict[str, Any] = {"type": kind, "message": message}
    if param == "thread":  # where they read this, Anthropic's clients send the whole conversation instead
        error["details"] = {"error_code": "thread_unsupported_request", "unsupported": [param]}
    return msgspec.json.encode({"type": "error", "error": error})
