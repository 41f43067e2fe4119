"""A rendered conversation, as a chat template leaves it for the tokenizer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RenderedPrompt:
    """A rendered conversation.

    Attributes:
        plain: offsets (in characters) in text where a control token's text came from a message and must be encoded as
            plain text.
    """

    text: str
    plain: tuple[int, ...] = ()
