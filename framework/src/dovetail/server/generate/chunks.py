"""The stream chunks of OpenAI's two routes with choices.

What all chunks of a response share is encoded once; each token only costs a join of bytes.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import msgspec

from dovetail.engine.request.outputs import Delta
from dovetail.server.protocol.requests import StreamOptions

DONE = b"data: [DONE]\n\n"
NULL = b"null"
encode_json = msgspec.json.encode


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> dict[str, Any]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


class ChunkWriter:
    """Encodes the chunks of one response, and counts its usage.

    Args:
        head: the fields that every chunk begins with.
        options: the request's ``stream_options``.
        prompt_tokens: of all prompts of the request.
        n: choices of each prompt.
    """

    def __init__(self, head: dict[str, Any], options: StreamOptions | None, prompt_tokens: int, n: int) -> None:
        self._head = b"data: " + encode_json(head)[:-1]
        self._choice = self._head + b',"choices":[{"index":'
        self._include_usage = bool(options and options.include_usage)
        self._continuous_usage = bool(options and options.continuous_usage_stats)
        self._prompt_tokens = prompt_tokens
        self._n = n
        self._tail = b',"usage":null}\n\n' if self._include_usage else b"}\n\n"
        self._completion_tokens = 0
        self._cached_tokens = 0

    def with_fields(self, head: dict[str, Any]) -> ChunkWriter:
        """A copy of the writer whose chunks begin with these fields, too."""
        other = copy(self)
        other._choice = self._head + b"," + encode_json(head)[1:-1] + b',"choices":[{"index":'
        return other

    def count(self, delta: Delta) -> None:
        """Add a delta to the usage."""
        self._completion_tokens += len(delta.token_ids)
        if delta.index % self._n == 0:  # the others of a prompt found what the first had put there
            self._cached_tokens += delta.cached_tokens

    def frame(self, index: int, opening: bytes, closing: bytes) -> tuple[bytes, bytes] | None:
        """The fixed bytes before and after the varying part of a choice's chunks. None if every chunk also carries the
        usage so far.

        Args:
            opening, closing: the fixed parts of the choice's own fields, in JSON.
        """
        if self._continuous_usage:
            return None
        return (
            self._choice + b"%d," % index + opening,
            closing + b',"logprobs":null,"finish_reason":null}]' + self._tail,
        )

    def chunk(self, index: int, payload: bytes, logprobs: bytes) -> bytes:
        """One chunk of a choice.

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
        self, index: int, payload: bytes, logprobs: bytes, finish_reason: str | None, stop_reason: str | int | None
    ) -> bytes:
        """The last chunk of a choice."""
        ending = encode_json({"finish_reason": finish_reason, "stop_reason": stop_reason})
        parts = (self._choice, b"%d," % index, payload, b',"logprobs":', logprobs, b",", ending[1:], b"]", self._end())
        return b"".join(parts)

    def end(self) -> bytes:
        """What follows the last choice: the usage, if requested, and ``[DONE]``."""
        if not self._include_usage:
            return DONE
        return b"".join((self._head, b',"choices":[]', self._usage(), b"}\n\n", DONE))

    def _end(self) -> bytes:
        return self._usage() + b"}\n\n" if self._continuous_usage else self._tail

    def _usage(self) -> bytes:
        return b',"usage":' + encode_json(usage(self._prompt_tokens, self._completion_tokens, self._cached_tokens))
