"""How much of a prompt a step may compute beside running streams, so that they do not stall.

A step that only decodes takes some time, and each token of a prompt adds some. Both are measured as the engine runs, since they depend on the model, the
machine and the batch; nobody has to know them beforehand.
"""

from __future__ import annotations

EMA_WEIGHT = 0.2
"""Of the newest measurement in the moving averages."""
MAX_OUTLIER_RATIO = 4.0
"""A measurement counts as at most so many times the average: a step in which a graph was captured, or the machine did something else, says little of
the next ones."""
MIN_PREFILL_TOKENS = 4
"""Tokens of a prompt that a step may always compute: below that, a step's fixed cost would be paid for nearly nothing."""
INITIAL_PREFILL_TOKENS = 256
"""Tokens of a prompt beside streams while nothing has been measured, and the fewest that a step without streams computes."""
MAX_PREFILL_SECONDS = 1.0
"""Seconds that a step of prompts may take while nobody waits for a next token."""


class PrefillLimiter:
    """Moving averages of what steps cost.

    Args:
        slowdown: a step with prompts may take so many times as long as one without; 0 for no limit.
    """

    def __init__(self, slowdown: float) -> None:
        self.slowdown = slowdown
        self._decode_seconds: float | None = None  # seconds of a step that only decodes
        self._seconds_per_token: float | None = None  # seconds that a token of a prompt adds

    def max_prefill_tokens(self, streams: int, prompts: int) -> int | None:
        """Tokens of prompts that the next step may compute; None for no limit.

        Args:
            streams: that wait for their next tokens.
            prompts: that wait to be computed. Few streams do not hold up many prompts: where there are more prompts, the step may take longer in
                proportion.
        """
        if not self.slowdown:
            return None
        if not streams:  # others may come, and those that are here may leave, while it computes
            return (
                None
                if self._seconds_per_token is None
                else max(INITIAL_PREFILL_TOKENS, int(MAX_PREFILL_SECONDS / self._seconds_per_token))
            )
        if self._decode_seconds is None or self._seconds_per_token is None:
            return INITIAL_PREFILL_TOKENS
        patience = (self.slowdown - 1) * max(1.0, prompts / streams)
        return max(MIN_PREFILL_TOKENS, int(patience * self._decode_seconds / self._seconds_per_token))

    def forget(self) -> None:
        """Begin to measure anew."""
        self._decode_seconds = self._seconds_per_token = None

    def observe(self, streams: int, prefill: int, seconds: float) -> None:
        """Take note of a step's time: so many streams got a token, ``prefill`` tokens of prompts were computed."""
        if not prefill:
            self._decode_seconds = _update_average(self._decode_seconds, seconds)
        elif prefill >= MIN_PREFILL_TOKENS:  # a handful of tokens says little of what many cost
            base = self._decode_seconds if streams and self._decode_seconds is not None else 0.0
            self._seconds_per_token = _update_average(
                self._seconds_per_token, max(seconds - base, 0.1 * seconds) / prefill
            )


def _update_average(average: float | None, value: float) -> float:
    return (
        value if average is None else (1 - EMA_WEIGHT) * average + EMA_WEIGHT * min(value, MAX_OUTLIER_RATIO * average)
    )
