"""From what a step sampled to what its requests got."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from dovetail.engine.engine_request import Request
from dovetail.engine.messages import StepTokens, TokenLogprobs, TokenOutput
from dovetail.engine.request.outputs import FinishReason
from dovetail.engine.sampling.sampler import NONE
from dovetail.engine.step.batch import Batch
from dovetail.engine.step.pooler import PooledPart
from dovetail.engine.step.runner import Launched, PromptPart

NOTHING_LEFT = (
    "no token may be chosen: what the request allows, forbids and asks for as a form leaves none; relax one of them"
)

NOT_FINITE = "the vector holds numbers that are not finite; a dtype of a larger range may help (--dtype)"


class Collector:
    """Reads launched steps, and counts.

    Attributes:
        prompt_tokens, output_tokens: total of prompts that got their first token or their vector, and sampled.
        drafts, drafted, accepted: total guesses of proposers, their tokens, and those guessed rightly.
        steps: their tokens, drafts included.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.drafts = 0
        self.drafted = 0
        self.accepted = 0
        self.steps = StepTokens()

    def collect(self, launched: Launched) -> Iterator[tuple[Request, TokenOutput]]:
        """Wait for a step; each request that got tokens, and what it got."""
        work = launched.work
        self.steps.add(int(work.counts.sum()))
        for part in launched.prompt:
            _add_prompt_logprobs(part)
        for pooled in launched.pooled:
            yield from self._vectors(pooled)
        if not work.sampled:
            return
        tokens: list[int] = launched.tokens().tolist()
        logprobs = _Logprobs(launched) if launched.logprobs is not None else None
        row = 0
        for request, draft in zip(work.sampled, work.drafts, strict=True):
            kept, output = self._accept(request, draft, tokens[row : row + 1 + len(draft)])
            if logprobs is not None and request.params.logprobs is not None:
                output.logprobs = [logprobs.at(row + i, tokens[row + i], request) for i in range(kept)]
            self.output_tokens += kept
            row += 1 + len(draft)
            yield request, output

    def _vectors(self, pooled: PooledPart) -> Iterator[tuple[Request, TokenOutput]]:
        vectors = pooled.vectors()
        sound = np.isfinite(vectors).all(axis=1).tolist()
        for request, vector, is_sound in zip(pooled.requests, vectors, sound, strict=True):
            assert request.pooling is not None
            request.unseen -= 1
            self.prompt_tokens += request.prompt_len
            output = TokenOutput(request.id, [], "stop", cached_tokens=request.cached or 0, timing=_timing(request))
            if is_sound:
                output.vector = vector[: request.pooling.dimensions].astype("<f4").tobytes()
            else:
                output.finish_reason, output.error = "error", NOT_FINITE
            yield request, output

    def _accept(self, request: Request, draft: list[int], sampled: list[int]) -> tuple[int, TokenOutput]:
        """Append what was sampled, up to the first place where it is not what was guessed; from there on the model saw tokens that do not
        stand in the output. Each kept token is the very one that would have been sampled without the guess.
        """
        request.unseen -= 1
        first = len(request.tokens) == request.prompt_len
        if first:
            self.prompt_tokens += request.prompt_len
        kept = 0
        reason: FinishReason | None = None
        stop: int | None = None
        for guess, token in zip([*draft, None], sampled, strict=True):
            if token == NONE:
                reason = "error"
                break
            self.batch.append(request, token)
            kept += 1
            reason, stop = request.finish_reason()
            if reason is not None or token != guess:
                break
        if draft:
            # The keys and values of wrong guesses are written over by the tokens that come in their places.
            right = max(kept - 1, 0)
            request.computed -= len(draft) - right
            self.drafts += 1
            self.drafted += len(draft)
            self.accepted += right
        output = TokenOutput(id=request.id, token_ids=sampled[:kept], finish_reason=reason, stop_reason=stop)
        if reason == "error":
            output.error, output.refused = NOTHING_LEFT, True
        if first:
            output.cached_tokens = request.cached or 0
            output.timing = _timing(request)
            if request.params.prompt_logprobs is not None:
                output.prompt_logprobs = request.prompt_logprobs
        return kept, output


def _timing(request: Request) -> tuple[float, float]:
    return request.admitted - request.arrived, time.monotonic() - request.admitted


class _Logprobs:
    """A step's logprobs on the host."""

    def __init__(self, launched: Launched) -> None:
        assert launched.logprobs is not None
        fetched = launched.logprobs
        self.chosen: list[float] = fetched.logprobs().tolist()
        self.ranks: list[int] = fetched.ranks().tolist()
        self.top_values: np.ndarray = fetched.top_logprobs()
        self.top_ids: np.ndarray = fetched.top_ids()

    def at(self, row: int, token: int, request: Request) -> TokenLogprobs:
        asked = request.params.logprobs
        count = self.top_ids.shape[1] if asked is None or asked < 0 else asked
        return _entry(token, self.chosen[row], self.ranks[row], self.top_ids[row, :count], self.top_values[row, :count])


def _entry(token: int, logprob: float, rank: int, ids: np.ndarray, values: np.ndarray) -> TokenLogprobs:
    return TokenLogprobs([token, *ids.tolist()], [logprob, *values.tolist()], rank)


def _add_prompt_logprobs(part: PromptPart) -> None:
    # What was computed before its request lost its blocks is computed a second time, perhaps in chunks of other sizes.
    have = len(part.request.prompt_logprobs) - part.first
    assert have >= 0, "some of the prompt was passed over"
    if have >= len(part.targets):
        return
    chosen, ranks = part.logprobs.logprobs().tolist(), part.logprobs.ranks().tolist()
    ids, values = part.logprobs.top_ids(), part.logprobs.top_logprobs()
    part.request.prompt_logprobs += [
        _entry(part.targets[i], chosen[i], ranks[i], ids[i], values[i]) for i in range(have, len(part.targets))
    ]
