"""Unknown fields of a request: ignored and reported, or refused.

Clients send back fields that another server gave them, so unknown fields are ignored. Known but unsupported fields are
refused, because the response would not be what was requested.
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
MAX_FIELDS = 65_536
"""Maximum number of unknown fields in a request. Looking at each takes about 10 us."""
MAX_NAMES = 64
"""Maximum number of names that are stored for one request."""
MAX_LOGGED = 256
"""Maximum number of names in the log, because clients can invent any number of them."""
MAX_NAME_CHARS = 64
_logged: set[str] = set()


class ExtraField(NamedTuple):
    """One unknown field, and its path: names, and indices of lists."""

    place: Place
    value: Any


def handle_extra_fields(body: Body, settings: ServerSettings) -> None:
    """Remove unknown fields from a body, and report them in the log and in the request's record.

    Raises:
        ApiError: a field is known but unsupported, or unknown fields are not allowed.
    """
    for count, (place, value) in enumerate(_take(body, ())):
        if count == MAX_FIELDS:
            message = f"the body has more than {MAX_FIELDS} unknown fields, the limit"
            raise ApiError(400, message, code="unknown_parameter")
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
    """The unknown fields of a value and of its parts. They are removed from the models."""
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
    """The fields that may contain models: their names here, and in JSON."""
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
    """A field's name in the form ``messages[].mood``, with characters that a header and a log line can contain."""
    parts = ["[]" if isinstance(part, int) else f".{_sane(part)}" for part in place]
    return "".join(parts).removeprefix(".")


def _sane(name: str) -> str:
    shown = re.sub(r"[^\w$@:/-]", "?", name[:MAX_NAME_CHARS], flags=re.ASCII)
    return shown if len(name) <= MAX_NAME_CHARS else f"{shown}..."
