"""Collects the sampled tokens of a step, and makes the outputs of its requests."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from dovetail.engine.engine_request import Request
from dovetail.engine.messages import StepSizeHistogram, TokenLogprobs, TokenOutput
from dovetail.engine.sampling.sampler import NOT_NUMBERS
from dovetail.engine.step.draft_verification import verify_draft
from dovetail.engine.step.input_batch import InputBatch
from dovetail.engine.step.pooler import PooledVectors
from dovetail.engine.step.runner import LaunchedStep, PromptLogprobsPart
from dovetail.kernel.blame import fault_of
from dovetail.utils import logs

NO_ALLOWED_TOKEN = (
    "no token may be chosen: what the request allows, forbids and asks for as a form leaves none; relax one of them"
)

NAN_LOGITS = (
    "the model's logits are not numbers (NaN); a dtype of a larger range may help (--dtype), or the weights are damaged"
)

NOT_FINITE = "the vector holds numbers that are not finite; a dtype of a larger range may help (--dtype), or the weights are damaged"


class OutputCollector:
    """Collects launched steps, and counts tokens.

    Attributes:
        prompt_tokens, output_tokens: total tokens of prompts that got their first token or their vector, and total
            sampled tokens.
        num_drafts, num_draft_tokens, num_accepted_tokens: total drafts of proposers, their tokens, and the accepted
            ones.
        steps: tokens per step, drafts included.
    """

    def __init__(self, batch: InputBatch) -> None:
        self.batch = batch
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.num_drafts = 0
        self.num_draft_tokens = 0
        self.num_accepted_tokens = 0
        self.steps = StepSizeHistogram()

    def collect(self, launched: LaunchedStep) -> Iterator[tuple[Request, TokenOutput]]:
        """Wait for a step. Returns its requests with their outputs."""
        work = launched.work
        self.steps.add(int(work.num_scheduled_tokens.sum()))
        for part in launched.prompt:
            _add_prompt_logprobs(part)
        for pooled in launched.pooled:
            yield from self._collect_pooled(pooled)
        if not work.sampled_requests:
            return
        tokens: list[int] = launched.tokens().tolist()
        logprobs = _Logprobs(launched) if launched.logprobs is not None else None
        row = 0
        for request, draft in zip(work.sampled_requests, work.drafts, strict=True):
            kept, output = self._accept(request, draft, tokens[row : row + 1 + len(draft)])
            if logprobs is not None and request.params.logprobs is not None:
                output.logprobs = [logprobs.at(row + i, tokens[row + i], request) for i in range(kept)]
            self.output_tokens += kept
            row += 1 + len(draft)
            yield request, output

    def _collect_pooled(self, pooled: PooledVectors) -> Iterator[tuple[Request, TokenOutput]]:
        vectors = pooled.vectors()
        sound = np.isfinite(vectors).all(axis=1).tolist()
        for request, vector, is_sound in zip(pooled.requests, vectors, sound, strict=True):
            assert request.pooling_params is not None
            request.num_in_flight_tokens -= 1
            self.prompt_tokens += request.num_prompt_tokens
            output = TokenOutput(
                request.id, [], "stop", cached_tokens=request.num_cached_tokens or 0, timing=_timing(request)
            )
            if is_sound:
                output.vector = vector[: request.pooling_params.dimensions].astype("<f4").tobytes()
            else:
                output.finish_reason, output.error = "error", NOT_FINITE
            yield request, output

    def _accept(self, request: Request, draft: list[int], sampled: list[int]) -> tuple[int, TokenOutput]:
        request.num_in_flight_tokens -= 1
        first = len(request.tokens) == request.num_prompt_tokens
        if first:
            self.prompt_tokens += request.num_prompt_tokens
        kept, reason, stop = verify_draft(self.batch, request, draft, sampled)
        if draft:
            self.num_drafts += 1
            self.num_draft_tokens += len(draft)
            self.num_accepted_tokens += max(kept - 1, 0)
        output = TokenOutput(id=request.id, token_ids=sampled[:kept], finish_reason=reason, stop_reason=stop)
        if reason == "error" and sampled[kept] <= NOT_NUMBERS:
            output.error = _explain_nan(request, NOT_NUMBERS - sampled[kept])
        elif reason == "error":
            output.error, output.is_request_error = request.failure or NO_ALLOWED_TOKEN, request.failure is None
        if first:
            output.cached_tokens = request.num_cached_tokens or 0
            output.timing = _timing(request)
            if request.params.prompt_logprobs is not None:
                output.prompt_logprobs = request.prompt_logprobs
        return kept, output


def _explain_nan(request: Request, maker: int) -> str:
    """Why a request ends whose logits are NaN, for its client. Its operator is told the plugin.

    Args:
        maker: the place of the logits processor that made them, from 1; 0 if the model did.
    """
    if not maker:
        return NAN_LOGITS
    plan = request.logits_processors[maker - 1][0].plan
    logs.report_fault(fault_of(plan, "made logits that are not numbers (NaN) of numbers"))
    return f"the logits processor {plan.name} made logits that are not numbers (NaN)"


def _timing(request: Request) -> tuple[float, float]:
    return request.first_scheduled_time - request.arrival_time, time.monotonic() - request.first_scheduled_time


class _Logprobs:
    """A step's logprobs on the host."""

    def __init__(self, launched: LaunchedStep) -> None:
        assert launched.logprobs is not None
        fetched = launched.logprobs
        self.chosen: list[float] = fetched.logprobs().tolist()
        self.ranks: list[int] = fetched.ranks().tolist()
        self.top_values: np.ndarray = fetched.top_logprobs()
        self.top_ids: np.ndarray = fetched.top_ids()

    def at(self, row: int, token: int, request: Request) -> TokenLogprobs:
        asked = request.params.logprobs
        count = self.top_ids.shape[1] if asked is None or asked < 0 else asked
        return _build_token_logprobs(
            token, self.chosen[row], self.ranks[row], self.top_ids[row, :count], self.top_values[row, :count]
        )


def _build_token_logprobs(token: int, logprob: float, rank: int, ids: np.ndarray, values: np.ndarray) -> TokenLogprobs:
    return TokenLogprobs([token, *ids.tolist()], [logprob, *values.tolist()], rank)


def _add_prompt_logprobs(part: PromptLogprobsPart) -> None:
    # What was computed before its request lost its blocks is computed a second time, perhaps in chunks of other sizes.
    have = len(part.request.prompt_logprobs) - part.first
    assert have >= 0, "some of the prompt was passed over"
    if have >= len(part.targets):
        return
    chosen, ranks = part.logprobs.logprobs().tolist(), part.logprobs.ranks().tolist()
    ids, values = part.logprobs.top_ids(), part.logprobs.top_logprobs()
    part.request.prompt_logprobs += [
        _build_token_logprobs(part.targets[i], chosen[i], ranks[i], ids[i], values[i])
        for i in range(have, len(part.targets))
    ]
