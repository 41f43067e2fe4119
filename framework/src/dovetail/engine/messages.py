"""What travels between the API's process and the engine's, as msgpack.

Frames are arrays with a tag, so that a message costs a few bytes more than its tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import msgspec

from dovetail.engine.request.outputs import FinishReason
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.request.pooling_params import PoolingParams


class Message(msgspec.Struct, array_like=True, tag=True, gc=False):
    """Base of all messages."""


class Start(Message):
    """To the engine, first: what to run. Both are JSON of their pydantic models."""

    plan: str
    args: str


class NewRequest(Message):
    """To the engine: one sequence.

    Attributes:
        priority: lower runs first, under ``--scheduling-policy priority``.
        cache_salt: sequences share cached prefixes only with those of the same salt.
        adapter: name of the LoRA adapter to run with.
        bad_words: the parameters' bad words as token ids; one text may be written in several ways.
        pooling: make a vector of the prompt, and sample nothing.
    """

    id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    priority: int = 0
    cache_salt: str | None = None
    adapter: str | None = None
    bad_words: list[list[int]] = []
    pooling: PoolingParams | None = None


class Abort(Message):
    """To the engine: forget these; unknown ids are ignored."""

    ids: list[str]


class Stop(Message):
    """To the engine: leave."""


class EngineInfo(Message):
    """From the engine, once it is ready.

    Attributes:
        max_model_len: the longest sequence, which memory may have shortened.
        max_num_seqs: sequences that run at once.
        budget: how memory is divided, in words.
        kernels: name → layers that it serves.
        device: in words.
    """

    max_model_len: int
    max_num_seqs: int
    budget: str
    kernels: dict[str, int]
    device: str


class Loading(Message):
    """From the engine while it loads: weights loaded, and in all."""

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


class TokenLogprobs(msgspec.Struct, array_like=True, gc=False):
    """Logprobs of one position: the token that stands there first, then the likeliest ones in order.

    Attributes:
        rank: of the first token, 1 for the likeliest; the others' ranks are 1, 2, 3 …
    """

    ids: list[int]
    logprobs: list[float]
    rank: int


class TokenOutput(Message):
    """From the engine: what one request got in one step.

    Attributes:
        error: what went wrong, if ``finish_reason`` is ``error``.
        is_request_error: the error is the request's own, not the engine's.
        logprobs: one entry for each of ``token_ids``, if asked for.
        prompt_logprobs: with the first output, one entry for each token of the prompt but the first, if asked for.
        cached_tokens: with the first output, tokens of the prompt that were found in the prefix cache.
        timing: with the first output, seconds that it waited, and seconds from there to this output.
        vector: what pooling gave: float32, little-endian.
    """

    id: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_reason: int | None = None
    error: str | None = None
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
    cached_tokens: int = 0
    is_request_error: bool = False
    timing: tuple[float, float] | None = None
    vector: bytes | None = None


class EngineStats(msgspec.Struct, array_like=True, gc=False):
    """What the engine is doing; counts with "total" only grow.

    Attributes:
        running, waiting: sequences.
        kv_usage: share of the KV-cache blocks that sequences hold, 0 to 1.
        prefix_queries, prefix_hits: total tokens that were looked up in, and found in, the prefix cache.
        preemptions: total.
        prompt_tokens, output_tokens: total of prompts that got their first token, and sampled.
        num_draft_tokens, num_accepted_tokens: total tokens of speculative decoding.
    """

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0


STEP_SIZE_BUCKETS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Sizes of steps between which they are counted."""


class StepSizeHistogram(msgspec.Struct, array_like=True, gc=False):
    """How many tokens steps computed.

    Attributes:
        counts: steps of up to each of :data:`STEP_SIZE_BUCKETS`, and of more than the last.
        total: tokens of all steps.
    """

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(STEP_SIZE_BUCKETS) + 1))
    total: int = 0

    def add(self, tokens: int) -> None:
        """Count a step."""
        self.counts[bisect_left(STEP_SIZE_BUCKETS, tokens)] += 1
        self.total += tokens


class RequestStats(msgspec.Struct, array_like=True, gc=False):
    """How one sequence stands.

    Attributes:
        state: ``running`` or ``waiting``.
        prompt_tokens, output_tokens: of the prompt, and sampled so far.
        seconds: since the engine got it.
    """

    id: str
    state: str
    prompt_tokens: int
    output_tokens: int
    seconds: float


class Overview(msgspec.Struct, array_like=True):
    """What the engine is doing at one moment, and for whom.

    Attributes:
        requests: a part of them where there are very many.
        num_omitted: how many are not in ``requests``.
        steps: since the engine began.
        num_drafts: total guesses of speculative decoding, of whatever length.
        running_adapters, waiting_adapters: names of the LoRA adapters that sequences have; one whose sequences run is not said to wait.
        max_loras: adapters that run at once; 0 where none may.
        cache: facts of the KV cache, by name.
    """

    stats: EngineStats
    requests: list[RequestStats]
    num_omitted: int
    steps: StepSizeHistogram = msgspec.field(default_factory=StepSizeHistogram)
    num_drafts: int = 0
    running_adapters: list[str] = []
    waiting_adapters: list[str] = []
    max_loras: int = 0
    cache: dict[str, str] = {}


class StepOutputs(Message):
    """From the engine: what one step gave, and how the engine stood after it."""

    outputs: list[TokenOutput]
    stats: EngineStats


class State(Message):
    """From the engine, before the answer to the call that changed it: what its clients have to know besides its steps.

    Attributes:
        adapters: the LoRA adapters that requests may name: name → where each came from.
        sleeping: whether something of it sleeps.
    """

    adapters: dict[str, str] = {}
    sleeping: bool = False


class Call(Message):
    """To the engine: do one of its own operations (see :data:`OPERATIONS`).

    Attributes:
        number: repeated in the answer.
        arguments: of the operation.
    """

    number: int
    operation: str
    arguments: list[Any] = []


class Answer(Message):
    """From the engine: a call's result, or why it failed (class name of the exception, problem, hint)."""

    number: int
    result: Any = None
    failure: tuple[str, str, str] | None = None


OPERATIONS = ("reset_prefix_cache", "sleep", "wake_up", "add_adapter", "remove_adapter", "overview")
"""Methods of :class:`~dovetail.engine.step.core.EngineCore` that can be called from the API's process."""


ToEngine = Start | NewRequest | Abort | Call | Stop
FromEngine = EngineInfo | Loading | Failed | StepOutputs | State | Answer

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
