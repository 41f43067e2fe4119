"""Lists in pages, as in OpenAI's API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Query

from dovetail.server.http.errors import ApiError, describe

MAX_PAGE_SIZE = 100

After = Annotated[str, Query(description="the id of what the list goes on from")]
Limit = Annotated[str, Query(description=f"1 to {MAX_PAGE_SIZE}")]
Order = Annotated[str, Query(description="asc or desc")]


@dataclass(frozen=True)
class Paging:
    """Which page of a list to return.

    Attributes:
        after: the id of the last item of the previous page, or empty.
        limit: maximum number of items.
        descending: whether the newest items come first.
    """

    after: str
    limit: int
    descending: bool


def read_paging(after: str, limit: str, order: str) -> Paging:
    """Read the paging parameters of a request.

    Raises:
        ApiError: a parameter has an invalid value.
    """
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 10 and 1 <= int(limit) <= MAX_PAGE_SIZE):
        message = f"limit: wanted 1 to {MAX_PAGE_SIZE}, found {describe(limit)}"
        raise ApiError(400, message, param="limit", code="invalid_value")
    if order not in ("asc", "desc"):
        message = f"order: wanted asc or desc, found {describe(order)}"
        raise ApiError(400, message, param="order", code="invalid_value")
    return Paging(after, int(limit), order == "desc")


def slice_page(items: Sequence[dict[str, Any]], paging: Paging) -> dict[str, Any]:
    """One page of items with ids. The items are given oldest first.

    Raises:
        ApiError: the ``after`` item is not in the list.
    """
    if paging.descending:
        items = items[::-1]
    if paging.after:
        place = next((i for i, item in enumerate(items) if item["id"] == paging.after), None)
        if place is None:
            raise not_listed_error(paging.after)
        items = items[place + 1 :]
    data = items[: paging.limit]
    return build_page([item["id"] for item in data], data, has_more=len(items) > paging.limit)


def build_page(ids: Sequence[str], data: Sequence[Any], *, has_more: bool) -> dict[str, Any]:
    """The response body of a page.

    Args:
        ids: of the data.
    """
    ends = {"first_id": ids[0], "last_id": ids[-1]} if ids else {"first_id": "", "last_id": ""}
    return {"object": "list", "data": data, **ends, "has_more": has_more}


def not_listed_error(after: str) -> ApiError:
    """The error for an ``after`` item that is not in the list."""
    return ApiError(404, f"there is no {after[:200]!r} in this list", param="after", code="not_found")
