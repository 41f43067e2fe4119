"""``/v1/responses``: OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from dovetail.server.context import ServerContext
from dovetail.server.generate.job_builder import make_job
from dovetail.server.generate.response_builders import json_response, request_id_taken_error, respond
from dovetail.server.http.error_fields import rename_error_fields
from dovetail.server.http.errors import ApiError, describe
from dovetail.server.http.openapi import ERROR_RESPONSES, route_docs
from dovetail.server.protocol.body import read_body
from dovetail.server.responses.background import BackgroundResponses, BackgroundStreamResponse
from dovetail.server.responses.chat_request import FIELD_NAMES, render_prompt, to_chat_request
from dovetail.server.responses.items import Item, build_item, build_message_item
from dovetail.server.responses.protocol import ItemReference, ResponsesRequest
from dovetail.server.responses.response_builder import ResponsesResponseBuilder, response_id
from dovetail.server.stored.database import StoreUnavailableError
from dovetail.server.stored.pagination import After, Limit, Order, read_paging, slice_page
from dovetail.server.stored.store import UNFINISHED, MissingError

BODIES = (ResponsesRequest,)


def router(context: ServerContext) -> APIRouter:
    """The routes of the Responses API."""
    routes = APIRouter(tags=["generate"])
    background = BackgroundResponses(context)
    store = context.response_store

    @routes.post("/v1/responses", **route_docs(ResponsesRequest, "Answer a conversation, and keep it", streams=True))
    async def create_response(request: Request) -> Response:
        body = await read_body(request, ResponsesRequest)
        model, adapter = context.select_model(body.model)
        context.require_task("generate")
        store_response = await _should_store(context, body)
        input_items = await _input_items(context, body)
        items = await _previous_items(context, body) + input_items
        chat = await context.convert(lambda: to_chat_request(body, items), len(items))
        with rename_error_fields(FIELD_NAMES):
            prompt, parsing, images = await render_prompt(context, body, chat)
            job = await make_job(context, chat, [prompt], adapter, parsing, images)
        builder = ResponsesResponseBuilder(
            context, body, job, model, parsing, input_items, store_response=store_response
        )
        if body.background:
            response = await background.start(builder)
            return (
                BackgroundStreamResponse(context, background.follow(builder.id, -1))
                if body.stream
                else json_response(response)
            )
        return await respond(context, request, builder, stream=bool(body.stream))

    @routes.post("/v1/responses/input_tokens", **route_docs(ResponsesRequest, "The tokens of a conversation"))
    async def count_input_tokens(request: Request) -> Response:
        body = await read_body(request, ResponsesRequest)
        context.select_model(body.model)
        items = await _previous_items(context, body) + await _input_items(context, body)
        chat = await context.convert(lambda: to_chat_request(body, items), len(items))
        with rename_error_fields(FIELD_NAMES):
            prompt = (await render_prompt(context, body, chat)).ids
        return json_response({"object": "response.input_tokens", "input_tokens": len(prompt)})

    @routes.get("/v1/responses/{id}", **route_docs(None, "A response that was kept", streams=True))
    async def get_response(
        id: str,
        stream: Annotated[
            str, Query(description="true follows a response that is streamed in the background")
        ] = "false",
        starting_after: Annotated[
            str, Query(description="the number of the event after which to go on, with stream")
        ] = "",
    ) -> Response:
        if _read_stream_flag(stream):
            after = _read_starting_after(starting_after)
            with _translate_missing():
                _, event_batches = await store.events_after(id, -1)
            if not event_batches:
                error = f"the response {id!r} has no stream to follow; only those have that were made with background and stream"
                raise ApiError(400, error, param="stream", code="invalid_value")
            return BackgroundStreamResponse(context, background.follow(id, after), after)
        if starting_after:
            error = "starting_after needs stream=true: it is the events of a stream that have numbers"
            raise ApiError(400, error, param="starting_after", code="invalid_value")
        if (response := await store.get(id)) is None:
            raise _not_found_error(id)
        return Response(response, media_type="application/json")

    @routes.delete("/v1/responses/{id}", summary="Forget a response", responses=ERROR_RESPONSES)
    async def delete_response(id: str) -> Response:
        if not await store.delete(id):
            raise _not_found_error(id)
        background.stop(id)
        return json_response({"id": id, "object": "response", "deleted": True})

    @routes.post("/v1/responses/{id}/cancel", summary="End a response in the background", responses=ERROR_RESPONSES)
    async def cancel_response(id: str) -> Response:
        if (response := await store.cancel(id)) is None:
            raise _not_found_error(id)
        if not response["background"]:
            error = f"the response {id!r} does not run in the background; only those that do can be cancelled"
            raise ApiError(400, error, param="response_id", code="invalid_value")
        background.stop(id)
        return json_response(response)

    @routes.get("/v1/responses/{id}/input_items", summary="What a response was made of", responses=ERROR_RESPONSES)
    async def list_input_items(
        id: str,
        after: After = "",
        limit: Limit = "20",
        order: Order = "desc",
    ) -> Response:
        paging = read_paging(after, limit, order)
        with _translate_missing():
            *earlier, last = await store.chain(id)
        items = [item for stored in earlier for item in (*stored.input, *stored.response["output"])] + last.input
        return json_response(slice_page(items, paging))

    return routes


async def _should_store(context: ServerContext, body: ResponsesRequest) -> bool:
    """Whether to store the response.

    Raises:
        ApiError: storing was requested but is not possible.
    """
    if body.background and body.store is False:
        raise ApiError(400, "background needs store, which is false", param="background", code="invalid_value")
    if body.store or body.background:
        context.require_store()
    elif not context.store.max_answers:
        return False
    if body.store is False:
        return False
    if body.request_id is not None:
        with suppress(StoreUnavailableError):  # it is tried again when there is a response
            if await context.response_store.get(response_id(body)) is not None:
                raise request_id_taken_error(body, "response")
    return True


async def _input_items(context: ServerContext, body: ResponsesRequest) -> list[Item]:
    """The input items of a request.

    Raises:
        ApiError: an item reference does not exist.
    """
    if isinstance(body.input, str):
        return [build_message_item("user", body.input)]
    requested = [item.id for item in body.input if isinstance(item, ItemReference)]
    found = await context.response_store.find_items(requested) if requested else {}
    if missing := next((id for id in requested if id not in found), None):
        raise ApiError(404, f"there is no item {missing[:200]!r}", param="input", code="not_found")
    return [found[item.id] if isinstance(item, ItemReference) else build_item(item) for item in body.input]


async def _previous_items(context: ServerContext, body: ResponsesRequest) -> list[Item]:
    """The items of the previous responses that a request continues.

    Raises:
        ApiError: one of them was deleted, or is not finished.
    """
    if body.previous_response_id is None:
        return []
    param = "previous_response_id"
    try:
        chain = await context.response_store.chain(body.previous_response_id)
    except MissingError as error:
        message = f"there is no previous response {error.id[:200]!r} (any more)"
        raise ApiError(404, message, param=param, code="previous_response_not_found") from None
    if (status := chain[-1].response["status"]) in UNFINISHED:
        message = f"the previous response is {status}; wait until it has ended"
        raise ApiError(400, message, param=param, code="invalid_value")
    return [item for stored in chain for item in (*stored.input, *stored.response["output"])]


def _not_found_error(id: str) -> ApiError:
    return ApiError(404, f"there is no response {id[:200]!r} (any more)", param="response_id", code="not_found")


@contextmanager
def _translate_missing() -> Iterator[None]:
    """Context manager: a missing response becomes the error that clients get."""
    try:
        yield
    except MissingError as error:
        raise _not_found_error(error.id) from None


def _read_stream_flag(stream: str) -> bool:
    if (value := stream.lower()) not in ("true", "1", "false", "0"):
        raise ApiError(
            400, f"stream: wanted true or false, found {describe(stream)}", param="stream", code="invalid_value"
        )
    return value in ("true", "1")


def _read_starting_after(after: str) -> int:
    """The event number in ``starting_after``; -1 for all events."""
    if not after:
        return -1
    if not (after.isascii() and after.isdecimal() and len(after) < 10):
        message = f"starting_after: wanted the number of an event, found {describe(after)}"
        raise ApiError(400, message, param="starting_after", code="invalid_value")
    return int(after)
