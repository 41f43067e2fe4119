"""Beam search over HTTP: vLLM's ``use_beam_search``, with ``n`` beams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from uuid import uuid4

from dovetail.api.errors import RequestError
from dovetail.engine.output.beam_search import BeamSearch, BeamSearchSequence, build_step_params
from dovetail.engine.request.outputs import Delta, PositionLogprobs
from dovetail.engine.request.params import BeamSearchParams, SamplingParams
from dovetail.server.context import ServerContext
from dovetail.server.http.errors import ApiError
from dovetail.server.protocol.requests import GenerationRequest

SUPPORTED_PARAMS = frozenset(
    ("n", "max_tokens", "ignore_eos", "temperature", "top_p", "skip_special_tokens", "logprobs")
)
"""Sampling parameters that may be combined with beam search."""


def read_beam_search(body: GenerationRequest, params: SamplingParams) -> BeamSearchParams | None:
    """The beam search that a request asks for, if any.

    Args:
        params: the request's sampling parameters.

    Raises:
        ApiError: a parameter cannot be combined with beam search.
        RequestError: a value is out of its range.
    """
    if not body.use_beam_search:
        if body.length_penalty not in (None, 1):
            raise ApiError(
                400, "length_penalty needs use_beam_search: true", param="length_penalty", code="invalid_value"
            )
        return None
    neutral = SamplingParams()
    requested = (name for name in SamplingParams.__struct_fields__ if getattr(params, name) != getattr(neutral, name))
    other = next((name for name in requested if name not in SUPPORTED_PARAMS), "stream" if body.stream else None)
    if other is not None:
        message = f"use_beam_search follows the model's own distribution to its end, and goes with none of stream, {other} and the like"
        raise ApiError(400, message, param=other, code="invalid_value")
    return BeamSearchParams(
        beam_width=params.n,
        max_tokens=params.max_tokens or 2**31 - 1,
        ignore_eos=params.ignore_eos,
        temperature=0.0 if body.temperature is None else body.temperature,
        length_penalty=1.0 if body.length_penalty is None else body.length_penalty,
    )


async def run_beam_search(
    context: ServerContext,
    prompt: list[int],
    beams: BeamSearchParams,
    params: SamplingParams,
    *,
    priority: int,
    cache_salt: str | None,
    adapter: str | None,
) -> AsyncGenerator[list[Delta], None]:
    """Run a beam search to its end, and yield all results at once, best first."""
    engine = context.engine
    engine.check_beam_search()
    step = build_step_params(beams, engine.eos_ids, engine.tokenizer.vocab_size, detokenize=False)
    found = BeamSearch(prompt, beams, engine.eos_ids, engine.max_model_len)
    name = uuid4().hex

    async def run_step(tokens: list[int], number: int) -> PositionLogprobs:
        running = engine.generate(
            f"{name}-{number}", tokens, step, priority=priority, cache_salt=cache_salt, adapter=adapter
        )
        async with aclosing(running) as batches:
            async for batch in batches:
                for delta in batch:
                    if delta.logprobs:
                        return delta.logprobs[0]
                    if delta.error:
                        raise RequestError(delta.error)
        raise AssertionError("a step gave no token")

    number = 0
    while found.beams:
        steps = [run_step(beam.tokens, number + i) for i, beam in enumerate(found.beams)]
        number += len(steps)
        found.extend(await asyncio.gather(*steps))
    yield [_delta(context, i, beam, len(prompt), params) for i, beam in enumerate(found.best())]


def _delta(context: ServerContext, index: int, beam: BeamSearchSequence, prompt: int, params: SamplingParams) -> Delta:
    tokens = beam.tokens[prompt:]
    # As everywhere, what ends the output is no part of its text.
    text = context.engine.tokenizer.decode(tokens[:-1] if beam.finish_reason == "stop" else tokens)
    assert beam.finish_reason in ("stop", "length")
    delta = Delta(index, text, tokens, beam.finish_reason)  # type: ignore[arg-type]
    if params.logprobs is not None:
        delta.logprobs = beam.logprobs
    return delta
