"""Renames fields in errors. A converted request (for example Responses to chat) must name the field that the client
sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dovetail.api.errors import RequestError
from dovetail.server.http.errors import ApiError

FieldNames = Sequence[tuple[re.Pattern[str], str]]
"""Patterns of field names, and the client's name for each."""


@contextmanager
def rename_error_fields(names: FieldNames) -> Iterator[None]:
    """Context manager that renames fields in every ApiError raised inside it.

    Raises:
        ApiError: the one that was raised inside, with the client's field names.
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
