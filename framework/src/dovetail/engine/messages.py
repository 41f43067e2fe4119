"""Messages between the API's process and the engine's, as msgpack.

Messages are arrays with a tag, so a message is only a few bytes larger than its tokens.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from typing import Any

import msgspec

from dovetail.engine.request.outputs import FinishReason
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.request.pooling_params import PoolingParams


class Message(msgspec.Struct, array_like=True, tag=True, gc=False):
    """Base of all messages."""


class Start(Message):
    """To the engine, first message: what to run. Both are JSON of their pydantic models."""

    plan: str
    args: str


class Sibling(msgspec.Struct, array_like=True, gc=False):
    """A further sequence of a request.

    Attributes:
        seed: of its random numbers; None for any.
    """

    id: str
    seed: int | None = None


class ImageArray(msgspec.Struct, array_like=True, gc=False):
    """An array that a model's processor made of an image.

    Attributes:
        dtype: numpy's name.
        data: its elements in order, in the machine's byte order.
    """

    dtype: str
    shape: list[int]
    data: bytes


class ImageInput(msgspec.Struct, array_like=True, gc=False):
    """An image in a prompt.

    Attributes:
        key: names its content: images of equal keys have equal embeddings.
        start, length: the place of its tokens in the prompt.
        rows: ranges of those tokens, counted from ``start``, whose embeddings are the image's, in order.
        arrays: the model's inputs.
        grid: see :class:`dovetail.api.ProcessedImage`.
    """

    key: bytes
    start: int
    length: int
    rows: list[tuple[int, int]]
    arrays: dict[str, ImageArray]
    grid: tuple[int, int, int] | None = None


class NewRequest(Message):
    """To the engine: one sequence, or several of the same prompt and parameters, which are sent once for all of them.

    Attributes:
        id: of the first sequence.
        priority: lower runs first, under ``--scheduling-policy priority``.
        cache_salt: sequences share cached prefixes only with those of the same salt.
        adapter: name of the LoRA adapter to run with.
        bad_words: the parameters' bad words as token ids; one text may have several spellings.
        pooling: compute a vector of the prompt, and sample nothing.
        siblings: the further sequences. They have the same parameters, except for the seed and ``prompt_logprobs``,
            which only the first has.
        images: of the prompt, in order; None for none.
    """

    id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    priority: int = 0
    cache_salt: str | None = None
    adapter: str | None = None
    bad_words: list[list[int]] = []
    pooling: PoolingParams | None = None
    siblings: list[Sibling] = []
    images: list[ImageInput] | None = None

    @property
    def ids(self) -> list[str]:
        """The ids of all sequences."""
        return [self.id, *(sibling.id for sibling in self.siblings)]

    def split(self) -> list[NewRequest]:
        """A message for each sequence. They share what they hold, such as the prompt and lists of the parameters."""
        if not self.siblings:
            return [self]
        first = copy.copy(self)
        first.siblings = []
        sequences = [first]
        for sibling in self.siblings:
            other = copy.copy(first)
            other.id, other.params = sibling.id, copy.copy(self.params)
            other.params.seed = sibling.seed
            other.params.prompt_logprobs = None
            sequences.append(other)
        return sequences


class Abort(Message):
    """To the engine: abort these requests; unknown ids are ignored."""

    ids: list[str]


class Stop(Message):
    """To the engine: exit."""


class EngineInfo(Message):
    """From the engine, once it is ready.

    Attributes:
        max_model_len: maximum sequence length. Memory may have reduced it.
        max_num_seqs: maximum number of running sequences.
        budget: how memory is divided, as text.
        kernels: name → number of layers that it serves.
        device: as text.
    """

    max_model_len: int
    max_num_seqs: int
    budget: str
    kernels: dict[str, int]
    device: str


class Loading(Message):
    """From the engine while it loads: number of loaded weights, and of all."""

    done: int
    total: int


class Failed(Message):
    """From the engine: it could not start, or must stop.

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
    """Logprobs of one position: the actual token first, then the likeliest ones in order.

    Attributes:
        rank: of the actual token, 1 for the likeliest; the others' ranks are 1, 2, 3 …
    """

    ids: list[int]
    logprobs: list[float]
    rank: int


class TokenOutput(Message):
    """From the engine: the output of one request in one step.

    Attributes:
        error: the error, if ``finish_reason`` is ``error``.
        is_request_error: the error is the request's own, not the engine's.
        logprobs: one entry for each of ``token_ids``, if requested.
        prompt_logprobs: with the first output, one entry for each token of the prompt but the first, if requested.
        cached_tokens: with the first output, prompt tokens that were found in the prefix cache.
        timing: with the first output, seconds in the queue, and seconds from there to this output.
        vector: the result of pooling: float32, little-endian.
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
    """The state of the engine; "total" counts only grow.

    Attributes:
        running, waiting: sequences.
        kv_usage: share of the KV-cache blocks in use, 0 to 1.
        prefix_queries, prefix_hits: total tokens that were looked up in, and found in, the prefix cache.
        preemptions: total.
        prompt_tokens, output_tokens: total tokens of prompts with a first token, and total sampled tokens.
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
"""Bucket bounds for the sizes of steps."""


class StepSizeHistogram(msgspec.Struct, array_like=True, gc=False):
    """Histogram of the number of tokens per step.

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
    """The state of one sequence.

    Attributes:
        state: ``running`` or ``waiting``.
        prompt_tokens, output_tokens: of the prompt, and sampled so far.
        seconds: since it arrived in the engine.
    """

    id: str
    state: str
    prompt_tokens: int
    output_tokens: int
    seconds: float


class Overview(msgspec.Struct, array_like=True):
    """A snapshot of the engine and its requests.

    Attributes:
        requests: only a part of them if there are very many.
        num_omitted: how many are not in ``requests``.
        steps: since the engine started.
        num_drafts: total drafts of speculative decoding, of any length.
        running_adapters, waiting_adapters: names of the LoRA adapters in use. An adapter with running sequences is not
            listed as waiting.
        max_loras: adapters on the device at once; 0 if adapters are disabled.
        cache: facts about the KV cache, by name.
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
    """From the engine: the outputs of one step, and the statistics after it."""

    outputs: list[TokenOutput]
    stats: EngineStats


class State(Message):
    """From the engine, before the answer to the call that changed it: state that clients must know besides outputs.

    Attributes:
        adapters: the LoRA adapters that requests may name: name → source.
        sleeping: whether a part of the engine sleeps.
    """

    adapters: dict[str, str] = {}
    sleeping: bool = False


class Call(Message):
    """To the engine: run one of its operations (see :data:`OPERATIONS`).

    Attributes:
        number: repeated in the answer.
        arguments: of the operation.
    """

    number: int
    operation: str
    arguments: list[Any] = []


class Answer(Message):
    """From the engine: the result of a call, or its failure (class name of the exception, problem, hint)."""

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
