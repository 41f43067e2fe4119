"""``best_of``: of several completions, the likeliest ones."""

from __future__ import annotations

from itertools import chain

from dovetail.engine.request.outputs import Delta
from dovetail.engine.request.params import SamplingParams


class BestOfCollector:
    """Buffers all completions of a request and returns the best ones when the last is finished.

    The best have the highest log-probability, summed over their tokens. Completions with an error come last.

    Args:
        params: the user's. They say how many completions to return, and whether with logprobs.
    """

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        self._deltas: dict[int, list[Delta]] = {}
        self._finished = 0

    def add(self, delta: Delta) -> list[Delta]:
        """Returns the ``n`` best completions, numbered from 0 and whole, once the last one is finished; nothing until
        then.
        """
        self._deltas.setdefault(delta.index, []).append(delta)
        self._finished += delta.finish_reason is not None
        if self._finished < self._params.num_sequences:
            return []
        whole = [_join_deltas(deltas) for _, deltas in sorted(self._deltas.items())]
        # Data about the prompt is the same for all, and came with the first one.
        cached, prompt_logprobs = whole[0].cached_tokens, whole[0].prompt_logprobs
        best = sorted(whole, key=_rank_key)[: self._params.n]
        for index, winner in enumerate(best):
            winner.index = index
            winner.cached_tokens = 0 if index else cached
            winner.prompt_logprobs = None if index else prompt_logprobs
            if self._params.logprobs is None:
                winner.logprobs = None
        return best


def _rank_key(delta: Delta) -> tuple[bool, float, int]:
    """Sort key; lower is better."""
    chosen = (position[token].logprob for token, position in zip(delta.token_ids, delta.logprobs or (), strict=False))
    return delta.finish_reason in ("error", "abort"), -sum(chosen), delta.index


def _join_deltas(deltas: list[Delta]) -> Delta:
    first, last = deltas[0], deltas[-1]
    return Delta(
        first.index,
        "".join(delta.text for delta in deltas),
        [token for delta in deltas for token in delta.token_ids],
        last.finish_reason,
        last.stop_reason,
        last.error,
        logprobs=list(chain.from_iterable(delta.logprobs or () for delta in deltas)),
        prompt_logprobs=first.prompt_logprobs,
        cached_tokens=first.cached_tokens,
        timing=first.timing,
    )
