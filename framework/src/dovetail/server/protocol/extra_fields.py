"""Fields of a request that its model does not have: refused, or passed over and named.

Clients send back what they were given by whichever server answered before, so that fields which nobody knows are passed over.
What is known and cannot be had is refused: an answer without it is not what was asked for.
"""

from __future__ import annotations

import logging
import re
import types
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel

from dovetail.server.http.errors import ApiError, describe
from dovetail.server.observe.request_records import current_request
from dovetail.server.protocol.base import Body
from dovetail.server.protocol.unsupported import is_planned, neutral_values
from dovetail.server.protocol.validation import field_path
from dovetail.server.settings import ServerSettings

logger = logging.getLogger("dovetail.server")

Place = tuple[str | int, ...]
MAX_NAMES = 64
"""Names that are remembered of one request."""
MAX_LOGGED = 256
"""Names that the log is told, since clients may make up any number of them."""
MAX_NAME_CHARS = 64
_logged: set[str] = set()


class ExtraField(NamedTuple):
    """One field that a model does not have, and what leads to it: names, and places in lists."""

    place: Place
    value: Any


def handle_extra_fields(body: Body, settings: ServerSettings) -> None:
    """Take out of a body what its models do not have, and name it in the log and in the record of the request.

    Raises:
        ApiError: a field is known and cannot be had, or none may be unknown.
    """
    for place, value in _take(body, ()):
        if value is None or any(_equal_in_json(value, nothing) for nothing in neutral_values(place)):
            continue
        path = field_path(place)
        if is_planned(place):
            if not settings.ignore_unsupported_parameters:
                message = f"{path} is not supported yet; leave it out"
                raise ApiError(400, message, param=path, code="unsupported_parameter")
        elif settings.strict_parameters:
            message = f"unknown parameter {field_path([*place[:-1], describe(place[-1])])}"
            raise ApiError(400, message, param=path, code="unknown_parameter")
        _note(place)


def _take(value: Any, place: Place) -> Iterator[ExtraField]:
    """The extra fields of a value and of what it holds; its models lose them."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _take(item, (*place, index))
    elif isinstance(value, BaseModel):
        if extra := value.__pydantic_extra__:
            yield from [ExtraField((*place, name), found) for name, found in extra.items()]
            extra.clear()
        for field, name in _fields_with_models(type(value)):
            yield from _take(getattr(value, field), (*place, name))


@cache
def _fields_with_models(model: type[BaseModel]) -> tuple[tuple[str, str], ...]:
    """The fields that may hold models: their names here, and in JSON."""
    fields = model.model_fields.items()
    return tuple((name, field.alias or name) for name, field in fields if _holds_models(field.annotation))


def _holds_models(annotation: Any) -> bool:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return issubclass(annotation, BaseModel)
    return any(map(_holds_models, get_args(annotation)))


def _equal_in_json(value: Any, nothing: Any) -> bool:
    # In Python True == 1, in JSON it is not.
    return bool(value == nothing and isinstance(value, bool) == isinstance(nothing, bool))


def _note(place: Place) -> None:
    name = _name(place)
    if (record := current_request.get()) is not None and len(record.ignored) < MAX_NAMES:
        record.ignored[name] = None
    if name not in _logged and len(_logged) < MAX_LOGGED:
        _logged.add(name)
        logger.warning("the parameter %s of requests is ignored: it is unknown, or not supported yet", name)


def _name(place: Place) -> str:
    """A field in the form of ``messages[].mood``, of characters that a header and a line of the log can hold."""
    parts = ["[]" if isinstance(part, int) else f".{_sane(part)}" for part in place]
    return "".join(parts).removeprefix(".")


def _sane(name: str) -> str:
    shown = re.sub(r"[^\w$@:/-]", "?", name[:MAX_NAME_CHARS], flags=re.ASCII)
    return shown if len(name) <= MAX_NAME_CHARS else f"{shown}..."
