"""A request in the engine: token ids in, token ids out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dovetail.engine.request.outputs import FinishReason
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.text.bad_words import NO_BAD_WORDS, BadWords

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor

    from dovetail.api.logits import LogitsRow
    from dovetail.engine.grammars.compiler import RequestGrammar
    from dovetail.engine.messages import ImageInput
    from dovetail.engine.request.logits_processors import NamedProcessor
    from dovetail.engine.request.pooling_params import PoolingParams


@dataclass
class KVCacheBlocks:
    """A request's blocks in the KV cache.

    Attributes:
        tables: for each group, its blocks in order; null blocks where they have left the window.
        num_out_of_window: for each group, the number of entries that have left the window.
        num_cached_blocks: full blocks that are in the prefix cache.
        capacity: tokens that fit into the tables.
    """

    tables: list[list[int]]
    num_out_of_window: list[int]
    num_cached_blocks: int = 0
    capacity: int = 0


@dataclass(eq=False)
class Request:
    """One sequence. A prompt with ``n`` completions is ``n`` requests.

    Attributes:
        tokens: prompt and output, as far as they have reached the host. Until the request first runs, the sequences of
            one prompt share the list.
        num_prompt_tokens: how many of them are the prompt.
        max_len: the length at which the request ends, prompt included.
        seed: of its random numbers. Two requests with the same seed get the same numbers at the same positions.
        arrival_index: its number in order of arrival.
        arrival_time: when it arrived, in seconds on the monotonic clock.
        first_scheduled_time: when it was first scheduled, on the same clock.
        num_computed_tokens: tokens whose keys and values are in the cache, or are written by a step in flight.
        num_in_flight_tokens: tokens that were sampled, but have not reached the host yet.
        draft_token_ids: the proposer's draft; the next step verifies it.
        num_cached_tokens: prompt tokens that were found in the prefix cache when it was first admitted.
        row: in the persistent batch, or -1 while waiting.
        prefix_key: the part of the prefix-cache key besides tokens (salt, adapter).
        block_hashes: hashes of its full blocks, computed as needed.
        lora_slot: LoRA slot, 0 for none.
        bad_words: token ids that must not follow each other in the output.
        grammar: constrains the output, if structured output is requested.
        logits_processors: the processors of its logits, each with its view of the request.
        failure: why it cannot get more tokens, if a plugin failed on it.
        pooling_params: for pooling requests, with all defaults filled in; :attr:`num_in_flight_tokens` then counts the
            vector.
    """

    id: str
    tokens: list[int]
    params: SamplingParams
    num_prompt_tokens: int
    max_len: int
    eos_ids: frozenset[int]
    seed: int = 0
    priority: int = 0
    arrival_index: int = 0
    arrival_time: float = field(default_factory=time.monotonic)
    first_scheduled_time: float = 0.0
    num_computed_tokens: int = 0
    num_in_flight_tokens: int = 0
    draft_token_ids: list[int] = field(default_factory=list)
    num_cached_tokens: int | None = None
    row: int = -1
    prefix_key: str = ""
    block_hashes: list[bytes] = field(default_factory=list)
    lora_slot: int = 0
    bad_words: BadWords = NO_BAD_WORDS
    grammar: RequestGrammar | None = None
    logits_processors: list[tuple[NamedProcessor, LogitsRow]] = field(default_factory=list)
    failure: str | None = None
    pooling_params: PoolingParams | None = None
    pooling_state: Tensor | None = None
    """Pooled state of the chunks so far, float32 ``[C]``, if pooling needs more than the last token."""
    kv_blocks: KVCacheBlocks | None = None
    """Its blocks in the KV cache."""
    images: Sequence[ImageInput] = ()
    """Of its prompt, in order."""
    rope_positions: ndarray | None = None
    """int64 ``[3, P]``, of its prompt, where images have rotary positions of their own."""
    rope_offset: int = 0
    """What later tokens add to their positions for rotary ones."""
    prompt_logprobs: list[Any] = field(default_factory=list)
    """The logprobs computed so far."""

    def own_tokens(self) -> None:
        """Copy the tokens, which the sequences of one request share until they run."""
        self.tokens = list(self.tokens)
        for _, row in self.logits_processors:
            row.tokens = self.tokens

    @property
    def num_tokens(self) -> int:
        """Number of tokens, including those that have not reached the host."""
        return len(self.tokens) + self.num_in_flight_tokens

    @property
    def num_output_tokens(self) -> int:
        return len(self.tokens) + self.num_in_flight_tokens - self.num_prompt_tokens

    @property
    def num_pending_tokens(self) -> int:
        """Tokens still to be computed."""
        return len(self.tokens) + self.num_in_flight_tokens - self.num_computed_tokens

    @property
    def skip_prefix_cache(self) -> bool:
        """Whether the whole prompt must be computed, even if it is cached."""
        if self.pooling_params is not None:
            return self.pooling_params.pooling_type != "last"
        return self.params.prompt_logprobs is not None

    @cached_property
    def end_token_ids(self) -> frozenset[int]:
        stops = frozenset(self.params.stop_token_ids)
        return stops if self.params.ignore_eos else stops | self.eos_ids

    @cached_property
    def needs_host_tokens(self) -> bool:
        """Whether sampling the next token needs all earlier tokens on the host (grammar, bad words, logits
        processors).
        """
        looks_back = self.grammar is not None or bool(self.logits_processors)
        return looks_back or self.bad_words.looks_back

    def finish_reason(self) -> tuple[FinishReason | None, int | None]:
        """Whether the newest token on the host ends the request. Returns the reason, and the stop token if it was one
        of the request's own.
        """
        token = self.tokens[-1]
        if self.grammar is not None and token in self.eos_ids:
            return "stop", None  # the grammar allows an end where it may be, whatever else the request says of ends
        if len(self.tokens) - self.num_prompt_tokens >= self.params.min_tokens and token in self.end_token_ids:
            own = token in self.params.stop_token_ids and token not in self.eos_ids
            return "stop", token if own else None
        if len(self.tokens) >= self.max_len:
            return "length", None
        return None, None
