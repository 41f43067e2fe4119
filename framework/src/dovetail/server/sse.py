"""Server-sent events: an answer that arrives in pieces.

What the chunks of one answer share is encoded once; a token costs a few joins of bytes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from copy import copy
from typing import Any

import msgspec
from fastapi import Response
from starlette.types import Receive, Scope, Send

from dovetail.engine.outputs import Delta
from dovetail.server.connection import ClientLeftError, while_connected
from dovetail.server.context import ServerContext
from dovetail.server.errors import to_api_error
from dovetail.server.protocol import StreamOptions

DONE = b"data: [DONE]\n\n"
NULL = b"null"
encode = msgspec.json.encode

Events = AsyncGenerator[bytes, None]


class EventStream(Response):
    """Sends events until they end or the client leaves. An exception becomes an event, and the end of the stream.

    Args:
        source: what the events are made of; closed at the end, even if no event was ever asked for.
    """

    def __init__(self, context: ServerContext, events: Events, source: AsyncGenerator[Any, None]) -> None:
        # X-Accel-Buffering keeps proxies from holding chunks back.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(None, 200, headers, media_type="text/event-stream")
        del self.headers["content-length"]
        self.context = context
        self.events = events
        self.source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await while_connected(self.context, receive, self._pump(send))
        except ClientLeftError:
            return
        except Exception as error:
            event = to_api_error(error, scope.get("request_id", "")).event(scope)
            await send({"type": "http.response.body", "body": event, "more_body": True})
        finally:
            await self.events.aclose()
            await self.source.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, send: Send) -> None:
        async for event in self.events:
            await send({"type": "http.response.body", "body": event, "more_body": True})


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> dict[str, Any]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


class ChunkWriter:
    """Encodes the chunks of one answer, and counts what they hold.

    Args:
        head: the fields that every chunk begins with.
        options: what the client wants to know of the usage.
        prompt_tokens: of all prompts of the request.
        n: choices of each prompt.
    """

    def __init__(self, head: dict[str, Any], options: StreamOptions | None, prompt_tokens: int, n: int) -> None:
        self._head = b"data: " + encode(head)[:-1]
        self._choice = self._head + b',"choices":[{"index":'
        self._wants_usage = bool(options and options.include_usage)
        self._wants_each = bool(options and options.continuous_usage_stats)
        self._prompt_tokens = prompt_tokens
        self._n = n
        self._tail = b',"usage":null}\n\n' if self._wants_usage else b"}\n\n"
        self._completion_tokens = 0
        self._cached_tokens = 0

    def extended(self, head: dict[str, Any]) -> ChunkWriter:
        """A writer of chunks that begin with these fields, too."""
        other = copy(self)
        other._choice = self._head + b"," + encode(head)[1:-1] + b',"choices":[{"index":'
        return other

    def count(self, delta: Delta) -> None:
        """Add a delta to the usage."""
        self._completion_tokens += len(delta.token_ids)
        if delta.index % self._n == 0:  # the others of a prompt found what the first had put there
            self._cached_tokens += delta.cached_tokens

    def chunk(self, index: int, payload: bytes, logprobs: bytes) -> bytes:
        """A piece of a choice.

        Args:
            payload: its own fields in JSON, without braces.
            logprobs: in JSON.
        """
        parts = (
            self._choice,
            b"%d," % index,
            payload,
            b',"logprobs":',
            logprobs,
            b',"finish_reason":null}]',
            self._end(),
        )
        return b"".join(parts)

    def last_chunk(
        self, index: int, payload: bytes, logprobs: bytes, finish_reason: str, stop_reason: str | int | None
    ) -> bytes:
        """The last piece of a choice."""
        ending = encode({"finish_reason": finish_reason, "stop_reason": stop_reason})
        parts = (self._choice, b"%d," % index, payload, b',"logprobs":', logprobs, b",", ending[1:], b"]", self._end())
        return b"".join(parts)

    def end(self) -> bytes:
        """What follows the last choice: the usage, if asked for, and the mark of the end."""
        if not self._wants_usage:
            return DONE
        return b"".join((self._head, b',"choices":[]', self._usage(), b"}\n\n", DONE))

    def _end(self) -> bytes:
        return self._usage() + b"}\n\n" if self._wants_each else self._tail

    def _usage(self) -> bytes:
        return b',"usage":' + encode(usage(self._prompt_tokens, self._completion_tokens, self._cached_tokens))
