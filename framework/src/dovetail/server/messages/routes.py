"""``POST /v1/messages`` and ``/v1/messages/count_tokens``: Anthropic's API."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request, Response

from dovetail.api import Content, Reasoning
from dovetail.engine.request.outputs import Delta
from dovetail.server.context import ServerContext
from dovetail.server.generate.answers import Answer, json_response, respond
from dovetail.server.generate.chunks import encode
from dovetail.server.generate.job_builder import make_job
from dovetail.server.generate.run import Completion
from dovetail.server.generate.sse import AnswerStream
from dovetail.server.generation_job import Job
from dovetail.server.http.openapi import ANTHROPIC_FAILURES, documented
from dovetail.server.messages.chat_request import chat_of
from dovetail.server.messages.protocol import CountTokensRequest, MessagesRequest
from dovetail.server.prompts.prompts import chat_prompt, converse
from dovetail.server.protocol.body import read_body
from dovetail.server.tools.output_parsing import Arguments, Call, Reading, TurnEvent, tell

BODIES = (MessagesRequest, CountTokensRequest)


def router(context: ServerContext) -> APIRouter:
    """The two routes."""
    routes = APIRouter(tags=["generate"])

    @routes.post(
        "/v1/messages",
        **documented(
            MessagesRequest, "Answer a conversation, as Anthropic's API", streams=True, failures=ANTHROPIC_FAILURES
        ),
    )
    async def create_message(request: Request) -> Response:
        body = await read_body(request, MessagesRequest)
        model, adapter = context.select(body.model)
        context.need_task("generate")
        chat = chat_of(body)
        prompt, reading = await converse(context, chat)
        job = make_job(context, chat, [prompt], adapter, reading)
        return await respond(context, request, MessageAnswer(job, model, reading), stream=bool(body.stream))

    @routes.post(
        "/v1/messages/count_tokens",
        **documented(CountTokensRequest, "The tokens of a conversation", failures=ANTHROPIC_FAILURES),
    )
    async def count_tokens(request: Request) -> Response:
        body = await read_body(request, CountTokensRequest)
        context.select(body.model)
        return json_response({"input_tokens": len(await chat_prompt(context, chat_of(body)))})

    return routes


def usage(job: Job, output_tokens: int, cached_tokens: int) -> dict[str, int]:
    """Anthropic's usage object, whose input tokens are those that were not found in the cache."""
    return {
        "input_tokens": job.prompt_tokens - cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached_tokens,
        "output_tokens": output_tokens,
    }


def ending_of(reason: str | None, stop: str | int | None, calls: int) -> dict[str, str | None]:
    """Why a turn ended."""
    if reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if isinstance(stop, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    return {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}


class MessageAnswer(Answer):
    """The next turn of a conversation."""

    def __init__(self, job: Job, model: str, reading: Reading) -> None:
        super().__init__(job, model)
        self.reading = reading

    def head(self) -> dict[str, Any]:
        """The fields that an answer begins with."""
        return {"id": f"msg_{uuid4().hex[:24]}", "type": "message", "role": "assistant", "model": self.model}

    def whole(self, done: Sequence[Completion]) -> dict[str, Any]:
        (choice,) = done
        told = tell(self.reading, choice.text)
        blocks: list[dict[str, Any]] = []
        if told.reasoning:
            blocks.append({"type": "thinking", "thinking": told.reasoning, "signature": ""})
        if told.content or not (blocks or told.calls):
            blocks.append({"type": "text", "text": told.content})
        blocks += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": _object(arguments)}
            for call, arguments in told.calls
        ]
        return {
            **self.head(),
            "content": blocks,
            **ending_of(choice.finish_reason, choice.stop_reason, len(told.calls)),
            "usage": usage(self.job, len(choice.token_ids), choice.cached_tokens),
        }

    def stream(self) -> AnswerStream:
        return MessageStream(self)


def _object(arguments: str) -> dict[str, Any]:
    """The arguments of a call; none where the output ended in their midst."""
    try:
        found = json.loads(arguments)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class MessageStream(AnswerStream):
    """The events of a :class:`MessageAnswer`: content blocks, one after the other."""

    def __init__(self, answer: MessageAnswer) -> None:
        self.answer = answer
        self._turn = answer.reading.turn()
        self._plain = answer.reading.plain
        self._block = -1
        self._kind = ""
        self._delta: tuple[bytes, bytes] = (b"", b"")
        self._tokens = 0
        self._begun = False
        self._ending: dict[str, str | None] = {}

    def events(self, deltas: list[Delta]) -> bytes:
        made: list[bytes] = []
        for delta in deltas:
            if not self._begun:
                self._begun = True
                self._cached = delta.cached_tokens
                made.append(self._start())
            self._tokens += len(delta.token_ids)
            if self._plain and delta.text and self._kind == "text":
                made += (self._delta[0], encode(delta.text), self._delta[1])
            else:
                for event in self._turn.feed(delta.text) if delta.text else ():
                    made += self._event(event)
            if delta.finish_reason is not None:
                for event in self._turn.finish():
                    made += self._event(event)
                self._ending = ending_of(delta.finish_reason, delta.stop_reason, self._turn.calls)
        return b"".join(made)

    def ending(self) -> bytes:
        made = [self._close()]
        if self._block < 0:  # an answer of nothing is a block of no text
            made += (*self._open("text", {"type": "text", "text": ""}), self._close())
        spent = usage(self.answer.job, self._tokens, self._cached)
        made.append(_event("message_delta", {"delta": self._ending, "usage": spent}))
        made.append(_event("message_stop", {}))
        return b"".join(made)

    def _start(self) -> bytes:
        message = {
            **self.answer.head(),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage(self.answer.job, 0, self._cached),
        }
        return _event("message_start", {"message": message})

    def _event(self, event: TurnEvent) -> Sequence[bytes]:
        match event:
            case Content(text):
                return self._piece("text", {"type": "text", "text": ""}, "text_delta", "text", text)
            case Reasoning(text):
                empty = {"type": "thinking", "thinking": "", "signature": ""}
                return self._piece("thinking", empty, "thinking_delta", "thinking", text)
            case Call(_, id, name):
                self._name_delta("input_json_delta", "partial_json", self._block + 1)
                return self._open("tool_use", {"type": "tool_use", "id": id, "name": name, "input": {}})
            case Arguments(_, text):
                return self._delta[0], encode(text), self._delta[1]

    def _piece(self, kind: str, empty: dict[str, Any], delta: str, field: str, text: str) -> Sequence[bytes]:
        opening: Sequence[bytes] = ()
        if self._kind != kind:
            self._name_delta(delta, field, self._block + 1)
            opening = self._open(kind, empty)
        return (*opening, self._delta[0], encode(text), self._delta[1])

    def _open(self, kind: str, block: dict[str, Any]) -> Sequence[bytes]:
        closed = self._close()
        self._block += 1
        self._kind = kind
        return closed, _event("content_block_start", {"index": self._block, "content_block": block})

    def _close(self) -> bytes:
        if not self._kind:
            return b""
        self._kind = ""
        return _event("content_block_stop", {"index": self._block})

    def _name_delta(self, kind: str, field: str, block: int) -> None:
        """Encode what the deltas of a block have in common."""
        head = encode({"type": "content_block_delta", "index": block, "delta": {"type": kind}})
        self._delta = (
            b"event: content_block_delta\ndata: " + head[:-2] + b',"' + field.encode() + b'":',
            b"}}\n\n",
        )


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode({"type": name, **fields}))
