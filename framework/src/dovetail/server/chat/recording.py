"""Chat completions that are kept once they have ended: those of requests with ``store``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import Request
from starlette.types import Scope

from dovetail.engine.request.outputs import Delta
from dovetail.engine.request.params import SamplingParams
from dovetail.server.chat.answer import ChatAnswer
from dovetail.server.context import ServerContext
from dovetail.server.generate.answers import AnyAnswer, id_taken
from dovetail.server.generate.run import Batches, Completion
from dovetail.server.generate.sse import AnswerStream
from dovetail.server.http.errors import ApiError
from dovetail.server.protocol.body import check
from dovetail.server.protocol.fields import Metadata
from dovetail.server.protocol.requests import Body, ChatCompletionRequest, ChatMessage


class ChatUpdateRequest(Body):
    """The body of ``POST /v1/chat/completions/ID``: what can be changed of a completion that is kept."""

    metadata: Metadata | None


async def kept(context: ServerContext, request: Request, body: ChatCompletionRequest, answer: ChatAnswer) -> KeptAnswer:
    """The same answer, but that it is kept.

    Raises:
        ApiError: it cannot be.
    """
    context.need_store()
    asked = check({"metadata": body.metadata}, ChatUpdateRequest)
    if body.request_id is not None and await context.chats.get(answer.id) is not None:
        raise id_taken(body, "completion")
    raw = msgspec.json.decode(await request.body())  # it has been read before
    messages = _messages(answer.id, body.messages, raw["messages"])
    shown = {"request_id": request.scope.get("request_id"), **_asked(body, answer.job.params)}
    return KeptAnswer(context, answer, messages, shown, asked.metadata or {})


class KeptAnswer(AnyAnswer):
    """A chat completion that is kept.

    Args:
        answer: as it is sent.
        messages: what it answers, as they are shown.
        shown: the fields that it has besides when it is read again, its metadata left out.
    """

    def __init__(
        self,
        context: ServerContext,
        answer: ChatAnswer,
        messages: list[dict[str, Any]],
        shown: dict[str, Any],
        metadata: dict[str, str],
    ) -> None:
        super().__init__(answer.job, answer.model)
        self.answer = answer
        self._chats = context.chats
        self._messages = messages
        self._shown = shown
        self._metadata = metadata

    async def made(self, batches: Batches) -> dict[str, Any]:
        chat = await self.answer.made(batches)
        await self.keep(chat)
        return chat

    def stream(self) -> AnswerStream:
        return KeptStream(self)

    async def keep(self, chat: dict[str, Any]) -> None:
        await self._chats.put({**chat, **self._shown}, self._messages, self._metadata)


class KeptStream(AnswerStream):
    """The stream of a :class:`KeptAnswer`, with what it has told."""

    def __init__(self, kept: KeptAnswer) -> None:
        self._kept = kept
        self._done = [Completion() for _ in range(kept.job.choices)]
        if not kept.answer.reading.plain:  # a second reading would give calls other ids
            kept.answer.told = [[] for _ in self._done]
        self._stream = kept.answer.stream()

    def opening(self) -> bytes:
        return self._stream.opening()

    def events(self, deltas: list[Delta]) -> bytes:
        for delta in deltas:
            self._done[delta.index].add(delta)
        return self._stream.events(deltas)

    async def settle(self) -> None:
        await self._kept.keep(self._kept.answer.whole(self._done))

    def ending(self) -> bytes:
        return self._stream.ending()

    def failure(self, error: ApiError, scope: Scope) -> bytes:
        return self._stream.failure(error, scope)


def _messages(id: str, messages: Sequence[ChatMessage], sent: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Args:
        id: of the completion.
        sent: the messages as they came.
    """
    return [
        {
            "id": f"{id}-{index}",
            "role": message.role,
            "content": message.content,
            "name": message.name,
            "content_parts": _parts(sent[index].get("content")),
            **message.model_dump(exclude_none=True),
        }
        for index, message in enumerate(messages)
    ]


def _parts(content: Any) -> list[Any] | None:
    if not isinstance(content, list):
        return None
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]


def _asked(body: ChatCompletionRequest, params: SamplingParams) -> dict[str, Any]:
    """What a completion was asked for with, as OpenAI's API shows it."""
    asked = body.model_dump(include={"tools", "tool_choice", "response_format", "seed"}, by_alias=True)
    return {
        **asked,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "input_user": body.user,
        "service_tier": "default",
    }
