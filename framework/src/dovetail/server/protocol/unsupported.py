"""Parameters of OpenAI's, Anthropic's or vLLM's API that this server does not support yet.

Each is accepted with a neutral value (such as null or false) and refused otherwise. To support one, move it from here
to :mod:`dovetail.server.protocol.requests`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
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
    "guided_decoding_backend": ("auto", "guidance", "lm-format-enforcer", "outlines", "xgrammar"),  # there is one
    "guided_whitespace_pattern": (),
    "image": (),
    "inference_geo": (),
    "kv_transfer_params": (),
    "logprob_token_ids": (),
    "mcp_servers": ([],),
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "previous_input_messages": ([],),
    "prompt": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": ("in-memory", "in_memory", "24h"),  # what is used stays while there is room
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
    "vllm_xargs": ({},),
    "watermarking": (False,),
    "web_search_options": (),
}
"""Parameter → its neutral values besides null."""

UNSUPPORTED_WITHIN: dict[str, dict[str, tuple[Any, ...]]] = {
    "messages": {"audio": ()},
    "reasoning": {"context": ("auto",), "mode": ("standard",)},
    "structured_outputs": {
        "disable_additional_properties": (False,),
        "disable_any_whitespace": (False,),
        "disable_fallback": (True, False),  # there is nothing to fall back on
        "whitespace_pattern": (),
    },
    "tools": {"async": (False,), "defer_loading": (False,), "allowed_callers": (["direct"],), "output_schema": ()},
}
"""The same for fields inside a field, or inside each entry of a list."""


def is_planned(place: Sequence[str | int]) -> bool:
    """Whether an unknown field is one of the unsupported ones, and not an invented one.

    Args:
        place: path of the field: names, and indices of lists.
    """
    return _find(place) is not None


def neutral_values(place: Sequence[str | int]) -> tuple[Any, ...]:
    """The neutral values of an unsupported field, besides null.

    Args:
        place: as of :func:`is_planned`.
    """
    return _find(place) or ()


def _find(place: Sequence[str | int]) -> tuple[Any, ...] | None:
    match [part for part in place if isinstance(part, str)]:
        case [name]:
            return UNSUPPORTED.get(name)
        case [*_, outer, name]:
            return UNSUPPORTED_WITHIN.get(outer, {}).get(name)
    return None
