"""The response of ``POST /v1/chat/completions``, whole or as a stream of chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dovetail.api import Content, Reasoning
from dovetail.engine.request.outputs import Delta
from dovetail.server.context import ServerContext
from dovetail.server.generate.chunks import NULL, encode_json
from dovetail.server.generate.logprobs import chat_logprobs, prompt_logprobs
from dovetail.server.generate.response_builders import ChoicesResponseBuilder
from dovetail.server.generate.run import Completion
from dovetail.server.generate.sse import StreamEncoder
from dovetail.server.generation_job import Job
from dovetail.server.protocol.requests import ChatCompletionRequest
from dovetail.server.tools.legacy_functions import legacy_finish_reason, to_legacy_message
from dovetail.server.tools.output_parsing import (
    OutputEvent,
    OutputParsing,
    ParsedOutput,
    ToolCallArguments,
    ToolCallBegin,
    join_events,
    parse_output,
)


class ChatResponseBuilder(ChoicesResponseBuilder):
    """Builds the response of the chat route: ``n`` assistant messages.

    Attributes:
        recorded_events: the events that a stream has sent of each choice, if the completion is stored.
    """

    id_prefix, object_type, chunk_object_type = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(
        self, context: ServerContext, body: ChatCompletionRequest, job: Job, model: str, parsing: OutputParsing
    ) -> None:
        super().__init__(context, body, job, model)
        self.parsing = parsing
        self.role = body.messages[-1].role if body.continue_final_message else context.settings.response_role
        self.top = body.top_logprobs or 0
        self.include_logprobs = bool(body.logprobs)
        self.recorded_events: list[list[OutputEvent]] | None = None
        self.legacy = bool(body.functions)
        self._call_finish_reason = legacy_finish_reason(body) if self.legacy else "tool_calls"

    def build_response(self, done: Sequence[Completion]) -> dict[str, Any]:
        response = super().build_response(done)
        if self.body.prompt_logprobs is not None:
            response["prompt_logprobs"] = prompt_logprobs(self.formatter, done[0].prompt_logprobs or ())
        if self.body.return_token_ids:
            response["prompt_token_ids"] = self.job.prompts[0]
        return response

    def build_choice(self, index: int, choice: Completion) -> dict[str, Any]:
        output = (
            parse_output(self.parsing, choice.text)
            if self.recorded_events is None
            else join_events(self.recorded_events[index])
        )
        shown = {
            "index": index,
            "message": self._message(output),
            "logprobs": self.logprobs(choice),
            "finish_reason": self.finish_reason(choice.finish_reason, len(output.calls)),
            "stop_reason": choice.stop_reason,
        }
        return {**shown, "token_ids": choice.token_ids} if self.body.return_token_ids else shown

    def _message(self, output: ParsedOutput) -> dict[str, Any]:
        message: dict[str, Any] = {"role": self.role, "content": output.content, "refusal": None}
        if self.parsing.reasoning is not None:
            message |= reasoning_fields(output.reasoning or None)
        if output.calls:
            message["content"] = output.content or None
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
                for call, arguments in output.calls
            ]
        return to_legacy_message(message) if self.legacy else message

    def stream_encoder(self) -> StreamEncoder:
        return ChatStreamEncoder(self)

    def logprobs(self, source: Completion | Delta) -> dict[str, Any] | None:
        if not self.include_logprobs:
            return None
        return chat_logprobs(self.formatter, source.token_ids, source.logprobs or (), self.top)

    def finish_reason(self, reason: str | None, calls: int) -> str | None:
        """The ``finish_reason`` of OpenAI's API."""
        return self._call_finish_reason if calls and reason == "stop" else reason


def reasoning_fields(text: str | None) -> dict[str, Any]:
    """Reasoning under both field names that clients read."""
    return {"reasoning_content": text, "reasoning": text}


def build_delta(event: OutputEvent) -> dict[str, Any]:
    """An event as the ``delta`` of a chunk."""
    match event:
        case Content(text):
            return {"content": text}
        case Reasoning(text):
            return reasoning_fields(text)
        case ToolCallBegin(index, id, name):
            function = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]}
        case ToolCallArguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


class ChatStreamEncoder(StreamEncoder):
    """Encodes the chunks of a :class:`ChatResponseBuilder`."""

    def __init__(self, builder: ChatResponseBuilder) -> None:
        self.builder = builder
        self.writer = builder.writer()
        choices = range(builder.job.num_choices)
        self._parsers = None if builder.parsing.is_plain else [builder.parsing.new_parser() for _ in choices]
        # Most chunks differ from each other in their text alone.
        plain = self._parsers is None and not (builder.include_logprobs or builder.body.return_token_ids)
        self._frames = [self.writer.frame(index, b'"delta":{"content":', b"}") if plain else None for index in choices]

    def encode_start(self) -> bytes:
        builder, writer = self.builder, self.writer
        if builder.body.return_token_ids:
            writer = writer.with_fields({"prompt_token_ids": builder.job.prompts[0]})
        delta = b'"delta":' + encode_json({"role": builder.role, "content": ""})
        return b"".join(writer.chunk(index, delta, NULL) for index in range(builder.job.num_choices))

    def encode_deltas(self, deltas: list[Delta]) -> bytes:
        chunks: list[bytes] = []
        for delta in deltas:
            self.writer.count(delta)
            if (frame := self._frames[delta.index]) is None:
                chunks += self._pieces(delta)
            elif delta.text:
                chunks += (frame[0], encode_json(delta.text), frame[1])
            if delta.finish_reason is not None:
                calls = self._parsers[delta.index].calls if self._parsers else 0
                reason = self.builder.finish_reason(delta.finish_reason, calls)
                chunks.append(self.writer.last_chunk(delta.index, b'"delta":{}', NULL, reason, delta.stop_reason))
        return b"".join(chunks)

    def encode_end(self) -> bytes:
        return self.writer.end()

    def _pieces(self, delta: Delta) -> list[bytes]:
        """One chunk for each event. The first chunk holds what belongs to the tokens, such as logprobs."""
        builder = self.builder
        ids = (
            b',"token_ids":' + encode_json(delta.token_ids)
            if builder.body.return_token_ids and delta.token_ids
            else b""
        )
        logprobs = encode_json(builder.logprobs(delta)) if builder.include_logprobs and delta.token_ids else NULL
        deltas = [build_delta(event) for event in self._events(delta)]
        if builder.legacy:
            deltas = list(map(to_legacy_message, deltas))
        # Text may be held back while its tokens and their logprobs are known.
        if not deltas and (ids or logprobs is not NULL):
            deltas = [{"content": ""}]
        chunks = []
        for shown in deltas:
            chunks.append(self.writer.chunk(delta.index, b'"delta":' + encode_json(shown) + ids, logprobs))
            ids, logprobs = b"", NULL
        return chunks

    def _events(self, delta: Delta) -> list[OutputEvent]:
        if self._parsers is None:
            return [Content(delta.text)] if delta.text else []
        parser = self._parsers[delta.index]
        events = parser.feed(delta.text) if delta.text else []
        if delta.finish_reason is not None:
            events += parser.finish()
        if self.builder.recorded_events is not None:
            self.builder.recorded_events[delta.index] += events
        return events
