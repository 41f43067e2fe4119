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
from dovetail.server.generate.chunks import encode_json
from dovetail.server.generate.job_builder import make_job
from dovetail.server.generate.response_builders import CollectedResponseBuilder, json_response, respond
from dovetail.server.generate.run import Completion
from dovetail.server.generate.sse import StreamEncoder
from dovetail.server.generation_job import Job
from dovetail.server.http.openapi import ANTHROPIC_ERROR_RESPONSES, route_docs
from dovetail.server.messages.chat_request import to_chat_request
from dovetail.server.messages.protocol import CountTokensRequest, MessagesRequest
from dovetail.server.prompts.render import chat_prompt_ids, render_chat
from dovetail.server.protocol.body import read_body
from dovetail.server.tools.output_parsing import (
    OutputEvent,
    OutputParsing,
    ToolCallArguments,
    ToolCallBegin,
    parse_output,
)

BODIES = (MessagesRequest, CountTokensRequest)


def router(context: ServerContext) -> APIRouter:
    """The two routes."""
    routes = APIRouter(tags=["generate"])

    @routes.post(
        "/v1/messages",
        **route_docs(
            MessagesRequest,
            "Answer a conversation, as Anthropic's API",
            streams=True,
            error_responses=ANTHROPIC_ERROR_RESPONSES,
        ),
    )
    async def create_message(request: Request) -> Response:
        body = await read_body(request, MessagesRequest)
        model, adapter = context.select_model(body.model)
        context.require_task("generate")
        chat = await context.convert(lambda: to_chat_request(body), len(body.messages))
        prompt, parsing, images = await render_chat(context, chat)
        job = await make_job(context, chat, [prompt], adapter, parsing, images)
        return await respond(context, request, MessageResponseBuilder(job, model, parsing), stream=bool(body.stream))

    @routes.post(
        "/v1/messages/count_tokens",
        **route_docs(CountTokensRequest, "The tokens of a conversation", error_responses=ANTHROPIC_ERROR_RESPONSES),
    )
    async def count_tokens(request: Request) -> Response:
        body = await read_body(request, CountTokensRequest)
        context.select_model(body.model)
        chat = await context.convert(lambda: to_chat_request(body), len(body.messages))
        return json_response({"input_tokens": len(await chat_prompt_ids(context, chat))})

    return routes


def usage(job: Job, output_tokens: int, cached_tokens: int) -> dict[str, int]:
    """Anthropic's usage object. Its input tokens are those that were not found in the prefix cache."""
    return {
        "input_tokens": job.num_prompt_tokens - cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached_tokens,
        "output_tokens": output_tokens,
    }


def stop_fields(reason: str | None, stop: str | int | None, calls: int) -> dict[str, str | None]:
    """The fields that say why the message ended."""
    if reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if isinstance(stop, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    return {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}


class MessageResponseBuilder(CollectedResponseBuilder):
    """Builds the response of the Messages API: the assistant's message."""

    def __init__(self, job: Job, model: str, parsing: OutputParsing) -> None:
        super().__init__(job, model)
        self.parsing = parsing

    def common_fields(self) -> dict[str, Any]:
        """The first fields of the response."""
        return {"id": f"msg_{uuid4().hex[:24]}", "type": "message", "role": "assistant", "model": self.model}

    def build_response(self, done: Sequence[Completion]) -> dict[str, Any]:
        (choice,) = done
        output = parse_output(self.parsing, choice.text)
        blocks: list[dict[str, Any]] = []
        if output.reasoning:
            blocks.append({"type": "thinking", "thinking": output.reasoning, "signature": ""})
        if output.content or not (blocks or output.calls):
            blocks.append({"type": "text", "text": output.content})
        blocks += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": _parse_arguments(arguments)}
            for call, arguments in output.calls
        ]
        return {
            **self.common_fields(),
            "content": blocks,
            **stop_fields(choice.finish_reason, choice.stop_reason, len(output.calls)),
            "usage": usage(self.job, len(choice.token_ids), choice.cached_tokens),
        }

    def stream_encoder(self) -> StreamEncoder:
        return MessageStreamEncoder(self)


def _parse_arguments(arguments: str) -> dict[str, Any]:
    """The arguments of a call; empty if the output was cut off inside the call."""
    try:
        found = json.loads(arguments)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class MessageStreamEncoder(StreamEncoder):
    """Encodes the events of a :class:`MessageResponseBuilder`: one content block after the other."""

    def __init__(self, builder: MessageResponseBuilder) -> None:
        self.builder = builder
        self._parser = builder.parsing.new_parser()
        self._plain = builder.parsing.is_plain
        self._block = -1
        self._kind = ""
        self._delta: tuple[bytes, bytes] = (b"", b"")
        self._tokens = 0
        self._started = False
        self._stop_fields: dict[str, str | None] = {}

    def encode_deltas(self, deltas: list[Delta]) -> bytes:
        parts: list[bytes] = []
        for delta in deltas:
            if not self._started:
                self._started = True
                self._cached = delta.cached_tokens
                parts.append(self._start())
            self._tokens += len(delta.token_ids)
            if self._plain and delta.text and self._kind == "text":
                parts += (self._delta[0], encode_json(delta.text), self._delta[1])
            else:
                for event in self._parser.feed(delta.text) if delta.text else ():
                    parts += self._event(event)
            if delta.finish_reason is not None:
                for event in self._parser.finish():
                    parts += self._event(event)
                self._stop_fields = stop_fields(delta.finish_reason, delta.stop_reason, self._parser.calls)
        return b"".join(parts)

    def encode_end(self) -> bytes:
        parts = [self._close()]
        if self._block < 0:  # an answer of nothing is a block of no text
            parts += (*self._open("text", {"type": "text", "text": ""}), self._close())
        spent = usage(self.builder.job, self._tokens, self._cached)
        parts.append(_event("message_delta", {"delta": self._stop_fields, "usage": spent}))
        parts.append(_event("message_stop", {}))
        return b"".join(parts)

    def _start(self) -> bytes:
        message = {
            **self.builder.common_fields(),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage(self.builder.job, 0, self._cached),
        }
        return _event("message_start", {"message": message})

    def _event(self, event: OutputEvent) -> Sequence[bytes]:
        match event:
            case Content(text):
                return self._piece("text", {"type": "text", "text": ""}, "text_delta", "text", text)
            case Reasoning(text):
                empty = {"type": "thinking", "thinking": "", "signature": ""}
                return self._piece("thinking", empty, "thinking_delta", "thinking", text)
            case ToolCallBegin(_, id, name):
                self._prepare_delta("input_json_delta", "partial_json", self._block + 1)
                return self._open("tool_use", {"type": "tool_use", "id": id, "name": name, "input": {}})
            case ToolCallArguments(_, text):
                return self._delta[0], encode_json(text), self._delta[1]

    def _piece(self, kind: str, empty: dict[str, Any], delta: str, field: str, text: str) -> Sequence[bytes]:
        opening: Sequence[bytes] = ()
        if self._kind != kind:
            self._prepare_delta(delta, field, self._block + 1)
            opening = self._open(kind, empty)
        return (*opening, self._delta[0], encode_json(text), self._delta[1])

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

    def _prepare_delta(self, kind: str, field: str, block: int) -> None:
        """Encode once what all deltas of a block share."""
        head = encode_json({"type": "content_block_delta", "index": block, "delta": {"type": kind}})
        self._delta = (
            b"event: content_block_delta\ndata: " + head[:-2] + b',"' + field.encode() + b'":',
            b"}}\n\n",
        )


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode_json({"type": name, **fields}))
