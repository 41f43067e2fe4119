"""Reads the JSON body of a request into its model."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from fastapi import Request
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from dovetail.server.http.errors import ApiError, describe
from dovetail.server.http.json_limits import check_limits
from dovetail.server.protocol.requests import Body, ChatCompletionRequest, ChatMessage
from dovetail.server.protocol.unsupported import UNSUPPORTED, UNSUPPORTED_IN_MESSAGES, drop_neutral_fields
from dovetail.server.protocol.validation import validation_error

logger = logging.getLogger("dovetail.server")

B = TypeVar("B", bound=Body)

JSON_TYPE = re.compile(r"application/(?:[\w.!#$&^-]+\+)?json")
FORM_TYPE = "application/x-www-form-urlencoded"
"""What curl says of a body unless it is told otherwise."""


async def read_body(request: Request, model: type[B]) -> B:
    """Read and check a request.

    Raises:
        ApiError: the body is not JSON, or not what the model describes.
    """
    data = decode_json_object(await read_bytes(request))
    return validate_body(data, model, lenient=request.app.state.context.settings.ignore_unsupported_parameters)


async def read_bytes(request: Request) -> bytes:
    """Read what should be JSON.

    Raises:
        ApiError: the request says that it is something else, or its client left.
    """
    # A web page of a stranger can send any other type to a local server without the browser asking first.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not JSON_TYPE.fullmatch(kind):
        found = f"found {describe(kind)}" if kind else "found none"
        hint = "; with curl, add -H 'Content-Type: application/json'" if kind == FORM_TYPE else ""
        raise ApiError(415, f"wanted the header Content-Type: application/json, {found}{hint}")
    try:
        return await request.body()
    except ClientDisconnect:
        raise ApiError(499, "the client left before its request was complete") from None


def decode_json_object(raw: bytes) -> dict[str, Any]:
    """The JSON object that a body is.

    Raises:
        ApiError: it is none, or a part of it is too large.
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
    return data


def validate_body(data: dict[str, Any], model: type[B], *, lenient: bool = False) -> B:
    """Turn a JSON object into its model.

    Args:
        lenient: pass over what the model does not have, instead of refusing it.

    Raises:
        ApiError: it is not what the model describes.
    """
    data = drop_neutral_fields(data, model, UNSUPPORTED)
    if model is ChatCompletionRequest and isinstance(data.get("messages"), list):
        data["messages"] = list(map(_drop_neutral_message_fields, data["messages"]))
    while True:
        try:
            return model.model_validate(data)
        except ValidationError as error:
            # What stood before something unknown may keep it from being found at once.
            if not lenient or not _drop_unknown(data, error):
                raise validation_error(error) from None


def _drop_unknown(data: dict[str, Any], error: ValidationError) -> bool:
    """Take fields out that no model has; whether there were any."""
    found = [first["loc"] for first in error.errors(include_url=False) if first["type"] == "extra_forbidden"]
    return sum(_drop(data, place) for place in found) > 0


def _drop(data: Any, place: tuple[int | str, ...]) -> bool:
    *outer, name = place
    for part in outer:
        # Of the forms that a field may have, each refuses what the others have.
        if isinstance(part, str) and part[:1].isupper():
            return False
        inside = isinstance(part, int) if isinstance(data, list) else part in data
        # Some parts name the kind of an object, and no field.
        if inside and isinstance(data[part], dict | list):
            data = data[part]
    if not isinstance(data, dict) or data.pop(name, data) is data:
        return False
    _log_ignored(describe(name))
    return True


@lru_cache(maxsize=256)
def _log_ignored(name: str) -> None:
    """Log it, once."""
    logger.warning("the parameter %s of a request is ignored: it is unknown, or not supported yet", name)


def _drop_neutral_message_fields(message: Any) -> Any:
    return drop_neutral_fields(message, ChatMessage, UNSUPPORTED_IN_MESSAGES) if isinstance(message, dict) else message
