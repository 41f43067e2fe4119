"""``/v1/responses``: OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from dovetail.server.context import ServerContext
from dovetail.server.generate.answers import id_taken, json_response, respond
from dovetail.server.generate.job_builder import make_job
from dovetail.server.http.error_fields import in_own_words
from dovetail.server.http.errors import ApiError, describe
from dovetail.server.http.openapi import FAILURES, documented
from dovetail.server.protocol.body import read_body
from dovetail.server.responses.answer import ResponseAnswer, response_id
from dovetail.server.responses.background import Background, Followed
from dovetail.server.responses.chat_request import NAMES, chat_of, prompt_of
from dovetail.server.responses.items import Item, item_of, message
from dovetail.server.responses.protocol import ItemReference, ResponsesRequest
from dovetail.server.stored.pages import After, Limit, Order, page_of, read_paging
from dovetail.server.stored.store import UNFINISHED, MissingError

BODIES = (ResponsesRequest,)


def router(context: ServerContext) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["generate"])
    background = Background(context)
    store = context.responses

    @routes.post("/v1/responses", **documented(ResponsesRequest, "Answer a conversation, and keep it", streams=True))
    async def create_response(request: Request) -> Response:
        body = await read_body(request, ResponsesRequest)
        model, adapter = context.select(body.model)
        context.need_task("generate")
        keeps = await _keeps(context, body)
        given = await _given(context, body)
        chat = chat_of(body, await _earlier(context, body) + given)
        with in_own_words(NAMES):
            prompt, reading = await prompt_of(context, body, chat)
            job = make_job(context, chat, [prompt], adapter, reading)
        answer = ResponseAnswer(context, body, job, model, reading, given, keeps=keeps)
        if body.background:
            response = await background.start(answer)
            return Followed(context, background.follow(answer.id, -1)) if body.stream else json_response(response)
        return await respond(context, request, answer, stream=bool(body.stream))

    @routes.post("/v1/responses/input_tokens", **documented(ResponsesRequest, "The tokens of a conversation"))
    async def count_input_tokens(request: Request) -> Response:
        body = await read_body(request, ResponsesRequest)
        context.select(body.model)
        chat = chat_of(body, await _earlier(context, body) + await _given(context, body))
        with in_own_words(NAMES):
            prompt, _ = await prompt_of(context, body, chat)
        return json_response({"object": "response.input_tokens", "input_tokens": len(prompt)})

    @routes.get("/v1/responses/{id}", **documented(None, "A response that was kept", streams=True))
    async def get_response(
        id: str,
        stream: Annotated[
            str, Query(description="true follows a response that is streamed in the background")
        ] = "false",
        starting_after: Annotated[
            str, Query(description="the number of the event after which to go on, with stream")
        ] = "",
    ) -> Response:
        if _wants_stream(stream):
            after = _number(starting_after)
            with _found():
                _, told = await store.told(id, -1)
            if not told:
                error = f"the response {id!r} has no stream to follow; only those have that were made with background and stream"
                raise ApiError(400, error, param="stream", code="invalid_value")
            return Followed(context, background.follow(id, after))
        if starting_after:
            error = "starting_after needs stream=true: it is the events of a stream that have numbers"
            raise ApiError(400, error, param="starting_after", code="invalid_value")
        if (response := await store.get(id)) is None:
            raise _missing(id)
        return Response(response, media_type="application/json")

    @routes.delete("/v1/responses/{id}", summary="Forget a response", responses=FAILURES)
    async def delete_response(id: str) -> Response:
        if not await store.delete(id):
            raise _missing(id)
        background.stop(id)
        return json_response({"id": id, "object": "response", "deleted": True})

    @routes.post("/v1/responses/{id}/cancel", summary="End a response in the background", responses=FAILURES)
    async def cancel_response(id: str) -> Response:
        if (response := await store.cancel(id)) is None:
            raise _missing(id)
        if not response["background"]:
            error = f"the response {id!r} does not run in the background; only those that do can be cancelled"
            raise ApiError(400, error, param="response_id", code="invalid_value")
        background.stop(id)
        return json_response(response)

    @routes.get("/v1/responses/{id}/input_items", summary="What a response was made of", responses=FAILURES)
    async def list_input_items(
        id: str,
        after: After = "",
        limit: Limit = "20",
        order: Order = "desc",
    ) -> Response:
        paging = read_paging(after, limit, order)
        with _found():
            *earlier, last = await store.chain(id)
        items = [item for kept in earlier for item in (*kept.input, *kept.response["output"])] + last.input
        return json_response(page_of(items, paging))

    return routes


async def _keeps(context: ServerContext, body: ResponsesRequest) -> bool:
    """Whether the response is to be kept.

    Raises:
        ApiError: it is, and cannot be.
    """
    if body.background and body.store is False:
        raise ApiError(400, "background needs store, which is false", param="background", code="invalid_value")
    if body.store or body.background:
        context.need_store()
    elif not context.store.most:
        return False
    if body.store is False:
        return False
    if body.request_id is not None and await context.responses.get(response_id(body)) is not None:
        raise id_taken(body, "response")
    return True


async def _given(context: ServerContext, body: ResponsesRequest) -> list[Item]:
    """The items of a request.

    Raises:
        ApiError: there is no such item as one refers to.
    """
    if isinstance(body.input, str):
        return [message("user", body.input)]
    asked = [item.id for item in body.input if isinstance(item, ItemReference)]
    found = await context.responses.find_items(asked) if asked else {}
    if missing := next((id for id in asked if id not in found), None):
        raise ApiError(404, f"there is no item {missing[:200]!r}", param="input", code="not_found")
    return [found[item.id] if isinstance(item, ItemReference) else item_of(item) for item in body.input]


async def _earlier(context: ServerContext, body: ResponsesRequest) -> list[Item]:
    """The items of the responses that a request goes on from.

    Raises:
        ApiError: one of them is gone, or not finished.
    """
    if body.previous_response_id is None:
        return []
    param = "previous_response_id"
    try:
        chain = await context.responses.chain(body.previous_response_id)
    except MissingError as error:
        message = f"there is no previous response {error.id[:200]!r} (any more)"
        raise ApiError(404, message, param=param, code="previous_response_not_found") from None
    if (status := chain[-1].response["status"]) in UNFINISHED:
        message = f"the previous response is {status}; wait until it has ended"
        raise ApiError(400, message, param=param, code="invalid_value")
    return [item for kept in chain for item in (*kept.input, *kept.response["output"])]


def _missing(id: str) -> ApiError:
    return ApiError(404, f"there is no response {id[:200]!r} (any more)", param="response_id", code="not_found")


@contextmanager
def _found() -> Iterator[None]:
    """A response that is missing, as clients are told."""
    try:
        yield
    except MissingError as error:
        raise _missing(error.id) from None


def _wants_stream(stream: str) -> bool:
    if (value := stream.lower()) not in ("true", "1", "false", "0"):
        raise ApiError(
            400, f"stream: wanted true or false, found {describe(stream)}", param="stream", code="invalid_value"
        )
    return value in ("true", "1")


def _number(after: str) -> int:
    """That of an event; -1 for one before all."""
    if not after:
        return -1
    if not (after.isascii() and after.isdecimal() and len(after) < 10):
        message = f"starting_after: wanted the number of an event, found {describe(after)}"
        raise ApiError(400, message, param="starting_after", code="invalid_value")
    return int(after)
