"""Converts a request's body to sampling parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.engine.request.params import SamplingParams
from dovetail.server.context import ServerContext
from dovetail.server.generate.response_format import read_structured_outputs
from dovetail.server.http.errors import CONTEXT_LENGTH_EXCEEDED, ApiError
from dovetail.server.protocol.requests import ChatCompletionRequest, CompletionRequest, GenerationRequest

DEFAULT_COMPLETION_TOKENS = 16
"""Default ``max_tokens`` of OpenAI's completions route."""

SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
"""Parameters that change the probabilities of tokens."""
SHARED_PARAMS = (
    *SAMPLING,
    "n",
    "seed",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "min_tokens",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "best_of",
    "logit_bias",
    "bad_words",
    "allowed_token_ids",
    "prompt_logprobs",
    "logits_processors",
    "truncate_prompt_tokens",
)
"""Parameters with the same name in a request and in :class:`SamplingParams`."""


def sampling_params(context: ServerContext, body: GenerationRequest) -> SamplingParams:
    """The sampling parameters of a request, with defaults for fields that it does not set.

    Raises:
        ApiError: fields contradict each other.
        RequestError: a value is out of its range.
    """
    defaults = context.engine.default_params
    values: dict[str, Any] = {}
    for name in SHARED_PARAMS:
        value = getattr(body, name)
        value = defaults.get(name) if value is None else value
        if value is not None:
            values[name] = value
    values["max_tokens"] = 1 if is_scoring(body) else _max_tokens(body, defaults)
    values["structured_outputs"] = read_structured_outputs(body)
    params = SamplingParams(**values | _logprobs(body))
    _check_stream(body, params)
    return params


def default_values(context: ServerContext) -> dict[str, Any]:
    """The sampling parameters of a chat request that sets none: those that every request has, and all that the server
    has a default for. ``max_tokens`` is None, which means all that the context leaves.
    """
    given = context.engine.default_params
    neutral = SamplingParams(max_tokens=None)
    return {name: given.get(name, getattr(neutral, name)) for name in (*SAMPLING, "max_tokens")} | {
        name: given[name] for name in SHARED_PARAMS if name in given
    }


def is_scoring(body: GenerationRequest) -> bool:
    """Whether the request only asks for the logprobs of its prompt, without new tokens."""
    return isinstance(body, CompletionRequest) and bool(body.echo) and body.max_tokens == 0


def _logprobs(body: GenerationRequest) -> dict[str, int]:
    if isinstance(body, ChatCompletionRequest):
        if body.top_logprobs and not body.logprobs:
            message = "top_logprobs needs logprobs: true"
            raise ApiError(400, message, param="top_logprobs", code="invalid_value")
        return {"logprobs": body.top_logprobs or 0} if body.logprobs else {}
    assert isinstance(body, CompletionRequest)
    if body.logprobs is None:
        return {}
    requested = {"logprobs": body.logprobs}
    if body.echo:
        requested["prompt_logprobs"] = max(body.logprobs, body.prompt_logprobs or 0)
    return requested


def _check_stream(body: GenerationRequest, params: SamplingParams) -> None:
    if not body.stream:
        return
    if params.num_sequences > params.n:
        message = "best_of above n cannot be streamed: which are the best is known at the end"
        raise ApiError(400, message, param="best_of", code="invalid_value")
    if body.prompt_logprobs is not None:
        message = "prompt_logprobs are not streamed; leave out stream, or take them with echo and logprobs"
        raise ApiError(400, message, param="prompt_logprobs", code="invalid_value")


def _max_tokens(body: GenerationRequest, defaults: Mapping[str, Any]) -> int | None:
    requested = body.max_tokens
    if isinstance(body, ChatCompletionRequest):
        max_completion_tokens = body.max_completion_tokens
        if requested is not None and max_completion_tokens is not None and requested != max_completion_tokens:
            message = (
                f"max_tokens is {requested} and max_completion_tokens is {max_completion_tokens}; give one of them"
            )
            raise ApiError(400, message, param="max_tokens", code="invalid_value")
        requested = max_completion_tokens if requested is None else requested
    elif requested is None:
        requested = max(DEFAULT_COMPLETION_TOKENS, body.min_tokens or 0)
    requested = None if requested == -1 else requested  # as many clients ask for what the context holds
    cap: int | None = defaults.get("max_tokens")
    return min((tokens for tokens in (requested, cap) if tokens is not None), default=None)


def check_ids(context: ServerContext, ids: list[int], param: str) -> None:
    """Refuse token ids that are not in the vocabulary.

    Raises:
        ApiError: names the first one.
    """
    size = context.engine.tokenizer.vocab_size
    if ids and (min(ids) < 0 or max(ids) >= size):  # they may be many, and a loop takes ten times as long
        wrong = next(token for token in ids if not 0 <= token < size)
        message = f"{param}: wanted token ids from 0 to {size - 1}, found {wrong}"
        raise ApiError(400, message, param=param, code="invalid_value")


def check_length(context: ServerContext, prompt: list[int], body: GenerationRequest) -> None:
    """Refuse a request that does not fit the context.

    Only a ``max_tokens`` that the client sent counts; a default is reduced to what is left.

    Raises:
        ApiError: says how long the prompt and the context are.
    """
    limit = context.engine.max_model_len
    chat = isinstance(body, ChatCompletionRequest)
    param = "messages" if chat else "prompt"
    if not prompt:
        raise ApiError(400, f"{param} has no tokens", param=param, code="invalid_value")
    if len(prompt) >= limit:
        message = f"the prompt has {len(prompt)} tokens, but the model's context is {limit}; shorten the prompt"
        raise ApiError(400, message, param=param, code=CONTEXT_LENGTH_EXCEEDED)
    for name in ("max_tokens", "max_completion_tokens", "min_tokens"):
        requested = getattr(body, name, None)
        if requested is not None and len(prompt) + requested > limit:
            message = (
                f"{name} is {requested}, but the model's context is {limit} tokens and the prompt has {len(prompt)}; "
                f"ask for at most {limit - len(prompt)}"
            )
            raise ApiError(400, message, param=name, code=CONTEXT_LENGTH_EXCEEDED)
