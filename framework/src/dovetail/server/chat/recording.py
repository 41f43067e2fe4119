"""Stores finished chat completions of requests with ``store: true``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Request
from starlette.types import Scope

from dovetail.engine.request.outputs import Delta
from dovetail.engine.request.params import SamplingParams
from dovetail.server.chat.response_builder import ChatResponseBuilder
from dovetail.server.context import ServerContext
from dovetail.server.generate.response_builders import ResponseBuilder, request_id_taken_error
from dovetail.server.generate.run import Batches, Completion
from dovetail.server.generate.sse import StreamEncoder
from dovetail.server.http.errors import ApiError
from dovetail.server.protocol.base import Body
from dovetail.server.protocol.body import read_json_object, validate_body
from dovetail.server.protocol.content import content_text
from dovetail.server.protocol.fields import Metadata
from dovetail.server.protocol.requests import ChatCompletionRequest, ChatMessage


class ChatUpdateRequest(Body):
    """The body of ``POST /v1/chat/completions/ID``: the fields of a stored completion that can be changed."""

    metadata: Metadata | None


async def record_chat(
    context: ServerContext, request: Request, body: ChatCompletionRequest, builder: ChatResponseBuilder
) -> RecordingResponseBuilder:
    """Wrap a response builder so that the finished completion is stored.

    Raises:
        ApiError: it cannot be stored.
    """
    context.require_store()
    requested = validate_body({"metadata": body.metadata}, ChatUpdateRequest, context.settings)
    if body.request_id is not None and await context.chat_store.get(builder.id) is not None:
        raise request_id_taken_error(body, "completion")
    _, raw = await read_json_object(request)  # it has been read before
    messages = _messages(builder.id, body.messages, raw["messages"])
    shown = {"request_id": request.scope.get("request_id"), **_request_fields(body, builder.job.params)}
    return RecordingResponseBuilder(context, builder, messages, shown, requested.metadata or {})


class RecordingResponseBuilder(ResponseBuilder):
    """Builds a chat completion and stores it.

    Args:
        builder: builds the response that is sent.
        messages: the request's messages, as the API shows them.
        shown: further fields of the stored completion, without its metadata.
    """

    def __init__(
        self,
        context: ServerContext,
        builder: ChatResponseBuilder,
        messages: list[dict[str, Any]],
        shown: dict[str, Any],
        metadata: dict[str, str],
    ) -> None:
        super().__init__(builder.job, builder.model)
        self.builder = builder
        self._chats = context.chat_store
        self._messages = messages
        self._shown = shown
        self._metadata = metadata

    async def collect_response(self, batches: Batches) -> dict[str, Any]:
        chat = await self.builder.collect_response(batches)
        await self.record(chat)
        return chat

    def stream_encoder(self) -> StreamEncoder:
        return RecordingStreamEncoder(self)

    async def record(self, chat: dict[str, Any]) -> None:
        await self._chats.put({**chat, **self._shown}, self._messages, self._metadata)


class RecordingStreamEncoder(StreamEncoder):
    """Encodes the stream of a :class:`RecordingResponseBuilder`, and records its events."""

    def __init__(self, builder: RecordingResponseBuilder) -> None:
        self._builder = builder
        self._done = [Completion() for _ in range(builder.job.num_choices)]
        if not builder.builder.parsing.is_plain:  # a second reading would give calls other ids
            builder.builder.recorded_events = [[] for _ in self._done]
        self._stream = builder.builder.stream_encoder()

    def encode_start(self) -> bytes:
        return self._stream.encode_start()

    def encode_deltas(self, deltas: list[Delta]) -> bytes:
        for delta in deltas:
            self._done[delta.index].add(delta)
        return self._stream.encode_deltas(deltas)

    async def finish(self) -> None:
        await self._builder.record(self._builder.builder.build_response(self._done))

    def encode_end(self) -> bytes:
        return self._stream.encode_end()

    def encode_error(self, error: ApiError, scope: Scope) -> bytes:
        return self._stream.encode_error(error, scope)


def _messages(id: str, messages: Sequence[ChatMessage], sent: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Convert the request's messages to the form in which they are stored.

    Args:
        id: of the completion.
        sent: the messages of the request.
    """
    return [
        {
            "id": f"{id}-{index}",
            "role": message.role,
            "content": None if message.content is None else content_text(message.content),
            "name": message.name,
            "content_parts": _parts(sent[index].get("content")),
            **message.model_dump(exclude_none=True, exclude={"content"}),
        }
        for index, message in enumerate(messages)
    ]


def _parts(content: Any) -> list[Any] | None:
    if not isinstance(content, list):
        return None
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]


def _request_fields(body: ChatCompletionRequest, params: SamplingParams) -> dict[str, Any]:
    """The parameters of a request, as OpenAI's API shows them."""
    requested = body.model_dump(include={"tools", "tool_choice", "response_format", "seed"}, by_alias=True)
    return {
        **requested,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "input_user": body.user,
        "service_tier": "default",
    }
