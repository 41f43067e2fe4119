"""Reads the JSON body of a request into its model."""

from __future__ import annotations

import codecs
import json
import re
from email.message import Message
from typing import Any, TypeVar

import msgspec
from fastapi import Request
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from dovetail.server.http.disconnect import current_receive
from dovetail.server.http.errors import ApiError, describe
from dovetail.server.http.json_limits import MAX_VALUES, check_limits, check_raw_limits, value_limit
from dovetail.server.protocol.base import Body
from dovetail.server.protocol.extra_fields import handle_extra_fields
from dovetail.server.protocol.validation import validation_error
from dovetail.server.settings import ServerSettings

B = TypeVar("B", bound=Body)

JSON_TYPE = re.compile(r"application/(?:[\w.!#$&^-]+\+)?json")
FORM_TYPE = "application/x-www-form-urlencoded"
"""What curl says of a body unless it is told otherwise."""
READ_AT_ONCE_BYTES = 64 << 10
"""Larger bodies are read in a thread: their size is bounded, but their validation may take a second."""
SINGLE_BYTE_ENCODINGS = ("ascii", "iso8859-1", "iso8859-15", "cp1252")
"""Supported encodings of a body, by codec name, besides those of Unicode, which are detected from the bytes."""


async def read_body(request: Request, model: type[B]) -> B:
    """Read and validate a request.

    Raises:
        ApiError: the body is not JSON, or does not match the model.
    """
    raw = await read_bytes(request)
    context = request.app.state.context
    max_values = value_limit(context.engine.max_model_len)

    def read() -> B:
        return validate_body(decode_json_object(raw, max_values), model, context.settings)

    if len(raw) <= READ_AT_ONCE_BYTES:  # nearly always
        return read()
    body: B = await context.run_in_worker(read, len(raw))
    return body


async def read_json_object(request: Request) -> tuple[bytes, dict[str, Any]]:
    """Read a body that is a JSON object, which is not validated. Returns its text, too.

    Raises:
        ApiError: the body is not JSON, or a part of it is too large.
    """
    raw = await read_bytes(request)
    context = request.app.state.context
    max_values = value_limit(context.engine.max_model_len)
    if len(raw) <= READ_AT_ONCE_BYTES:
        return raw, decode_json_object(raw, max_values)
    return raw, await context.run_in_worker(lambda: decode_json_object(raw, max_values), len(raw))


async def read_bytes(request: Request) -> bytes:
    """Read a JSON body, converted to UTF-8.

    Raises:
        ApiError: the request has another content type, its text cannot be decoded, or its client disconnected.
    """
    # A web page of a stranger can send any other type to a local server without the browser asking first.
    header = request.headers.get("content-type", "")
    kind, _, parameters = header.partition(";")
    kind = kind.strip().lower()
    if not JSON_TYPE.fullmatch(kind):
        found = f"found {describe(kind)}" if kind else "found none"
        hint = "; with curl, add -H 'Content-Type: application/json'" if kind == FORM_TYPE else ""
        raise ApiError(415, f"wanted the header Content-Type: application/json, {found}{hint}")
    try:
        raw = await request.body()
    except ClientDisconnect:
        raise ApiError(499, "the client left before its request was complete") from None
    current_receive.set(request.receive)
    return to_utf8(raw, _charset(header) if parameters else "")


def _charset(content_type: str) -> str:
    message = Message()
    message["content-type"] = content_type
    found = message.get_param("charset")
    return found if isinstance(found, str) else ""


def to_utf8(raw: bytes, charset: str = "") -> bytes:
    """Convert JSON from UTF-8, UTF-16 or UTF-32, with or without a byte-order mark, to UTF-8 without one.

    Args:
        charset: the client's name of the encoding. It is only used if the bytes are not Unicode, because the bytes are
            more reliable.

    Raises:
        ApiError: the text cannot be decoded.
    """
    encoding = json.detect_encoding(raw)
    if encoding == "utf-8":
        return raw if not charset or raw.isascii() else _from_single_byte(raw, charset)
    if encoding == "utf-8-sig":
        return raw.removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode(encoding).encode()
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None


def _from_single_byte(raw: bytes, charset: str) -> bytes:
    """Convert text that is not UTF-8 from the client's encoding. Returned unchanged if that is not supported."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        try:
            name = codecs.lookup(charset).name
            return raw.decode(name).encode() if name in SINGLE_BYTE_ENCODINGS else raw
        except (LookupError, ValueError):  # UnicodeDecodeError is a ValueError
            pass
    return raw


def decode_json_object(raw: bytes, max_values: int = MAX_VALUES) -> dict[str, Any]:
    """Decode a body that is a JSON object.

    Args:
        max_values: see :func:`~dovetail.server.http.json_limits.value_limit`.

    Raises:
        ApiError: it is not one, or a part of it is too large.
    """
    check_raw_limits(raw, max_values)
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


def validate_body(data: dict[str, Any], model: type[B], settings: ServerSettings) -> B:
    """Validate a JSON object against its model.

    Raises:
        ApiError: it does not match the model, or has a field that is refused.
    """
    try:
        body = model.model_validate(data)
    except ValidationError as error:
        raise validation_error(error) from None
    handle_extra_fields(body, settings)
    return body
