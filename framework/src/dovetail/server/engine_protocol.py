"""What the server needs of an engine. The server runs over anything of this shape, such as the fake of its tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol

from dovetail.engine.outputs import Delta
from dovetail.engine.params import SamplingParams


class ServedPlan(Protocol):
    """The part of a :class:`dovetail.kernel.plan.Plan` that the server reads."""

    @property
    def model(self) -> str: ...

    @property
    def tasks(self) -> tuple[str, ...]: ...


class ServedTokenizer(Protocol):
    """The part of the tokenizer that the server uses. Its methods are called from another thread."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def chat_template(self) -> str | Mapping[str, str] | None: ...

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, ids: list[int], /) -> str: ...

    def find_chat_template(self, chat_template: str | None = None) -> str:
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

    max_model_len: int
    """Tokens of prompt and output together."""
    default_params: dict[str, Any]
    """Sampling parameters for what a request does not say; ``max_tokens`` among them caps what it says, too."""

    @property
    def plan(self) -> ServedPlan: ...

    @property
    def tokenizer(self) -> ServedTokenizer: ...

    @property
    def alive(self) -> bool: ...

    @property
    def dead_reason(self) -> str: ...

    def generate(
        self, request_id: str, prompt_token_ids: list[int], params: SamplingParams
    ) -> AsyncGenerator[list[Delta], None]:
        """Yield what each step adds, until each of ``params.n`` completions has a finish reason.

        Closing the generator, or cancelling the task that waits for it, aborts the request.

        Raises:
            RequestError: the request cannot be served; raised before the first batch.
            EngineDeadError: the engine ended.
        """
        ...

    async def stop(self) -> None: ...
