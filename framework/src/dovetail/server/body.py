"""Reads the JSON body of a request into its model."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from fastapi import Request
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from dovetail.server.errors import ApiError, describe, invalid
from dovetail.server.limits import check_limits
from dovetail.server.protocol import Body, ChatCompletionRequest, ChatMessage
from dovetail.server.unsupported import NOT_YET, NOT_YET_IN_MESSAGES, known_fields

B = TypeVar("B", bound=Body)


async def read_body(request: Request, model: type[B]) -> B:
    """Read and check a request.

    Raises:
        ApiError: the body is not JSON, or not what the model describes.
    """
    # A web page of a stranger can send any other type to a local server without the browser asking first.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"wanted the header Content-Type: application/json, found {describe(kind)}")
    try:
        raw = await request.body()
    except ClientDisconnect:
        raise ApiError(499, "the client left before its request was complete") from None
    return parse(raw, model)


def parse(raw: bytes, model: type[B]) -> B:
    """Turn a body into its model.

    Raises:
        ApiError: as :func:`read_body`.
    """
    try:
        data = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ApiError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise ApiError(400, "the body is JSON nested too deeply", code="invalid_json") from None
    if not isinstance(data, dict):
        raise ApiError(400, f"wanted a JSON object, found {describe(data)}", code="invalid_json")
    check_limits(raw, data)
    return check(data, model)


def check(data: dict[str, Any], model: type[B]) -> B:
    """Turn a JSON object into its model.

    Raises:
        ApiError: it is not what the model describes.
    """
    data = known_fields(data, model, NOT_YET)
    if model is ChatCompletionRequest and isinstance(data.get("messages"), list):
        data["messages"] = [_message(message, i) for i, message in enumerate(data["messages"])]
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise invalid(error) from None


def _message(message: Any, index: int) -> Any:
    if not isinstance(message, dict):
        return message
    return known_fields(message, ChatMessage, NOT_YET_IN_MESSAGES, f"messages[{index}].")
