"""Converts pydantic's errors about a body to the error for its first fault."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dovetail.server.http.errors import ApiError, describe


def validation_error(error: ValidationError) -> ApiError:
    """The error for the first field that the model refused."""
    first = _most_specific(error.errors(include_url=False))
    param = field_path([part for part in first["loc"] if not _is_alternative(part)])
    what = param or "the body"
    if first["type"] == "missing":
        return ApiError(400, f"{what} is required", param=param or None, code="missing_required_parameter")
    if first["type"] in ("too_short", "string_too_short"):
        return ApiError(400, f"{what} is empty", param=param, code="invalid_value")
    wanted = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    message = f"{what}: wanted {wanted}, found {describe(first['input'])}"
    return ApiError(400, message, param=param or None, code="invalid_value")


def field_path(place: Sequence[str | int]) -> str:
    """The path of a field, of names and list indices, as one name."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def _is_alternative(part: int | str) -> bool:
    """Whether a part of a path names an alternative of a union and not a field."""
    return isinstance(part, str) and (part[:1].isupper() or "[" in part or part in ("str", "int", "float", "bool"))


def _most_specific(found: list[ErrorDetails]) -> ErrorDetails:
    """The first validation error. For a field with alternatives: the error of the alternative that matches best (the
    longest path).
    """
    first = found[0]
    root = next((i for i, part in enumerate(first["loc"]) if _is_alternative(part)), None)
    if root is None:
        return first
    return max((other for other in found if other["loc"][:root] == first["loc"][:root]), key=lambda e: len(e["loc"]))
