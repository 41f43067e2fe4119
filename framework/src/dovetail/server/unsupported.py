"""Parameters that OpenAI's API, Anthropic's or vLLM define and this server does not have yet.

Each is refused by name when it asks for something, and accepted with a value that asks for nothing. Building one means
moving it from here to :mod:`dovetail.server.protocol`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from dovetail.server.errors import ApiError, describe

NOT_YET: dict[str, tuple[Any, ...]] = {
    "access_programs": (),
    "audio": (),
    "background_options": (),
    "compaction": (),
    "container": (),
    "context_management": ([], {"edits": []}, {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}),
    "conversation": (),
    "early_stopping": (False,),
    "ec_transfer_params": (),
    "echo": (False,),
    "enable_response_messages": (False,),
    "fallbacks": ([],),
    "image": (),
    "inference_geo": (),
    "kv_transfer_params": (),
    "logits_processors": ([],),
    "logprob_token_ids": (),
    "mcp_servers": ([],),
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "previous_input_messages": ([],),
    "prompt": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": ("in-memory", "in_memory"),
    "prompt_embeds": (),
    "repeat_last_n": (0,),
    "repetition_detection": (),
    "return_prompt_text": (False,),
    "service_tier": ("auto", "default", "flex", "priority", "scale"),  # there is one
    "speed": ("standard",),
    "store": (False,),
    "thinking_token_budget": (),
    "thread": (),
    "top_logprobs": (0,),
    "truncation_side": (),
    "verbosity": ("medium",),
    "vllm_xargs": ({},),
    "watermarking": (False,),
    "web_search_options": (),
}
"""Parameter → the values, besides null, that ask for nothing."""

NOT_YET_IN_MESSAGES: dict[str, tuple[Any, ...]] = {
    "audio": (),
}


def known_fields(
    data: dict[str, Any], model: type[BaseModel], not_yet: dict[str, tuple[Any, ...]], path: str = ""
) -> dict[str, Any]:
    """The fields of ``data`` that ``model`` has, without those that ask for nothing.

    Raises:
        ApiError: a field asks for what is not built, or is unknown.
    """
    known = {}
    for name, value in data.items():
        if name in model.model_fields:
            known[name] = value
        elif value is None or any(_same(value, nothing) for nothing in not_yet.get(name, ())):
            continue
        elif name in not_yet:
            message = f"{path}{name} is not supported yet; leave it out"
            raise ApiError(400, message, param=path + name, code="unsupported_parameter")
        else:
            shown = describe(name)
            raise ApiError(400, f"unknown parameter {path}{shown}", param=path + name, code="unknown_parameter")
    return known


def _same(value: Any, nothing: Any) -> bool:
    # In Python True == 1, in JSON it is not.
    return bool(value == nothing and isinstance(value, bool) == isinstance(nothing, bool))
