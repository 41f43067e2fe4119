"""Merges deltas to fewer and larger ones, for ``--stream-interval``."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.engine.request.outputs import Delta


class DeltaMerger:
    """Merges the deltas of one request until they have enough tokens. The first token of each completion, and its end,
    are not delayed.

    Args:
        interval: tokens of a delta.
    """

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._started: set[int] = set()
        self._held: dict[int, Delta] = {}

    def add(self, deltas: Sequence[Delta]) -> list[Delta]:
        """Add deltas. Returns those to send now."""
        ready = []
        for delta in deltas:
            index = delta.index
            if held := self._held.pop(index, None):
                delta = merge_deltas(held, delta)
            if self._is_due(delta):
                self._started.add(index)
                ready.append(delta)
            else:
                self._held[index] = delta
        return ready

    def _is_due(self, delta: Delta) -> bool:
        if delta.finish_reason is not None or delta.index not in self._started:
            return True
        return len(delta.token_ids) >= self._interval


def merge_deltas(first: Delta, second: Delta) -> Delta:
    """Merge two consecutive deltas of one completion."""
    logprobs = None
    if first.logprobs is not None or second.logprobs is not None:
        logprobs = [*(first.logprobs or ()), *(second.logprobs or ())]
    return Delta(
        index=first.index,
        text=first.text + second.text,
        token_ids=[*first.token_ids, *second.token_ids],
        finish_reason=second.finish_reason,
        stop_reason=second.stop_reason,
        error=second.error,
        logprobs=logprobs,
        prompt_logprobs=first.prompt_logprobs or second.prompt_logprobs,
        cached_tokens=first.cached_tokens + second.cached_tokens,
        is_request_error=second.is_request_error,
        timing=first.timing or second.timing,
    )
