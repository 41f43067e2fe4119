"""Limits the prefill tokens of a step while requests are decoding, so that decoding does not stall.

A step that only decodes has a base time, and each prompt token adds some. Both are measured while the engine runs,
because they depend on the model, the machine and the batch. Nobody has to configure them.
"""

from __future__ import annotations

EMA_WEIGHT = 0.2
"""Weight of the newest measurement in the moving averages."""
MAX_OUTLIER_RATIO = 4.0
"""A measurement counts as at most this many times the average. A step that captured a graph, or was delayed by the
machine, says little about the next ones.
"""
MIN_PREFILL_TOKENS = 4
"""Prompt tokens that a step may always compute. With fewer, the step's fixed cost would be wasted."""
INITIAL_PREFILL_TOKENS = 256
"""Prompt tokens beside decoding requests before anything was measured, and the minimum for a step without decoding
requests.
"""
MAX_PREFILL_SECONDS = 1.0
"""Seconds that a prefill step may take while no request is decoding."""


class PrefillLimiter:
    """Moving averages of the cost of steps.

    Args:
        slowdown: a step with prompts may take this many times as long as one without; 0 for no limit.
    """

    def __init__(self, slowdown: float) -> None:
        self.slowdown = slowdown
        self._decode_seconds: float | None = None  # seconds of a step that only decodes
        self._seconds_per_token: float | None = None  # seconds that a token of a prompt adds

    def max_prefill_tokens(self, streams: int, prompts: int) -> int | None:
        """Maximum number of prompt tokens in the next step; None for no limit.

        Args:
            streams: number of decoding requests.
            prompts: number of prompts to compute. If there are more prompts than decoding requests, the step may take
                longer in proportion.
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
        """Restart the measurement."""
        self._decode_seconds = self._seconds_per_token = None

    def observe(self, streams: int, prefill: int, seconds: float) -> None:
        """Record the time of a step, in which ``streams`` requests decoded and ``prefill`` prompt tokens were
        computed.
        """
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
