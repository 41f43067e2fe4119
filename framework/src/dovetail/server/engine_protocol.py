"""The interface that the server needs from an engine. Tests use a fake with the same interface."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from dovetail.api.cards import Task
from dovetail.engine.messages import EngineStats, ImageInput, Overview
from dovetail.engine.output.pooled import Pooled
from dovetail.engine.request.outputs import Delta
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.request.pooling_params import PoolingParams
from dovetail.engine.templates.rendered_prompt import RenderedPrompt
from dovetail.kernel.plan_parts import ParserPlan, PoolingPlan

if TYPE_CHECKING:
    from dovetail.engine.images.inputs import PromptWithImages


class ServedPlan(Protocol):
    """The part of a :class:`dovetail.kernel.plan.Plan` that the server reads."""

    @property
    def model(self) -> str: ...

    @property
    def tasks(self) -> tuple[Task, ...]: ...

    @property
    def max_model_len(self) -> int:
        """Maximum sequence length in tokens, before it was reduced to fit memory."""
        ...

    @property
    def tasks_reason(self) -> str:
        """Why these tasks."""
        ...

    @property
    def pooling(self) -> PoolingPlan | None:
        """How hidden states become vectors, if the model serves pooling tasks."""
        ...

    @property
    def tool_parsers(self) -> tuple[ParserPlan, ...]:
        """Candidates for the tool parser. The first one that recognises the chat template is used."""
        ...

    @property
    def reasoning_parsers(self) -> tuple[ParserPlan, ...]:
        """Candidates for the reasoning parser, chosen in the same way."""
        ...

    @property
    def config(self) -> dict[str, Any]:
        """The model's configuration."""
        ...


class ServedTokenizer(Protocol):
    """The part of the tokenizer that the server uses. Its methods are called from a worker thread."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def chat_template(self) -> str | Mapping[str, str] | None: ...

    @property
    def chat_template_content_format(self) -> Literal["auto", "string", "openai"]:
        """The format of contents for chat templates."""
        ...

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """Named special tokens, which are variables of chat templates."""
        ...

    @property
    def content_control_tokens(self) -> tuple[str, ...]:
        """Control tokens that are plain text in what messages say."""
        ...

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
        """Encode a text, or a pair of texts, truncated to ``limit`` tokens including special tokens."""
        ...

    def min_token_count(self, text: str) -> int:
        """A lower bound of the text's number of tokens, computed from its length; 0 if unknown."""
        ...

    def decode(self, ids: list[int], /, skip_special_tokens: bool = True) -> str: ...

    def convert_ids_to_tokens(self, ids: list[int], /) -> list[str | None]:
        """The tokens as the vocabulary spells them."""
        ...

    def token_bytes(self, id: int, /) -> bytes:
        """The bytes of one token, which may be a part of a character."""
        ...

    @property
    def special_ids(self) -> frozenset[int]: ...

    def token_to_id(self, token: str, /) -> int | None: ...

    def find_chat_template(self, chat_template: str | None = None, *, with_tools: bool = False) -> str:
        """The source of a chat template: one of the model's by name, the given text, or the model's default.

        Raises:
            RequestError: there is no such template.
        """
        ...

    def encode_rendered(self, prompt: RenderedPrompt, add_special_tokens: bool = False) -> list[int]:
        """Encode a rendered conversation. Control tokens that come from messages become plain text."""
        ...


class ServedEngine(Protocol):
    """An engine that many coroutines use concurrently."""

    @property
    def plan(self) -> ServedPlan: ...

    @property
    def tokenizer(self) -> ServedTokenizer: ...

    @property
    def max_model_len(self) -> int:
        """Maximum number of tokens of prompt and output together."""
        ...

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a sequence."""
        ...

    @property
    def default_params(self) -> Mapping[str, Any]:
        """Sampling parameters for fields that a request does not set. Its ``max_tokens`` is also an upper limit."""
        ...

    @property
    def max_num_seqs(self) -> int:
        """Maximum number of running sequences."""
        ...

    @property
    def max_num_queued_requests(self) -> int | None:
        """Maximum number of waiting sequences; None for no limit."""
        ...

    @property
    def scheduling_policy(self) -> str:
        """``fcfs`` or ``priority``."""
        ...

    @property
    def stats(self) -> EngineStats:
        """Statistics after the newest step."""
        ...

    @property
    def alive(self) -> bool:
        """Whether requests can be served now."""
        ...

    @property
    def dead_reason(self) -> str:
        """Why requests cannot be served."""
        ...

    @property
    def restarting(self) -> bool:
        """Whether the engine died and is being restarted."""
        ...

    @property
    def sleeping(self) -> bool: ...

    @property
    def adapters(self) -> Mapping[str, str]:
        """The LoRA adapters that requests may name: name → source."""
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
        images: list[ImageInput] | None = None,
    ) -> AsyncGenerator[list[Delta], None]:
        """Yield the deltas of each step, until each of ``params.n`` completions has a finish reason.

        Closing the generator, or cancelling the task that waits for it, aborts the request.

        Raises:
            RequestError: the request cannot be served; raised before the first batch.
            EngineDeadError: the engine ended.
        """
        ...

    @property
    def image_placeholder(self) -> str | None:
        """What stands for an image in a text for the model; None if it takes no images."""
        ...

    async def place_images(self, prompt_token_ids: list[int], images: Sequence[str]) -> PromptWithImages:
        """Read and process images, and put them into a prompt with a placeholder for each.

        Args:
            images: URLs.

        Raises:
            RequestError: an image cannot be read, or there are not as many placeholders.
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
        """A snapshot of the engine and its requests."""
        ...

    async def reset_prefix_cache(self) -> None: ...

    async def sleep(self, level: int) -> None: ...

    async def wake_up(self, tags: list[str] | None = None) -> None: ...

    async def add_adapter(self, name: str, path: str) -> None: ...

    async def remove_adapter(self, name: str) -> None: ...

    async def ended(self) -> str:
        """Wait until the engine has ended and will not restart. Returns the reason."""
        ...

    async def stop(self) -> None: ...
