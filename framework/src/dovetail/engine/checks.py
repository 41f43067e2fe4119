"""What is checked of a request before it is queued, in the API's process and again in the engine's."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.api.errors import RequestError
from dovetail.kernel.plan import Plan


def check_prompt(token_ids: Sequence[int], max_model_len: int, vocab_size: int) -> None:
    """
    Raises:
        RequestError: the prompt is empty, leaves no room for one new token, or holds ids that the model does not have.
    """
    if not token_ids:
        raise RequestError("the prompt is empty", "send at least one token", param="prompt")
    if len(token_ids) >= max_model_len:
        raise RequestError(
            f"the prompt has {len(token_ids)} tokens, and the context holds {max_model_len} with the answer",
            "shorten the prompt, or serve with a larger --max-model-len",
            param="prompt",
        )
    if min(token_ids) < 0 or max(token_ids) >= vocab_size:
        worst = min(token_ids) if min(token_ids) < 0 else max(token_ids)
        raise RequestError(
            f"the prompt holds the token id {worst}, and the model's ids are 0 to {vocab_size - 1}",
            "use the model's own tokenizer",
            param="prompt",
        )


def end_of_sequence_ids(plan: Plan) -> frozenset[int]:
    """Tokens that end a sequence by the model's configuration and its generation configuration together: chat models often
    name their end-of-turn token only in the second.
    """
    found: set[int] = set()
    for source in (plan.config, plan.checkpoint.generation_config):
        ids = source.get("eos_token_id")
        found |= {ids} if isinstance(ids, int) else set(ids or ())
    return frozenset(found)
