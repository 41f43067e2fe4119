"""Verification in speculative decoding: which of a request's draft tokens are kept."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.engine.engine_request import Request
from dovetail.engine.request.outputs import FinishReason
from dovetail.engine.sampling.sampler import NO_TOKEN
from dovetail.engine.step.input_batch import InputBatch


def verify_draft(
    batch: InputBatch, request: Request, draft: Sequence[int], sampled: Sequence[int]
) -> tuple[int, FinishReason | None, int | None]:
    """Append the sampled tokens to the request, up to and including the first that differs from the draft.

    Behind that one the model saw tokens that do not stand in the output. Each kept token is the very one that would have been sampled
    without the draft, so no rule of acceptance is needed. A step without a draft is the same case.

    Args:
        draft: tokens that the step checked.
        sampled: the token sampled at each of their places, and one more.

    Returns:
        How many tokens were kept, why the request ends if it does, and the stop token if it was one of the request's own.
    """
    kept = 0
    reason: FinishReason | None = None
    stop: int | None = None
    for guess, token in zip([*draft, None], sampled, strict=True):
        if token == NO_TOKEN:
            reason = "error"
            break
        batch.append(request, token)
        kept += 1
        reason, stop = request.finish_reason()
        if reason is not None or token != guess:
            break
    if draft:
        # The keys and values of wrong draft tokens are written over by the tokens that come in their places.
        request.num_computed_tokens -= len(draft) - max(kept - 1, 0)
    return kept, reason, stop
