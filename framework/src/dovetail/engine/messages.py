"""What travels between the API's process and the engine's, as msgpack.

Frames are arrays with a tag, so that a message costs a few bytes more than its tokens.
"""

from __future__ import annotations

from typing import Any

import msgspec

from dovetail.engine.outputs import FinishReason
from dovetail.engine.params import SamplingParams


class Message(msgspec.Struct, array_like=True, tag=True, gc=False):
    """Base of all messages."""


class Start(Message):
    """To the engine, first: what to run. Both are JSON of their pydantic models."""

    plan: str
    args: str


class NewRequest(Message):
    """To the engine: one sequence."""

    id: str
    prompt_token_ids: list[int]
    params: SamplingParams


class Abort(Message):
    """To the engine: forget these; unknown ids are ignored."""

    ids: list[str]


class Stop(Message):
    """To the engine: leave."""


class EngineInfo(Message):
    """From the engine, once it is ready.

    Attributes:
        max_model_len: the longest sequence, which memory may have shortened.
        cache_tokens, cache_bytes: of the KV cache.
        weight_bytes: of the weights as the kernels keep them.
        kernels: name → layers that it serves.
        device: in words.
    """

    max_model_len: int
    cache_tokens: int
    cache_bytes: int
    weight_bytes: int
    kernels: dict[str, int]
    device: str


class Loading(Message):
    """From the engine while it loads."""

    done: int
    total: int


class Failed(Message):
    """From the engine: it could not start, or has to stop.

    Attributes:
        error: class name of the exception.
        problem, hint: of a :class:`~dovetail.api.DovetailError`; otherwise the exception's text.
        traceback: for ``--debug`` and for bugs.
    """

    error: str
    problem: str
    hint: str
    traceback: str


class TokenOutput(Message):
    """From the engine: what one request got in one step."""

    id: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_reason: int | None = None
    error: str | None = None


class StepOutputs(Message):
    """From the engine: what one step gave."""

    outputs: list[TokenOutput]


ToEngine = Start | NewRequest | Abort | Stop
FromEngine = EngineInfo | Loading | Failed | StepOutputs

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
_to_engine: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(ToEngine)
_from_engine: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(FromEngine)


def decode_to_engine(frame: bytes) -> ToEngine:
    message: ToEngine = _to_engine.decode(frame)
    return message


def decode_from_engine(frame: bytes) -> FromEngine:
    message: FromEngine = _from_engine.decode(frame)
    return message
