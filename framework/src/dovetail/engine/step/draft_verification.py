"""Verification in speculative decoding: which draft tokens of a request are accepted."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.engine.engine_request import Request
from dovetail.engine.request.outputs import FinishReason
from dovetail.engine.step.input_batch import InputBatch


def verify_draft(
    batch: InputBatch, request: Request, draft: Sequence[int], sampled: Sequence[int]
) -> tuple[int, FinishReason | None, int | None]:
    """Append the sampled tokens to the request, up to and including the first one that differs from the draft.

    Later ones were computed after a wrong token and are dropped. Each accepted token is exactly the one that would have
    been sampled without a draft, so no other acceptance rule is needed. A step without a draft is the same case.

    Args:
        draft: the draft tokens of the step.
        sampled: the sampled token at each of their positions, and one more.

    Returns:
        How many tokens were kept, why the request ends if it does, and the stop token if it was one of the request's
            own.
    """
    kept = 0
    reason: FinishReason | None = None
    stop: int | None = None
    for guess, token in zip([*draft, None], sampled, strict=True):
        if token < 0:  # NO_TOKEN, NOT_NUMBERS or below
            reason = "error"
            break
        batch.append(request, token)
        kept += 1
        reason, stop = request.finish_reason()
        if reason is not None or token != guess:
            break
    if draft:
        # The keys and values of rejected draft tokens are overwritten by the tokens that replace them.
        request.num_computed_tokens -= len(draft) - max(kept - 1, 0)
    return kept, reason, stop
