"""API errors: their types, and how each becomes a response. ``error_formats`` makes their JSON."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Scope

from dovetail.api.errors import DovetailError, EngineDeadError, RequestError
from dovetail.server.http.error_formats import anthropic_error, is_anthropic_route, openai_error
from dovetail.server.observe.request_records import current_request
from dovetail.utils import logs

logger = logging.getLogger("dovetail.server")

CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
RESTART_RETRY_SECONDS = 5
"""Retry-After while the engine restarts. Loading takes longer for large models, so clients may retry several times."""


class ErrorObject(BaseModel):
    """The error."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """The body of every error response."""

    error: ErrorObject


class ApiError(Exception):
    """An error that becomes an HTTP response.

    Args:
        status: the HTTP status.
        message: what was wanted, what was found, and what to do.
        param: the request field at fault.
        code: an error code for programs; OpenAI's where it has one.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers

    def body(self, scope: Scope | None = None) -> bytes:
        """The error object in JSON, in the format of the request's route."""
        if scope is not None and is_anthropic_route(scope):
            return anthropic_error(self.status, self.message, self.param)
        return openai_error(self.status, self.message, self.param, self.code)

    def event(self, scope: Scope) -> bytes:
        """The event that ends a stream with this error."""
        name = b"event: error\n" if is_anthropic_route(scope) else b""
        return name + b"data: " + self.body(scope) + b"\n\n"

    def response(self, scope: Scope) -> Response:
        """The error response. The request's line in the log includes the error."""
        if (record := current_request.get()) is not None:
            record.error, record.error_code = self.message, self.code or ""
        return Response(self.body(scope), self.status, self.headers, media_type="application/json")


def engine_dead_error(reason: str = "") -> ApiError:
    """The error when the engine has ended."""
    because = f": {reason}" if reason else ""
    record = current_request.get()
    id = f"; the request id is {record.id}" if record is not None else ""
    return ApiError(503, f"the engine is not running{because}{id}", code="engine_dead")


def engine_error(problem: str | None) -> ApiError:
    """The error when the engine could not finish a request. It is logged with the request's id."""
    record = current_request.get()
    request_id = record.id if record is not None else ""
    logger.error("request %s failed in the engine: %s", request_id or "(no id)", problem)
    message = f"{problem or 'the engine could not finish this request'}; the request id is {request_id}"
    return ApiError(500, message, code="engine_error")


def engine_restarting_error(reason: str) -> ApiError:
    """The error while the engine restarts and loads the model."""
    message = f"the engine died and is being started again: {reason}"
    return ApiError(503, message, code="engine_restarting", headers={"Retry-After": str(RESTART_RETRY_SECONDS)})


def engine_sleeping_error() -> ApiError:
    """The error while the engine sleeps."""
    return ApiError(503, "the engine sleeps; wake it with POST /wake_up", code="engine_sleeping")


def queue_full_error(limit: int, seconds: int) -> ApiError:
    """The error when too many requests wait."""
    message = f"{limit} requests may wait (--max-num-queued-requests), and no more; try again in about {seconds} s"
    return ApiError(429, message, code="queue_full", headers={"Retry-After": str(seconds)})


def server_stopping_error() -> ApiError:
    """The error when the server is shutting down."""
    message = "the server is stopping; try again later"
    # So that the next attempt finds another server, where a balancer knows of one.
    return ApiError(503, message, code="server_stopping", headers={"Connection": "close"})


def to_api_error(error: BaseException, request_id: str = "") -> ApiError:
    """The ApiError for any exception. An exception that is not the client's fault is logged, and its details are not
    sent.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        return ApiError(400, str(error), param=error.param)
    if isinstance(error, EngineDeadError):
        return engine_dead_error(error.problem)
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail), headers=error.headers)
    if isinstance(error, DovetailError):  # a plugin's fault, which it names
        logs.report_fault(error, f"request {request_id or '(no id)'} failed", "dovetail.server")
    else:
        logger.error("request %s failed", request_id or "(no id)", exc_info=error)
    return ApiError(500, f"internal error; the server's log has it under the request id {request_id}")


def describe(value: Any, limit: int = 60) -> str:
    """A JSON value in a few words."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, str):
        return repr(value if len(value) <= limit else value[:limit] + "…")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    # A huge integer cannot be turned into decimal digits at all.
    text = hex(value) if isinstance(value, int) and value.bit_length() > 256 else str(value)
    return text if len(text) <= limit else text[:limit] + "…"
