"""How much of a prompt a step may compute beside running streams, so that they do not stall.

A step that only decodes takes some time, and each token of a prompt adds some. Both are measured as the engine runs, since they depend on the model, the
machine and the batch; nobody has to know them beforehand.
"""

from __future__ import annotations

WEIGHT = 0.2
"""Of the newest measurement in the moving averages."""
OUTLIER = 4.0
"""A measurement counts as at most so many times the average: a step in which a graph was captured, or the machine did something else, says little of
the next ones."""
FEWEST = 4
"""Tokens of a prompt that a step may always compute: below that, a step's fixed cost would be paid for nearly nothing."""
AT_FIRST = 256
"""Tokens of a prompt beside streams while nothing has been measured, and the fewest that a step without streams computes."""
LONGEST = 1.0
"""Seconds that a step of prompts may take while nobody waits for a next token."""


class Pace:
    """Moving averages of what steps cost.

    Args:
        slowdown: a step with prompts may take so many times as long as one without; 0 for no limit.
    """

    def __init__(self, slowdown: float) -> None:
        self.slowdown = slowdown
        self._decode: float | None = None  # seconds of a step that only decodes
        self._token: float | None = None  # seconds that a token of a prompt adds

    def allowance(self, streams: int, prompts: int) -> int | None:
        """Tokens of prompts that the next step may compute; None for no limit.

        Args:
            streams: that wait for their next tokens.
            prompts: that wait to be computed. Few streams do not hold up many prompts: where there are more prompts, the step may take longer in
                proportion.
        """
        if not self.slowdown:
            return None
        if not streams:  # others may come, and those that are here may leave, while it computes
            return None if self._token is None else max(AT_FIRST, int(LONGEST / self._token))
        if self._decode is None or self._token is None:
            return AT_FIRST
        patience = (self.slowdown - 1) * max(1.0, prompts / streams)
        return max(FEWEST, int(patience * self._decode / self._token))

    def forget(self) -> None:
        """Begin to measure anew."""
        self._decode = self._token = None

    def observe(self, streams: int, prefill: int, seconds: float) -> None:
        """Take note of a step's time: so many streams got a token, ``prefill`` tokens of prompts were computed."""
        if not prefill:
            self._decode = _moved(self._decode, seconds)
        elif prefill >= FEWEST:  # a handful of tokens says little of what many cost
            base = self._decode if streams and self._decode is not None else 0.0
            self._token = _moved(self._token, max(seconds - base, 0.1 * seconds) / prefill)


def _moved(average: float | None, value: float) -> float:
    return value if average is None else (1 - WEIGHT) * average + WEIGHT * min(value, OUTLIER * average)
