"""Routes that read, list, change and delete stored chat completions."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import QueryParams

from dovetail.server.chat.recording import ChatUpdateRequest
from dovetail.server.context import ServerContext
from dovetail.server.generate.response_builders import json_response
from dovetail.server.http.errors import ApiError, describe
from dovetail.server.http.openapi import ERROR_RESPONSES, route_docs
from dovetail.server.protocol.body import read_body
from dovetail.server.stored.pagination import After, Limit, Order, build_page, not_listed_error, read_paging, slice_page
from dovetail.server.stored.store import MissingError

BODIES = (ChatUpdateRequest,)
PATH = "/v1/chat/completions"
LABEL = re.compile(r"metadata\[(.*)\]", re.DOTALL)
FILTER: dict[str, Any] = {
    "name": "metadata",
    "in": "query",
    "description": "only those with these labels: metadata[key]=value",
    "style": "deepObject",
    "schema": {"type": "object"},
}
"""FastAPI has no query parameters of this form."""


def router(context: ServerContext) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["generate"])
    chats = context.chat_store

    @routes.get(
        PATH, summary="The completions that are kept", responses=ERROR_RESPONSES, openapi_extra={"parameters": [FILTER]}
    )
    async def list_chats(
        request: Request,
        after: After = "",
        limit: Limit = "20",
        order: Order = "asc",
        model: Annotated[str, Query(description="only those of this model")] = "",
    ) -> Response:
        paging, labels = read_paging(after, limit, order), _labels(request.query_params)
        try:
            found, has_more = await chats.list_page(paging, model or None, labels)
        except MissingError as error:
            raise not_listed_error(error.id) from None
        return json_response(build_page(list(found), list(map(msgspec.Raw, found.values())), has_more=has_more))

    @routes.get(PATH + "/{id}", **route_docs(None, "A completion that is kept"))
    async def get_chat(id: str) -> Response:
        return _shown(id, await chats.get(id))

    @routes.post(PATH + "/{id}", **route_docs(ChatUpdateRequest, "Give a completion that is kept other metadata"))
    async def label_chat(id: str, request: Request) -> Response:
        body = await read_body(request, ChatUpdateRequest)
        return _shown(id, await chats.set_metadata(id, body.metadata or {}))

    @routes.delete(PATH + "/{id}", summary="Forget a completion", responses=ERROR_RESPONSES)
    async def delete_chat(id: str) -> Response:
        if not await chats.delete(id):
            raise _not_found_error(id)
        return json_response({"object": "chat.completion.deleted", "id": id, "deleted": True})

    @routes.get(PATH + "/{id}/messages", summary="What a completion answers", responses=ERROR_RESPONSES)
    async def list_messages(id: str, after: After = "", limit: Limit = "20", order: Order = "asc") -> Response:
        paging = read_paging(after, limit, order)
        if (messages := await chats.messages(id)) is None:
            raise _not_found_error(id)
        return json_response(slice_page(messages, paging))

    return routes


def _labels(query: QueryParams) -> list[tuple[str, str]]:
    """The metadata filter of a list request.

    Raises:
        ApiError: the filter has the wrong form.
    """
    labels = []
    for name, value in query.multi_items():
        if name.partition("[")[0] != "metadata":
            continue
        if (match := LABEL.fullmatch(name)) is None:
            message = f"metadata: wanted labels such as metadata[key]=value, found {describe(name)}"
            raise ApiError(400, message, param="metadata", code="invalid_value")
        labels.append((match[1], value))
    return labels


def _shown(id: str, chat: bytes | None) -> Response:
    if chat is None:
        raise _not_found_error(id)
    return Response(chat, media_type="application/json")


def _not_found_error(id: str) -> ApiError:
    message = f"there is no completion {id[:200]!r} (any more); those are kept that are made with store"
    return ApiError(404, message, param="completion_id", code="not_found")
