"""The engine's output for one prompt of a pooling request."""

from __future__ import annotations

from dataclasses import dataclass

from dovetail.engine.messages import TokenOutput


@dataclass(slots=True)
class Pooled:
    """The engine's output for one prompt of a pooling request.

    Attributes:
        vector: float32, little-endian; empty if there is an error.
        cached_tokens: prompt tokens that were found in the prefix cache.
        timing: seconds in the queue, and seconds from there on.
        error: the error, if there is one.
        is_request_error: the error is the request's own, not the engine's.
    """

    vector: bytes
    cached_tokens: int = 0
    timing: tuple[float, float] | None = None
    error: str | None = None
    is_request_error: bool = False

    @classmethod
    def from_output(cls, output: TokenOutput) -> Pooled:
        return cls(output.vector or b"", output.cached_tokens, output.timing, output.error, output.is_request_error)
