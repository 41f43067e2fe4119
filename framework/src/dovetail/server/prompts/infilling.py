"""``suffix``: fills in text between a prefix and a suffix, with models that were trained for it (Bavarian et al.,
2022).
"""

from __future__ import annotations

from dovetail.server.engine_protocol import ServedTokenizer
from dovetail.server.http.errors import ApiError

FIM_TOKENS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    ("[PREFIX]", "[SUFFIX]", "[MIDDLE]"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
)
"""Special tokens before the prefix, before the suffix, and before the text to fill in."""


def build_infill_prompt(tokenizer: ServedTokenizer, prefix: list[int], suffix: list[int]) -> list[int]:
    """The prompt for text between a prefix and a suffix.

    Args:
        prefix, suffix: their tokens, without BOS.

    Raises:
        ApiError: the model has no tokens for this.
    """
    for notation in FIM_TOKENS:
        before, between, after = map(tokenizer.token_to_id, notation)
        if before is not None and between is not None and after is not None:
            return [before, *prefix, between, *suffix, after]
    message = "suffix: this model's vocabulary has no tokens for filling in between two texts; leave it out"
    raise ApiError(400, message, param="suffix", code="unsupported_parameter")
