"""A request as the engine knows it: tokens in, tokens out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dovetail.engine.request.outputs import FinishReason
from dovetail.engine.request.params import SamplingParams

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail.api.logits import LogitsProcessor, LogitsRow
    from dovetail.engine.grammars.compiler import RequestGrammar
    from dovetail.engine.request.pooling_params import PoolingParams


@dataclass
class KVCacheBlocks:
    """A request's share of the cache.

    Attributes:
        tables: for each group, its blocks in order; null blocks where a window has passed.
        num_out_of_window: for each group, entries that a window has passed.
        num_cached_blocks: full blocks that have been named in the pools.
        capacity: tokens that the tables hold.
    """

    tables: list[list[int]]
    num_out_of_window: list[int]
    num_cached_blocks: int = 0
    capacity: int = 0


@dataclass(eq=False)
class Request:
    """One sequence. A prompt with ``n`` completions is ``n`` requests.

    Attributes:
        tokens: prompt and output, as far as the host has seen them.
        num_prompt_tokens: how many of them are the prompt.
        max_len: tokens at which it ends, prompt included.
        seed: of its draws. Two requests with the same seed draw the same numbers at the same positions.
        arrival_index: its number in order of arrival.
        arrival_time: when, in seconds on the monotonic clock.
        first_scheduled_time: when it first began to be computed, likewise.
        num_computed_tokens: tokens whose keys and values are in the cache, or are being written by a step that was begun.
        num_in_flight_tokens: tokens that were sampled, but have not reached the host yet.
        draft_token_ids: tokens that a proposer expects to follow; the next step checks them.
        num_cached_tokens: tokens of the prompt that were found in the prefix cache when it was first admitted.
        row: in the persistent batch, or -1 while waiting.
        prefix_key: what its cached blocks depend on besides tokens (salt, adapter).
        block_hashes: digests of its full blocks, as far as they were needed.
        lora_slot: LoRA slot, 0 for none.
        bad_words: token ids that may not follow each other in the output.
        grammar: the structure that the output must have, if one was asked for.
        logits_processors: what changes its logits, and what that is told of it.
        failure: why it can get no further token, where a plugin failed on it.
        pooling_params: what to make of the prompt instead of continuing it, with nothing left open; :attr:`num_in_flight_tokens` then counts the vector.
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
    bad_words: list[list[int]] = field(default_factory=list)
    grammar: RequestGrammar | None = None
    logits_processors: list[tuple[LogitsProcessor, LogitsRow]] = field(default_factory=list)
    failure: str | None = None
    pooling_params: PoolingParams | None = None
    pooling_state: Tensor | None = None
    """What its chunks so far give, float32 ``[C]``, where pooling needs more than the last token."""
    kv_blocks: KVCacheBlocks | None = None
    """What it holds of the KV cache."""
    prompt_logprobs: list[Any] = field(default_factory=list)
    """What has been computed of them so far."""

    @property
    def num_tokens(self) -> int:
        """Tokens so far, those that the host has not seen included."""
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
        """Whether every token of the prompt has to be computed, cached or not."""
        if self.pooling_params is not None:
            return self.pooling_params.pooling_type != "last"
        return self.params.prompt_logprobs is not None

    @cached_property
    def end_token_ids(self) -> frozenset[int]:
        stops = frozenset(self.params.stop_token_ids)
        return stops if self.params.ignore_eos else stops | self.eos_ids

    @cached_property
    def needs_host_tokens(self) -> bool:
        """Whether the host must have seen every earlier token before the next one can be chosen."""
        looks_back = self.grammar is not None or bool(self.logits_processors)
        return looks_back or any(len(words) > 1 for words in self.bad_words)

    def finish_reason(self) -> tuple[FinishReason | None, int | None]:
        """Whether the newest token that was seen ends the request: the reason, and the stop token if it was one of the request's own."""
        token = self.tokens[-1]
        if self.grammar is not None and token in self.eos_ids:
            return "stop", None  # the grammar allows an end where it may be, whatever else the request says of ends
        if len(self.tokens) - self.num_prompt_tokens >= self.params.min_tokens and token in self.end_token_ids:
            own = token in self.params.stop_token_ids and token not in self.eos_ids
            return "stop", token if own else None
        if len(self.tokens) >= self.max_len:
            return "length", None
        return None, None
