"""Sends one streamed request, and records when its tokens arrive."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

TEXT_LIMIT = 300


class _Delta(msgspec.Struct):
    role: Any = None
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


@dataclass(slots=True)
class Outcome:
    """The result of a request; times in seconds of one clock.

    Attributes:
        started: when it was sent.
        times: when each chunk with a token arrived; a server may put several tokens into one.
        input_len: tokens of the prompt, counted by the server.
        output_len: tokens of the output, counted by the server.
        counted: whether the server sent these counts. Otherwise they are the requested length, and the number of
            chunks.
        error: why it failed; empty if it did not.
    """

    started: float
    input_len: int
    times: list[float] = field(default_factory=list)
    output_len: int = 0
    counted: bool = False
    error: str = ""

    @property
    def ttft(self) -> float:
        """Time from sending to the first token."""
        return self.times[0] - self.started

    @property
    def latency(self) -> float:
        """Time from sending to the last token."""
        return self.times[-1] - self.started


class EventReader:
    """Finds tokens in a stream of server-sent events, wherever it is cut."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.done = False
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Read bytes of the stream.

        Raises:
            ValueError: it is not an event of OpenAI's API, or it reports an error.
        """
        now = time.perf_counter()
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            payload = line[5:].strip()
            if payload == b"[DONE]":
                self.done = True
            else:
                self._take(_decode(payload), now)

    def _take(self, event: _Event, now: float) -> None:
        outcome = self.outcome
        if event.error is not None:
            raise ValueError(f"the server failed: {_message(event.error)}")
        if event.choices and _holds_token(event.choices[0]):
            outcome.times.append(now)
        if event.usage is not None:
            outcome.input_len = event.usage.prompt_tokens
            outcome.output_len = event.usage.completion_tokens
            outcome.counted = True


def _holds_token(choice: _Choice) -> bool:
    """True for all chunks except the first one of a chat, which some servers send before there is a token."""
    delta = choice.delta
    if delta is None or delta.role is None:
        return True
    return bool(delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls)


async def measure(session: aiohttp.ClientSession, url: str, body: dict[str, Any], input_len: int) -> Outcome:
    """Send a request, and read its response to the end. Failures are recorded in the outcome."""
    payload = msgspec.json.encode(body)
    outcome = Outcome(time.perf_counter(), input_len)
    reader = EventReader(outcome)
    try:
        async with session.post(url, data=payload, headers={"Content-Type": "application/json"}) as answer:
            if answer.status != 200:
                outcome.error = f"status {answer.status}: {_refusal(await answer.read())}"
                return outcome
            async for data in answer.content.iter_any():
                reader.feed(data)
    except (aiohttp.ClientError, OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        outcome.error = str(error) or type(error).__name__
        return outcome
    if not reader.done:
        outcome.error = "the answer broke off"
    elif not outcome.times:
        outcome.error = "the answer has no token"
    elif not outcome.counted:
        outcome.output_len = len(outcome.times)
    return outcome


def _refusal(body: bytes) -> str:
    try:
        return _message(msgspec.json.decode(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:TEXT_LIMIT].decode(errors="replace")


def _message(error: Any) -> str:
    return str(error.get("message", error) if isinstance(error, dict) else error)[:TEXT_LIMIT]
