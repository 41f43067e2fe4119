"""Builds the generation job of a request, and checks it against the model and the server."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from dovetail.engine.messages import ImageInput
from dovetail.engine.request.checks import check_truncation_with_images, truncate_prompt
from dovetail.engine.request.params import SamplingParams
from dovetail.server.context import ServerContext
from dovetail.server.engine_protocol import ServedTokenizer
from dovetail.server.generate.beam_search import read_beam_search
from dovetail.server.generate.sampling_params import check_length, is_scoring, sampling_params
from dovetail.server.generation_job import Job
from dovetail.server.http.errors import ApiError
from dovetail.server.protocol.requests import GenerationRequest
from dovetail.server.tools.output_format import build_output_format
from dovetail.server.tools.output_parsing import OutputParsing

MAX_PROMPT_LOGPROBS = 1 << 20
"""Maximum number of logprobs of prompts in one response. Each takes about 1 us and 50 bytes, several times over."""


def check_priority(context: ServerContext, priority: int | None) -> None:
    """Check that a request has a priority only if the server schedules by priority.

    Raises:
        ApiError: the server does not schedule by priority.
    """
    policy = context.engine.scheduling_policy
    if priority and policy != "priority":
        message = f"priority is {priority}, but this server has --scheduling-policy {policy}"
        raise ApiError(400, message, param="priority", code="unsupported_value")


async def make_job(
    context: ServerContext,
    body: GenerationRequest,
    prompts: list[list[int]],
    adapter: str | None = None,
    parsing: OutputParsing | None = None,
    images: list[ImageInput] | None = None,
) -> Job:
    """Check a request against the model and the server, and build its job.

    Args:
        parsing: how the output is parsed. It may require an output format.
        images: of the prompt, which is the only one then.

    Raises:
        ApiError, RequestError: the request cannot be served.
    """
    engine = context.engine
    check_priority(context, body.priority)
    params = sampling_params(context, body)
    if parsing is not None and not parsing.is_plain:
        requested = params.structured_outputs
        # Schemas of tools are copied into another one: a third of a second for a megabyte of small parts.
        params.structured_outputs = await context.run_in_worker(lambda: build_output_format(requested, parsing))
        params.shown_special_tokens = find_special_ids(engine.tokenizer, parsing.special_tokens)
    limit = context.settings.max_request_choices
    if len(prompts) * params.num_sequences > limit:
        param = "n" if params.num_sequences == params.n else "best_of"
        message = f"{len(prompts)} prompts with {param}={params.num_sequences} ask for more than {limit} completions, the server's limit"
        raise ApiError(400, message, param=param, code="invalid_value")
    if images is None:
        prompts = [truncate_prompt(prompt, params, engine.max_model_len) for prompt in prompts]
    else:
        check_truncation_with_images(params)
    for prompt in prompts:
        check_length(context, prompt, body)
    check_prompt_logprobs(context, body, params, sum(map(len, prompts)))
    return Job(
        id=uuid4().hex,
        prompts=prompts,
        params=params,
        priority=body.priority or 0,
        cache_salt=body.cache_salt,
        adapter=adapter,
        scoring=is_scoring(body),
        beams=read_beam_search(body, params),
        images=images,
    )


def check_prompt_logprobs(
    context: ServerContext, body: GenerationRequest, params: SamplingParams, num_prompt_tokens: int
) -> None:
    """Check that the logprobs of prompts are not too many for one response.

    Raises:
        ApiError: they are.
    """
    asked = params.prompt_logprobs
    if asked is None:
        return
    each = context.engine.tokenizer.vocab_size if asked < 0 else asked + 1
    copies = params.n if getattr(body, "echo", None) else 1  # each choice begins with its prompt
    if (total := num_prompt_tokens * each * copies) > MAX_PROMPT_LOGPROBS:
        message = (
            f"{total} logprobs of prompts were asked for (tokens of all prompts, times alternatives, times n with echo), "
            f"more than {MAX_PROMPT_LOGPROBS}, the server's limit; ask for fewer, or send several requests"
        )
        raise ApiError(400, message, param="prompt_logprobs", code="invalid_value")


def find_special_ids(tokenizer: ServedTokenizer, tokens: Sequence[str]) -> list[int]:
    """The ids of those of the given tokens that are special tokens."""
    ids = map(tokenizer.token_to_id, tokens)
    return [id for id in ids if id is not None and id in tokenizer.special_ids]
