"""Errors that speak of the fields which the client sent, where its request was read into another form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dovetail.api.errors import RequestError
from dovetail.server.http.errors import ApiError

FieldNames = Sequence[tuple[re.Pattern[str], str]]
"""Fields, as patterns, and what they are called by the client."""


@contextmanager
def rename_error_fields(names: FieldNames) -> Iterator[None]:
    """Have errors call fields as the client does.

    Raises:
        ApiError: what was raised within.
    """
    try:
        yield
    except RequestError as error:
        raise _rename_fields(ApiError(400, str(error), param=error.param), names) from None
    except ApiError as error:
        raise _rename_fields(error, names) from None


def _rename_fields(error: ApiError, names: FieldNames) -> ApiError:
    if error.param is None:
        return error
    param = error.param
    for pattern, name in names:
        param = pattern.sub(name, param)
    message = error.message.replace(error.param, param)
    return ApiError(error.status, message, param=param, code=error.code, headers=error.headers)
