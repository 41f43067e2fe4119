"""The answer of ``POST /v1/chat/completions``, whole or as a stream of chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dovetail.api import Content, Reasoning
from dovetail.engine.request.outputs import Delta
from dovetail.server.context import ServerContext
from dovetail.server.generate.answers import ChoicesAnswer
from dovetail.server.generate.chunks import NULL, encode
from dovetail.server.generate.logprobs import chat_logprobs, prompt_logprobs
from dovetail.server.generate.run import Completion
from dovetail.server.generate.sse import AnswerStream
from dovetail.server.generation_job import Job
from dovetail.server.protocol.requests import ChatCompletionRequest
from dovetail.server.tools.legacy_functions import older, reason_of_call
from dovetail.server.tools.output_parsing import Arguments, Call, Reading, Told, TurnEvent, tell, told_of


class ChatAnswer(ChoicesAnswer):
    """The next turn of a conversation, ``n`` times.

    Attributes:
        told: what a stream has told of each choice, if it is to be remembered.
    """

    prefix, kind, kind_of_chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(
        self, context: ServerContext, body: ChatCompletionRequest, job: Job, model: str, reading: Reading
    ) -> None:
        super().__init__(context, body, job, model)
        self.reading = reading
        self.role = body.messages[-1].role if body.continue_final_message else context.settings.response_role
        self.top = body.top_logprobs or 0
        self.wants_logprobs = bool(body.logprobs)
        self.told: list[list[TurnEvent]] | None = None
        self.older = bool(body.functions)
        self._reason_of_call = reason_of_call(body) if self.older else "tool_calls"

    def whole(self, done: Sequence[Completion]) -> dict[str, Any]:
        answer = super().whole(done)
        if self.body.prompt_logprobs is not None:
            answer["prompt_logprobs"] = prompt_logprobs(self.names, done[0].prompt_logprobs or ())
        if self.body.return_token_ids:
            answer["prompt_token_ids"] = self.job.prompts[0]
        return answer

    def choice(self, index: int, choice: Completion) -> dict[str, Any]:
        told = tell(self.reading, choice.text) if self.told is None else told_of(self.told[index])
        shown = {
            "index": index,
            "message": self._message(told),
            "logprobs": self.logprobs(choice),
            "finish_reason": self.finish_reason(choice.finish_reason, len(told.calls)),
            "stop_reason": choice.stop_reason,
        }
        return {**shown, "token_ids": choice.token_ids} if self.body.return_token_ids else shown

    def _message(self, told: Told) -> dict[str, Any]:
        message: dict[str, Any] = {"role": self.role, "content": told.content, "refusal": None}
        if self.reading.reasoning is not None:
            message |= thoughts(told.reasoning or None)
        if told.calls:
            message["content"] = told.content or None
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
                for call, arguments in told.calls
            ]
        return older(message) if self.older else message

    def stream(self) -> AnswerStream:
        return ChatStream(self)

    def logprobs(self, source: Completion | Delta) -> dict[str, Any] | None:
        if not self.wants_logprobs:
            return None
        return chat_logprobs(self.names, source.token_ids, source.logprobs or (), self.top)

    def finish_reason(self, reason: str | None, calls: int) -> str | None:
        """Why a turn ended, as OpenAI's API says it."""
        return self._reason_of_call if calls and reason == "stop" else reason


def thoughts(text: str | None) -> dict[str, Any]:
    """Reasoning under both names that clients look for it by."""
    return {"reasoning_content": text, "reasoning": text}


def delta_of(event: TurnEvent) -> dict[str, Any]:
    """An event as the ``delta`` of a chunk."""
    match event:
        case Content(text):
            return {"content": text}
        case Reasoning(text):
            return thoughts(text)
        case Call(index, id, name):
            function = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]}
        case Arguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


class ChatStream(AnswerStream):
    """The chunks of a :class:`ChatAnswer`."""

    def __init__(self, answer: ChatAnswer) -> None:
        self.answer = answer
        self.writer = answer.writer()
        choices = range(answer.job.choices)
        self._turns = None if answer.reading.plain else [answer.reading.turn() for _ in choices]
        # Most chunks differ from each other in their text alone.
        plain = self._turns is None and not (answer.wants_logprobs or answer.body.return_token_ids)
        self._frames = [self.writer.frame(index, b'"delta":{"content":', b"}") if plain else None for index in choices]

    def opening(self) -> bytes:
        answer, writer = self.answer, self.writer
        if answer.body.return_token_ids:
            writer = writer.extended({"prompt_token_ids": answer.job.prompts[0]})
        delta = b'"delta":' + encode({"role": answer.role, "content": ""})
        return b"".join(writer.chunk(index, delta, NULL) for index in range(answer.job.choices))

    def events(self, deltas: list[Delta]) -> bytes:
        made: list[bytes] = []
        for delta in deltas:
            self.writer.count(delta)
            if (frame := self._frames[delta.index]) is None:
                made += self._pieces(delta)
            elif delta.text:
                made += (frame[0], encode(delta.text), frame[1])
            if delta.finish_reason is not None:
                calls = self._turns[delta.index].calls if self._turns else 0
                reason = self.answer.finish_reason(delta.finish_reason, calls)
                made.append(self.writer.last_chunk(delta.index, b'"delta":{}', NULL, reason, delta.stop_reason))
        return b"".join(made)

    def ending(self) -> bytes:
        return self.writer.end()

    def _pieces(self, delta: Delta) -> list[bytes]:
        """A chunk for each event; the first has what belongs to the tokens."""
        answer = self.answer
        ids = b',"token_ids":' + encode(delta.token_ids) if answer.body.return_token_ids and delta.token_ids else b""
        logprobs = encode(answer.logprobs(delta)) if answer.wants_logprobs and delta.token_ids else NULL
        deltas = [delta_of(event) for event in self._events(delta)]
        if answer.older:
            deltas = list(map(older, deltas))
        # Text may be held back while its tokens and their logprobs are known.
        if not deltas and (ids or logprobs is not NULL):
            deltas = [{"content": ""}]
        made = []
        for shown in deltas:
            made.append(self.writer.chunk(delta.index, b'"delta":' + encode(shown) + ids, logprobs))
            ids, logprobs = b"", NULL
        return made

    def _events(self, delta: Delta) -> list[TurnEvent]:
        if self._turns is None:
            return [Content(delta.text)] if delta.text else []
        turn = self._turns[delta.index]
        events = turn.feed(delta.text) if delta.text else []
        if delta.finish_reason is not None:
            events += turn.finish()
        if self.answer.told is not None:
            self.answer.told[delta.index] += events
        return events
