"""What the server needs of an engine. The server runs over anything of this shape, such as the fake of its tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Literal, Protocol

from dovetail.api.cards import Task
from dovetail.engine.messages import EngineStats, Overview
from dovetail.engine.output.pooled import Pooled
from dovetail.engine.request.outputs import Delta
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.request.pooling_params import PoolingParams
from dovetail.kernel.plan import ParserPlan, PoolingPlan


class ServedPlan(Protocol):
    """The part of a :class:`dovetail.kernel.plan.Plan` that the server reads."""

    @property
    def model(self) -> str: ...

    @property
    def tasks(self) -> tuple[Task, ...]: ...

    @property
    def max_model_len(self) -> int:
        """Tokens of the longest sequence, before memory shortened it."""
        ...

    @property
    def tasks_reason(self) -> str:
        """Why those."""
        ...

    @property
    def pooling(self) -> PoolingPlan | None:
        """How vectors are made, if they are."""
        ...

    @property
    def tool_parsers(self) -> tuple[ParserPlan, ...]:
        """Readers of tool calls; the first that recognises the chat template serves."""
        ...

    @property
    def reasoning_parsers(self) -> tuple[ParserPlan, ...]:
        """The same of reasoning."""
        ...

    @property
    def config(self) -> dict[str, Any]:
        """The model's configuration."""
        ...


class ServedTokenizer(Protocol):
    """The part of the tokenizer that the server uses. Its methods are called from another thread."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def chat_template(self) -> str | Mapping[str, str] | None: ...

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...

    def encode_within(
        self,
        text: str,
        limit: int | None,
        /,
        *,
        pair: str | None = None,
        side: Literal["left", "right"] = "right",
        add_special_tokens: bool = True,
    ) -> list[int]:
        """Ids of a text, or of two that belong together, cut to ``limit`` tokens, special ones included."""
        ...

    def min_token_count(self, text: str) -> int:
        """A text has at least so many tokens, which takes no time to know; 0 where nothing is known."""
        ...

    def decode(self, ids: list[int], /, skip_special_tokens: bool = True) -> str: ...

    def convert_ids_to_tokens(self, ids: list[int], /) -> list[str | None]:
        """The tokens as the vocabulary writes them."""
        ...

    def token_bytes(self, id: int, /) -> bytes:
        """How one token is spelled, which may be a part of a character."""
        ...

    @property
    def special_ids(self) -> frozenset[int]: ...

    def token_to_id(self, token: str, /) -> int | None: ...

    def find_chat_template(self, chat_template: str | None = None, *, with_tools: bool = False) -> str:
        """The source of a template: one of the model's by name, the text given, or the model's own.

        Raises:
            RequestError: there is none.
        """
        ...

    def apply_chat_template(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        documents: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> str:
        """The text of a conversation.

        Raises:
            RequestError: there is no template, or it refuses the messages.
        """
        ...


class ServedEngine(Protocol):
    """An engine that many coroutines use at once."""

    @property
    def plan(self) -> ServedPlan: ...

    @property
    def tokenizer(self) -> ServedTokenizer: ...

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and output together."""
        ...

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a sequence."""
        ...

    @property
    def default_params(self) -> Mapping[str, Any]:
        """Sampling parameters for what a request does not say; ``max_tokens`` among them caps what it says, too."""
        ...

    @property
    def max_num_seqs(self) -> int:
        """Sequences that run at once."""
        ...

    @property
    def max_num_queued_requests(self) -> int | None:
        """Sequences that may wait; None for any number."""
        ...

    @property
    def scheduling_policy(self) -> str:
        """``fcfs`` or ``priority``."""
        ...

    @property
    def stats(self) -> EngineStats:
        """How it stood after its newest step."""
        ...

    @property
    def alive(self) -> bool:
        """Whether requests can be served now."""
        ...

    @property
    def dead_reason(self) -> str:
        """Why not."""
        ...

    @property
    def restarting(self) -> bool:
        """Whether it is gone, and will be back by itself."""
        ...

    @property
    def sleeping(self) -> bool: ...

    @property
    def adapters(self) -> Mapping[str, str]:
        """The LoRA adapters that requests may name: name → where it came from."""
        ...

    def generate(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        adapter: str | None = None,
    ) -> AsyncGenerator[list[Delta], None]:
        """Yield what each step adds, until each of ``params.n`` completions has a finish reason.

        Closing the generator, or cancelling the task that waits for it, aborts the request.

        Raises:
            RequestError: the request cannot be served; raised before the first batch.
            EngineDeadError: the engine ended.
        """
        ...

    async def pool(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: PoolingParams,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        adapter: str | None = None,
    ) -> Pooled:
        """The vector of one prompt. Cancelling the task that waits for it aborts the request.

        Raises:
            RequestError: the request cannot be served.
            EngineDeadError: the engine ended.
        """
        ...

    def check_beam_search(self) -> None:
        """
        Raises:
            RequestError: it cannot search for the likeliest outputs.
        """
        ...

    async def overview(self) -> Overview:
        """What it is doing at the moment, and for which requests."""
        ...

    async def reset_prefix_cache(self) -> None: ...

    async def sleep(self, level: int) -> None: ...

    async def wake_up(self, tags: list[str] | None = None) -> None: ...

    async def add_adapter(self, name: str, path: str) -> None: ...

    async def remove_adapter(self, name: str) -> None: ...

    async def ended(self) -> str:
        """Wait until the engine is gone and will not be back; why it went."""
        ...

    async def stop(self) -> None: ...
