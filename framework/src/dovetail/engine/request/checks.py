"""Checks of a request before it is queued, such as its length, in the API's process and again in the engine's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dovetail.api.errors import RequestError
from dovetail.engine.request.parameter_rules import WHOLE_VOCABULARY
from dovetail.engine.request.params import SamplingParams
from dovetail.kernel.plan import Plan

LogprobsMode = Literal["raw_logprobs", "raw_logits", "processed_logprobs", "processed_logits"]
"""What ``--logprobs-mode`` may say: of the model's own distribution, or of that which a token was drawn from; normalized or not."""


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """Limits of the running model.

    Attributes:
        max_model_len: maximum sequence length in tokens, prompt and output together.
        vocab_size: valid token ids are 0 to one less than this.
        max_logprobs: maximum number of logprobs per position; -1 for no limit.
        logprobs_mode: the kind of logprobs of sampled tokens.
    """

    max_model_len: int
    vocab_size: int
    max_logprobs: int = 20
    logprobs_mode: LogprobsMode = "raw_logprobs"

    def check_scores(self, param: str) -> None:
        """
        Raises:
            RequestError: outputs cannot be ranked by their logprobs, which are none.
        """
        if self.logprobs_mode.endswith("logits"):
            raise RequestError(
                f"{param} ranks outputs by their logprobs, and with --logprobs-mode {self.logprobs_mode} there are none",
                f"leave {param} out, or start with --logprobs-mode raw_logprobs",
                param=param,
            )


def check_request(
    prompt_token_ids: Sequence[int],
    params: SamplingParams,
    limits: ModelLimits,
    bad_words: Iterable[Sequence[int]] = (),
) -> None:
    """Check a request against the model's limits. The values of the parameters were checked when they were made.

    Args:
        bad_words: the parameters' bad words as token ids, if they are known.

    Raises:
        RequestError: the prompt or a parameter does not fit; names which.
    """
    check_prompt(prompt_token_ids, limits.max_model_len, limits.vocab_size)
    _check_logprobs("logprobs", params.logprobs, limits)
    if params.num_sequences > params.n:
        limits.check_scores("best_of")
    _check_logprobs("prompt_logprobs", params.prompt_logprobs, limits)
    if params.stop_token_ids:
        _check_ids("stop_token_ids", params.stop_token_ids, limits)
    if params.logit_bias:
        _check_ids("logit_bias", params.logit_bias, limits)
    if params.allowed_token_ids is not None:
        _check_ids("allowed_token_ids", params.allowed_token_ids, limits)
    for word in bad_words:
        _check_ids("bad_words", word, limits)


def check_prompt(token_ids: Sequence[int], max_model_len: int, vocab_size: int, *, with_output: bool = True) -> None:
    """Check the length and the token ids of a prompt.

    Args:
        with_output: whether there must be room for one new token after it.

    Raises:
        RequestError: the prompt is empty, too long, or holds ids that the model does not have.
    """
    if not token_ids:
        raise RequestError("the prompt is empty", "send at least one token", param="prompt")
    if len(token_ids) + with_output > max_model_len:
        raise RequestError(
            f"the prompt has {len(token_ids)} tokens, and the context holds {max_model_len}{' with the answer' * with_output}",
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


def _check_ids(name: str, ids: Collection[int], limits: ModelLimits) -> None:
    # They may be as many as the vocabulary, and this is ten times as fast as a loop.
    if not ids or (min(ids) >= 0 and max(ids) < limits.vocab_size):
        return
    token = next(token for token in ids if not 0 <= token < limits.vocab_size)
    raise RequestError(
        f"{name} holds the token id {token}, and the model's ids are 0 to {limits.vocab_size - 1}",
        "use the model's own tokenizer",
        param=name,
    )


def _check_logprobs(name: str, requested: int | None, limits: ModelLimits) -> None:
    if not requested:  # none, or those of the chosen tokens alone
        return
    if requested > limits.vocab_size:
        raise RequestError(
            f"{name} is {requested}, and the vocabulary has {limits.vocab_size} tokens",
            f"ask for fewer, or for {WHOLE_VOCABULARY}, which is all of them",
            param=name,
        )
    count = limits.vocab_size if requested == WHOLE_VOCABULARY else requested
    if limits.max_logprobs != WHOLE_VOCABULARY and count > limits.max_logprobs:
        raise RequestError(
            f"{name} asks for {count} tokens, and the limit is {limits.max_logprobs}",
            "ask for fewer, or raise --max-logprobs",
            param=name,
        )


def check_allowed_tokens(params: SamplingParams, bad_words: Iterable[Sequence[int]], end_ids: Collection[int]) -> None:
    """Check that at least one token is still allowed.

    Args:
        end_ids: tokens that would end the output.

    Raises:
        RequestError: every allowed token is forbidden.
    """
    if params.allowed_token_ids is None:
        return
    left = set(params.allowed_token_ids) - {word[0] for word in bad_words if len(word) == 1}
    if params.min_tokens:
        left -= set(end_ids)
    if not left:
        raise RequestError(
            "no token may be chosen: bad_words, or min_tokens where only end tokens are allowed, forbid all of allowed_token_ids",
            "allow others, or forbid less",
            param="allowed_token_ids",
        )


def truncate_prompt(prompt_token_ids: list[int], params: SamplingParams, max_model_len: int) -> list[int]:
    """Truncate a prompt as ``truncate_prompt_tokens`` says: its last tokens, or all of them.

    With -1, the result leaves room for ``max_tokens``. If they are None or more than the context, it leaves room for
    one token.
    """
    keep = params.truncate_prompt_tokens
    if keep is None:
        return prompt_token_ids
    if keep == -1:
        answer = params.max_tokens or 1
        keep = max_model_len - (answer if answer < max_model_len else 1)
    return prompt_token_ids[-keep:]


def check_truncation_with_images(params: SamplingParams) -> None:
    """
    Raises:
        RequestError: a prompt with images is to be truncated, which could cut through one.
    """
    if params.truncate_prompt_tokens is not None:
        raise RequestError(
            "truncate_prompt_tokens is set for a prompt with images", "leave it out", param="truncate_prompt_tokens"
        )


def find_eos_token_ids(plan: Plan) -> frozenset[int]:
    """The end-of-sequence tokens of the model's configuration and of its generation configuration. Many chat models
    only name their end-of-turn token in the second.
    """
    found: set[int] = set()
    for source in (plan.config, plan.checkpoint.generation_config):
        ids = source.get("eos_token_id")
        found |= {ids} if isinstance(ids, int) else set(ids or ())
    # Others are never sampled, and tables of tokens have no place for them.
    size = plan.config.get("vocab_size")
    return frozenset(id for id in found if id >= 0 and (size is None or id < size))
