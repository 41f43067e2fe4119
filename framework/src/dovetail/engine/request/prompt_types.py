"""Types of prompts, for annotations and for scripts that construct them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict


class TextPrompt(TypedDict):
    """A text prompt.

    Attributes:
        cache_salt: cached prefixes are shared only with prompts of the same salt.
    """

    prompt: str
    cache_salt: NotRequired[str | None]


class TokensPrompt(TypedDict):
    """A prompt of token ids.

    Attributes:
        prompt: its text, returned with the output.
        cache_salt: cached prefixes are shared only with prompts of the same salt.
    """

    prompt_token_ids: Sequence[int]
    prompt: NotRequired[str | None]
    cache_salt: NotRequired[str | None]


PromptType = str | Sequence[int] | TextPrompt | TokensPrompt
"""One prompt."""
