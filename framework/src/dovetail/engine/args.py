"""The engine's options: one model, from which the command line's flags, ``LLM``'s arguments and the documentation follow."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from dovetail.kernel.options import PlanOptions, parse_byte_count, parse_media_limits, parse_token_count
from dovetail.utils import logs
from dovetail.utils.arguments import use_foreign_options
from dovetail.utils.flags import add_flags, read_flags

P = TypeVar("P", bound=argparse._ActionsContainer)

OFFLINE_DEFAULTS: dict[str, Any] = {"max_decode_slowdown": 0.0}
"""Defaults that are different in :class:`~dovetail.engine.offline.llm.LLM`: nobody reads a stream there, so throughput
comes first.
"""


class EngineArgs(PlanOptions):
    """All options that decide how one model runs. Names and defaults are those of the command line's flags.

    Options of other engines are accepted as on the command line. None means the default.

    Raises:
        UsageError: options are unknown, or refused with the reason.
    """

    max_num_seqs: Annotated[int, BeforeValidator(parse_token_count)] = Field(
        default=256, gt=0, le=65536, description="requests that run at once"
    )
    max_num_batched_tokens: Annotated[int | None, BeforeValidator(parse_token_count)] = Field(
        default=None,
        gt=0,
        description="tokens computed in one step (default: 2048); longer prompts are computed in chunks. Models whose tokens see "
        "the whole prompt compute it in one step: for them at least --max-model-len, which is the default if it is more",
    )
    max_num_queued_requests: int | None = Field(
        default=None, ge=0, description="refuse requests past so many that wait (HTTP 429); without it, none is refused"
    )
    scheduling_policy: Literal["fcfs", "priority"] = Field(
        default="fcfs",
        description="which waiting request runs next: the first that came, or the one of the lowest priority",
    )
    max_decode_slowdown: float = Field(
        default=2.0,
        ge=0,
        description="while streams are running, a step that also computes prompts may take so many times as long as one that "
        "does not; 0 for no limit, which is the default of LLM",
    )
    stream_interval: int = Field(
        default=1,
        gt=0,
        description="tokens that a stream sends together; its first token is sent at once. More cost less per token",
    )
    async_scheduling: bool | None = Field(
        default=None,
        description="prepare the next step while one computes; by default where the device works by itself",
    )
    enforce_eager: bool = Field(default=False, description="capture no graphs")
    enable_prefix_caching: bool = Field(
        default=True, description="keep the KV cache of prompts, for requests that begin alike"
    )
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, description="share of the device's memory that the engine may use, KV cache included"
    )
    cpu_offload_gb: float = Field(
        default=0,
        ge=0,
        description="GiB of weights to keep in the host's memory: on the CPU they all are, and on other devices it is refused",
    )
    kv_cache_memory_bytes: Annotated[int | None, BeforeValidator(parse_byte_count)] = Field(
        default=None,
        gt=0,
        description="memory of the KV cache, such as 4G, 4GiB or bytes; comes before --gpu-memory-utilization, on a CPU as well",
    )
    num_gpu_blocks_override: int | None = Field(
        default=None,
        gt=0,
        description="blocks of the KV cache, of --block-size tokens each; comes before what memory would hold, on a CPU as well",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="of the draws of requests that bring no seed of their own")
    generation_config: str = Field(
        default="auto",
        description="where default sampling parameters come from: auto (the model), none (neutral ones), or a folder",
    )
    override_generation_config: dict[str, Any] = Field(
        default={}, description="JSON object of default sampling parameters, over those of --generation-config"
    )
    max_logprobs: int = Field(
        default=20, ge=-1, description="most logprobs of a position that a request may ask for; -1 for no limit"
    )
    logprobs_mode: Literal["raw_logprobs", "raw_logits", "processed_logprobs", "processed_logits"] = Field(
        default="raw_logprobs",
        description="what the logprobs of outputs are: of the model's own distribution (raw), or of the one that a token was drawn "
        "from, after penalties, temperature and top-p (processed); logits are not normalized. Those of prompts are raw logprobs",
    )
    limit_mm_per_prompt: Annotated[dict[str, int], BeforeValidator(parse_media_limits)] = Field(
        default={}, description="most images of a prompt, as image=2 or JSON (default: 16)"
    )
    mm_processor_kwargs: dict[str, Any] = Field(
        default={}, description="JSON object of keys of preprocessor_config.json, over those of the model's file"
    )
    allowed_local_media_path: str | None = Field(
        default=None,
        description="folder that requests may have images read from (file://…), with all that is in it; none by default",
    )
    allowed_media_domains: list[str] = Field(
        default=[],
        description="hosts that requests may have images fetched from, as in their addresses; none by default",
    )
    max_image_bytes: Annotated[int, BeforeValidator(parse_byte_count)] = Field(
        default=20 * 2**20,
        gt=0,
        description="largest file of an image. What is sent within a request is also limited by --max-request-bytes",
    )
    max_image_pixels: int = Field(default=2**25, gt=0, description="most pixels of an image, width times height")
    enable_lora: bool = Field(default=False, description="accept LoRA adapters")
    max_loras: int = Field(default=4, gt=0, description="LoRA adapters that run in one batch")
    max_lora_rank: int = Field(default=16, gt=0, description="largest rank of a LoRA adapter")
    max_cpu_loras: int | None = Field(
        default=None, gt=0, description="LoRA adapters kept in the host's memory (default: as many as run in one batch)"
    )
    lora_modules: list[str] = Field(
        default=[], description="LoRA adapters to load at the start: name=path, or JSON objects with name and path"
    )
    skip_tokenizer_init: bool = Field(
        default=False, description="read no tokenizer: prompts and outputs are token ids alone"
    )
    chat_template: str | None = Field(
        default=None, description="a file with a chat template, or the template itself, instead of the model's own"
    )
    chat_template_content_format: Literal["auto", "string", "openai"] = Field(
        default="auto",
        description="how contents reach the chat template: string (text), openai (a list of parts), or as the template takes them",
    )
    allow_special_tokens_in_content: bool = Field(
        default=False,
        description="tokenize the texts of control tokens, such as <|im_end|>, as control tokens also in what messages say; "
        "by default they are plain text there",
    )
    plugins: str | None = Field(
        default=None,
        description="which plugins take part: comma-separated [kind:]distribution terms with wildcards, a - before a "
        "term denies; overrides DOVETAIL_PLUGINS",
    )
    prefer: list[str] = Field(
        default=[], description="kind:name=distribution, for a name that several distributions offer"
    )

    @model_validator(mode="before")
    @classmethod
    def _translate(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        # Imported with the first engine that is configured: help needs neither.
        from dovetail.utils.foreign.tables_by_command import SCRIPT_OPTIONS
        from dovetail.utils.foreign.translate import translate_keywords

        done = translate_keywords(given, cls.model_fields, SCRIPT_OPTIONS)
        done.check()
        for notice in done.notices:
            logs.announce(f"note: {notice}")
        return done.options

    def to_json(self, *, with_token: bool = False) -> str:
        """JSON for a process that also gets the Plan. It holds the result of the overrides, because a callable cannot
        be serialised.

        Args:
            with_token: include ``hf_token``, for a process that downloads.
        """
        values = self.model_copy(update={"hf_overrides": {}}).model_dump(mode="json")
        return json.dumps({**values, "hf_token": self.hf_token} if with_token else values)

    @classmethod
    def add_cli_args(cls, parser: P) -> P:
        """Add one flag for each option to a script's own parser, or to a group of the parser; ``--help`` then shows
        them in this group.

        The parsed namespace holds every option, so ``LLM(**vars(namespace))`` works after the script has removed its
        own. Only options in :data:`OFFLINE_DEFAULTS` are missing unless they were given.
        """
        add_flags(parser, cls, "engine", defaults=set(cls.model_fields) - set(OFFLINE_DEFAULTS))
        use_foreign_options(parser, "script")
        return parser

    @classmethod
    def from_cli_args(cls, namespace: argparse.Namespace) -> EngineArgs:
        """Take the engine's options from a parsed namespace; other entries are ignored.

        Raises:
            UsageError: a value is out of its range; names the flag.
        """
        return read_flags(cls, namespace)


AsyncEngineArgs = EngineArgs
"""vLLM's name for the options of :class:`~dovetail.engine.async_llm.async_llm.AsyncLLM`, which are the same."""
