"""Converts the inputs of pooling requests to token ids and pooling parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dovetail.api.cards import Task
from dovetail.engine.request.pooling_params import PoolingParams, find_prompt
from dovetail.server.context import ServerContext
from dovetail.server.generate.sampling_params import check_ids
from dovetail.server.http.errors import CONTEXT_LENGTH_EXCEEDED, ApiError
from dovetail.server.pooling.protocol import ClassificationRequest, EmbeddingRequest, PoolingFields
from dovetail.server.prompts.conversation import conversation_prompt
from dovetail.server.prompts.encoding import check_text_length, encode_prompt


def pooling_params(body: PoolingFields, task: Task) -> PoolingParams:
    """The pooling parameters of a request.

    Raises:
        ApiError: a parameter is given under both of its names.
    """
    return PoolingParams(
        task=task,
        dimensions=getattr(body, "dimensions", None),
        use_activation=read_activation(body, embeds=task == "embed"),
    )


def read_activation(body: PoolingFields, *, embeds: bool) -> bool | None:
    """The value of ``use_activation``, under any of its names.

    Raises:
        ApiError: two names have different values, or the name does not apply to the task.
    """
    found = body.use_activation
    for name, fits in (("normalize", embeds), ("activation", not embeds)):
        value = getattr(body, name, None)
        if value is None:
            continue
        if not fits:
            message = f"{name} is about {'logits' if embeds else 'embeddings'}, which were not asked for"
            raise ApiError(400, message, param=name, code="invalid_value")
        if found not in (None, value):
            message = f"{name} is an older name of use_activation; give one of them"
            raise ApiError(400, message, param=name, code="invalid_value")
        found = value
    return found


async def input_prompts(
    context: ServerContext, body: EmbeddingRequest | ClassificationRequest, task: Task
) -> list[list[int]]:
    """The token ids of each input.

    Raises:
        ApiError: there is no input, or one does not fit.
        RequestError: the model has no such prompt for texts.
    """
    if (body.input is None) == (body.messages is None):
        code = "missing_required_parameter" if body.input is None else "invalid_value"
        raise ApiError(400, "give input or messages, one of them", param="input", code=code)
    limit, side = _truncation_limit(context, body), body.truncation_side or "right"
    name: str | None = getattr(body, "prompt_name", None)
    before = find_prompt(context.engine.plan.pooling, task, name)
    if name is not None and (body.input is None or not all(isinstance(each, str) for each in body.input)):
        raise ApiError(400, "prompt_name is for texts in input", param="prompt_name", code="invalid_value")
    if body.messages is not None:
        prompts = [
            _truncate(await conversation_prompt(context, body, add_generation_prompt=False, images=False), limit, side)
        ]
        return check_prompts(context, prompts, "messages")
    inputs: Sequence[str | list[int]] = body.input or []
    special = body.add_special_tokens is not False

    def read(each: str | list[int]) -> list[int]:
        if isinstance(each, str):
            return _encode(context, before + each, limit, side, special)
        return _truncate(_check_known_ids(context, each), limit, side)

    check_count(context, len(inputs), "input")
    return check_prompts(context, await context.map_in_worker(read, inputs, len), "input")


async def text_prompts(
    context: ServerContext, body: PoolingFields, texts: Sequence[str], pairs: Sequence[str] | None, param: str
) -> list[list[int]]:
    """The token ids of each text, or of each pair of texts as a cross-encoder reads it.

    Raises:
        ApiError: one does not fit. The error names the field ``param``.
    """
    limit, side = _truncation_limit(context, body), body.truncation_side or "right"

    before = find_prompt(context.engine.plan.pooling, "embed", None)

    def read(both: tuple[str, str | None]) -> list[int]:
        text, pair = both
        if pair is None:
            return _encode(context, before + text, limit, side, True, param)
        check_text_length(context, (text, pair), param)
        return context.engine.tokenizer.encode_within(text, limit, pair=pair, side=side)

    check_count(context, len(texts), param)
    others: Sequence[str | None] = pairs or [None] * len(texts)
    inputs = list(zip(texts, others, strict=True))
    prompts = await context.map_in_worker(read, inputs, lambda both: len(both[0]) + len(both[1] or ""))
    return check_prompts(context, prompts, param)


def _encode(
    context: ServerContext,
    text: str,
    limit: int | None,
    side: Literal["left", "right"],
    special: bool,
    param: str = "input",
) -> list[int]:
    if limit is None:
        return encode_prompt(context, text, add_special_tokens=special, param=param)
    check_text_length(context, [text], param)
    return context.engine.tokenizer.encode_within(text, limit, side=side, add_special_tokens=special)


def _check_known_ids(context: ServerContext, ids: list[int]) -> list[int]:
    check_ids(context, ids, "input")
    return ids


def _truncation_limit(context: ServerContext, body: PoolingFields) -> int | None:
    requested, max_len = body.truncate_prompt_tokens, context.engine.max_model_len
    if requested == 0 or (requested is not None and requested > max_len):
        message = f"truncate_prompt_tokens: wanted 1 to {max_len}, the model's context, or -1 for all of it; found {requested}"
        raise ApiError(400, message, param="truncate_prompt_tokens", code="invalid_value")
    return max_len if requested == -1 else requested


def _truncate(ids: list[int], limit: int | None, side: Literal["left", "right"]) -> list[int]:
    if limit is None:
        return ids
    return ids[:limit] if side == "right" else ids[-limit:]


def check_count(context: ServerContext, count: int, param: str) -> None:
    """Check that the server takes so many prompts at once, before they are tokenized.

    Raises:
        ApiError: it does not.
    """
    limit = context.settings.max_request_choices
    if count > limit:
        message = f"{param} has {count} entries, and the server's limit is {limit} (--max-request-choices)"
        raise ApiError(400, message, param=param, code="invalid_value")


def check_prompts(context: ServerContext, prompts: list[list[int]], param: str) -> list[list[int]]:
    """Check that the server takes this many prompts and that each fits the context; returns them.

    Raises:
        ApiError: names the first that does not fit.
    """
    check_count(context, len(prompts), param)
    context_length = context.engine.max_model_len
    for place, prompt in enumerate(prompts):
        which = f"{param}[{place}]" if len(prompts) > 1 else param
        if not prompt:
            raise ApiError(400, f"{which} has no tokens", param=param, code="invalid_value")
        if len(prompt) > context_length:
            message = (
                f"{which} has {len(prompt)} tokens, but the model's context is {context_length}; "
                "shorten it, or send truncate_prompt_tokens"
            )
            raise ApiError(400, message, param=param, code=CONTEXT_LENGTH_EXCEEDED)
    return prompts
