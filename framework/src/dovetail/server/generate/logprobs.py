"""Logprobs as the API shows them: OpenAI's two formats, one for each route, and vLLM's format for prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dovetail.engine.request.outputs import Logprob, PositionLogprobs
from dovetail.server.engine_protocol import ServedTokenizer

MIN_LOGPROB = -9999.0
"""Replaces minus infinity, which JSON cannot represent."""


@dataclass(frozen=True)
class TokenFormatter:
    """How tokens are written.

    Attributes:
        as_ids: as ``token_id:7``, which is never ambiguous, instead of as text.
    """

    tokenizer: ServedTokenizer
    as_ids: bool = False

    def text(self, token: int) -> str:
        return f"token_id:{token}" if self.as_ids else self.plain(token)

    def plain(self, token: int) -> str:
        # A token may be a part of a character, which has no text.
        return self.tokenizer.token_bytes(token).decode(errors="replace")


def chat_logprobs(
    formatter: TokenFormatter, token_ids: Sequence[int], positions: Sequence[PositionLogprobs], top: int
) -> dict[str, Any]:
    """The chat route's logprobs of some output tokens.

    Args:
        top: number of alternatives to show for each token.
    """

    def entry(token: int, logprob: float) -> dict[str, Any]:
        spelled = list(formatter.tokenizer.token_bytes(token))
        return {"token": formatter.text(token), "logprob": max(logprob, MIN_LOGPROB), "bytes": spelled}

    content = []
    for token, position in zip(token_ids, positions, strict=True):
        alternatives = [entry(other, found.logprob) for other, found in _most_likely(position)[:top]]
        content.append({**entry(token, position[token].logprob), "top_logprobs": alternatives})
    return {"content": content}


@dataclass
class CompletionLogprobs:
    """The completions route's logprobs of one choice. They include each token's offset in the choice's text.

    Attributes:
        top: number of alternatives to show for each token, besides the token itself.
    """

    formatter: TokenFormatter
    top: int
    _offset: int = field(default=0, init=False)

    def show(self, token_ids: Sequence[int], positions: Sequence[PositionLogprobs | None]) -> dict[str, Any]:
        """Format the next tokens of the choice.

        Args:
            positions: the logprobs of each token; None for a first token, which has nothing before it.
        """
        shown: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token, position in zip(token_ids, positions, strict=True):
            shown["tokens"].append(self.formatter.text(token))
            shown["token_logprobs"].append(None if position is None else max(position[token].logprob, MIN_LOGPROB))
            shown["top_logprobs"].append(None if position is None else self._alternatives(token, position))
            spelled = self.formatter.tokenizer.token_bytes(token)
            # A token that continues a character has the character's offset.
            shown["text_offset"].append(self._offset - (spelled[:1] != b"" and not _starts_character(spelled[0])))
            self._offset += sum(map(_starts_character, spelled))
        return shown

    def _alternatives(self, token: int, position: PositionLogprobs) -> dict[str, float]:
        chosen = dict([(token, position[token]), *_most_likely(position)[: self.top]])
        alternatives: dict[str, float] = {}
        for other, found in chosen.items():
            # Parts of characters have one and the same text: the first, which is the chosen or the likelier, keeps it.
            alternatives.setdefault(self.formatter.text(other), max(found.logprob, MIN_LOGPROB))
        return alternatives


def prompt_logprobs(
    formatter: TokenFormatter, positions: Sequence[PositionLogprobs | None]
) -> list[dict[str, dict[str, Any]] | None]:
    """vLLM's format of a prompt's logprobs: token id → logprob, rank and text, at each position."""
    return [
        None
        if position is None
        else {
            str(token): {
                "logprob": max(found.logprob, MIN_LOGPROB),
                "rank": found.rank,
                "decoded_token": formatter.plain(token),
            }
            for token, found in position.items()
        }
        for position in positions
    ]


def _starts_character(byte: int) -> bool:
    """Whether a byte is the first byte of a UTF-8 character."""
    return byte & 0xC0 != 0x80


def _most_likely(position: PositionLogprobs) -> list[tuple[int, Logprob]]:
    return sorted(position.items(), key=lambda item: -item[1].logprob)
