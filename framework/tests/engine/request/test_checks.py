"""What a request is held against: the context, the vocabulary, and the limit of logprobs."""

from __future__ import annotations

from typing import Any

import pytest

from dovetail import SamplingParams
from dovetail.api import RequestError
from dovetail.engine.request.checks import ModelLimits, check_allowed_tokens, check_request, truncate_prompt

LIMITS = ModelLimits(max_model_len=10, vocab_size=100, max_logprobs=20)


@pytest.mark.parametrize("prompt", [[], [1] * 10, [100], [-1]])
def test_a_prompt_that_does_not_fit(prompt: list[int]) -> None:
    with pytest.raises(RequestError) as caught:
        check_request(prompt, SamplingParams(), LIMITS)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"stop_token_ids": [5, 100]}, "stop_token_ids holds the token id 100, and the model's ids are 0 to 99"),
        ({"logit_bias": {100: 1}}, "logit_bias holds the token id 100"),
        ({"allowed_token_ids": [1, 1000]}, "allowed_token_ids holds the token id 1000"),
        ({"logprobs": 21}, "logprobs asks for 21 tokens, and the limit is 20; ask for fewer, or raise --max-logprobs"),
        ({"logprobs": -1}, "logprobs asks for 100 tokens"),
        ({"prompt_logprobs": 21}, "prompt_logprobs asks for 21 tokens"),
        ({"prompt_logprobs": 101}, "prompt_logprobs is 101, and the vocabulary has 100 tokens"),
    ],
)
def test_a_parameter_that_does_not_fit_is_named(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError, match=told) as caught:
        check_request([1], SamplingParams(**asked), LIMITS)
    assert caught.value.param == next(iter(asked))


def test_bad_words_that_the_model_has_no_tokens_for() -> None:
    with pytest.raises(RequestError, match="bad_words holds the token id 100"):
        check_request([1], SamplingParams(), LIMITS, [[1], [2, 100]])


@pytest.mark.parametrize(
    ("asked", "limit"),
    [
        ({}, 20),
        ({"logprobs": 0}, 0),
        ({"logprobs": 20, "prompt_logprobs": 20}, 20),
        ({"logprobs": -1, "prompt_logprobs": 100}, -1),
        ({"logprobs": -1}, 100),
        ({"stop_token_ids": [0, 99], "logit_bias": {99: 1}, "allowed_token_ids": [0]}, 20),
    ],
)
def test_what_fits(asked: dict[str, Any], limit: int) -> None:
    check_request([0, 99] * 4 + [5], SamplingParams(**asked), ModelLimits(10, 100, limit), [[99]])


@pytest.mark.parametrize(
    ("keep", "max_tokens", "left"),
    [
        (None, 16, 9),
        (3, 16, 3),
        (50, 16, 9),
        (-1, 4, 4),
        (-1, None, 7),
        (-1, 500, 7),  # more than the context holds: what the prompt leaves
    ],
)
def test_truncation_keeps_the_end(keep: int | None, max_tokens: int | None, left: int) -> None:
    params = SamplingParams(truncate_prompt_tokens=keep, max_tokens=max_tokens)
    prompt = list(range(9))
    assert truncate_prompt(prompt, params, 8) == prompt[9 - left :]


@pytest.mark.parametrize(
    ("params", "bad_words"),
    [
        ({"allowed_token_ids": [5]}, [[5]]),
        ({"allowed_token_ids": [5, 9], "min_tokens": 1, "max_tokens": 4}, [[5]]),
        ({"allowed_token_ids": [9], "min_tokens": 1, "max_tokens": 4}, []),
    ],
)
def test_a_request_that_leaves_no_token_to_choose_is_refused(
    params: dict[str, Any], bad_words: list[list[int]]
) -> None:
    with pytest.raises(RequestError, match="no token may be chosen") as refused:
        check_allowed_tokens(SamplingParams(**params), bad_words, {9})
    assert refused.value.param == "allowed_token_ids"


def test_one_token_that_may_be_chosen_is_enough() -> None:
    check_allowed_tokens(SamplingParams(allowed_token_ids=[5, 6]), [[5], [6, 6]], {9})
    check_allowed_tokens(SamplingParams(allowed_token_ids=[9]), [], {9})
    check_allowed_tokens(SamplingParams(min_tokens=1, max_tokens=4), [[5]], {9})


@pytest.mark.parametrize("mode", ["raw_logits", "processed_logits"])
def test_outputs_are_not_ranked_by_what_are_no_logprobs(mode: Any) -> None:
    limits = ModelLimits(10, 100, logprobs_mode=mode)
    check_request([1], SamplingParams(logprobs=2), limits)
    with pytest.raises(RequestError, match=f"best_of ranks outputs by their logprobs, and with --logprobs-mode {mode}"):
        check_request([1], SamplingParams(best_of=2), limits)
