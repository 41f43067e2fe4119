"""From a request's body to sampling parameters."""

from __future__ import annotations

from typing import Any

from dovetail.engine.params import SamplingParams
from dovetail.server.context import ServerContext
from dovetail.server.errors import TOO_LONG, ApiError
from dovetail.server.protocol import ChatCompletionRequest, GenerationRequest

COMPLETION_TOKENS = 16
"""What OpenAI's completions route generates when it is not told how much."""

DIRECT = (
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "min_tokens",
    "skip_special_tokens",
)
"""Parameters that a request and :class:`SamplingParams` name alike."""


def sampling_params(context: ServerContext, body: GenerationRequest, prompts: list[list[int]]) -> SamplingParams:
    """Check a request against its prompts and the model, and fill in the defaults.

    Raises:
        ApiError: it does not fit the model or the server's limits.
        RequestError: a value is out of its range.
    """
    defaults = context.engine.default_params
    values: dict[str, Any] = {}
    for name in DIRECT:
        value = getattr(body, name)
        value = defaults.get(name) if value is None else value
        if value is not None:
            values[name] = value
    if body.best_of not in (None, values.get("n", 1)):
        raise ApiError(400, "best_of other than n is not supported yet", param="best_of", code="unsupported_value")
    params = SamplingParams(**values, max_tokens=_max_tokens(body, defaults))

    limit = context.settings.max_request_choices
    if len(prompts) * params.n > limit:
        message = f"{len(prompts)} prompts with n={params.n} ask for more than {limit} completions, the server's limit"
        raise ApiError(400, message, param="n", code="invalid_value")
    check_ids(context, params.stop_token_ids, "stop_token_ids")
    for prompt in prompts:
        check_length(context, prompt, body)
    return params


def _max_tokens(body: GenerationRequest, defaults: dict[str, Any]) -> int | None:
    asked = body.max_tokens
    if isinstance(body, ChatCompletionRequest):
        newer = body.max_completion_tokens
        if asked is not None and newer is not None and asked != newer:
            message = f"max_tokens is {asked} and max_completion_tokens is {newer}; give one of them"
            raise ApiError(400, message, param="max_tokens", code="invalid_value")
        asked = newer if asked is None else asked
    if asked is None and not isinstance(body, ChatCompletionRequest):
        asked = max(COMPLETION_TOKENS, body.min_tokens or 0)
    cap: int | None = defaults.get("max_tokens")
    return min((tokens for tokens in (asked, cap) if tokens is not None), default=None)


def check_ids(context: ServerContext, ids: list[int], param: str) -> None:
    """Refuse token ids that the vocabulary lacks.

    Raises:
        ApiError: names the first.
    """
    size = context.engine.tokenizer.vocab_size
    wrong = next((token for token in ids if not 0 <= token < size), None)
    if wrong is not None:
        message = f"{param}: wanted token ids from 0 to {size - 1}, found {wrong}"
        raise ApiError(400, message, param=param, code="invalid_value")


def check_length(context: ServerContext, prompt: list[int], body: GenerationRequest) -> None:
    """Refuse what the context cannot hold. Only what the client asked for is held against it: a default is cut to what is left.

    Raises:
        ApiError: says how long prompt and context are.
    """
    limit = context.engine.max_model_len
    chat = isinstance(body, ChatCompletionRequest)
    param = "messages" if chat else "prompt"
    if not prompt:
        raise ApiError(400, f"{param} has no tokens", param=param, code="invalid_value")
    if len(prompt) >= limit:
        message = f"the prompt has {len(prompt)} tokens, but the model's context is {limit}; shorten the prompt"
        raise ApiError(400, message, param=param, code=TOO_LONG)
    for name in ("max_tokens", "max_completion_tokens", "min_tokens"):
        asked = getattr(body, name, None)
        if asked is not None and len(prompt) + asked > limit:
            message = (
                f"{name} is {asked}, but the model's context is {limit} tokens and the prompt has {len(prompt)}; "
                f"ask for at most {limit - len(prompt)}"
            )
            raise ApiError(400, message, param=name, code=TOO_LONG)
