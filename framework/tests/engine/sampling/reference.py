"""The sampler once more: one line at a time, slow and obvious, in numpy and Python's own integers; and what its tests share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dovetail.engine.engine_request import Request
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.sampling import Sampled, SamplingTables, build_logit_edits, build_sampling_metadata, sample
from dovetail.engine.text.bad_words import BadWords

CPU = torch.device("cpu")
WORD = (1 << 64) - 1


def upload(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)


class ListedBadWords(BadWords):
    """Remembers the words, for what is slow and obvious."""

    def __init__(self, words: Sequence[list[int]]) -> None:
        super().__init__(words)
        self.words = [list(word) for word in words]


def make_request(
    prompt: Sequence[int] = (1,),
    output: Sequence[int] = (),
    eos: int = 3,
    seed: int = 0,
    bad_words: Sequence[list[int]] = (),
    **params: Any,
) -> Request:
    tokens = [*prompt, *output]
    given = SamplingParams(max_tokens=100, **params)
    return Request(
        "r",
        tokens,
        given,
        len(prompt),
        10_000,
        frozenset({eos}),
        seed=seed,
        bad_words=ListedBadWords(bad_words),
    )


def tables_for(requests: Sequence[Request], vocab_size: int, **options: Any) -> SamplingTables:
    """Tables with request i in row i."""
    tables = SamplingTables(len(requests), vocab_size, CPU, upload, **options)
    for row, request in enumerate(requests):
        tables.set(row, request)
    tables.flush()
    return tables


def step(
    logits: Tensor, requests: Sequence[Request], tables: SamplingTables | None = None, rows: Any = None
) -> Sampled:
    """One token of each request, whose tokens are all seen."""
    tables = tables_for(requests, logits.shape[1]) if tables is None else tables
    rows = torch.arange(len(requests)) if rows is None else torch.tensor(rows)
    positions = torch.tensor([request.num_tokens for request in requests])
    edits = build_logit_edits([(request, ()) for request in requests], logits.shape[1], upload)
    return sample(logits.clone(), rows, positions, tables, build_sampling_metadata(requests), edits)


def mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & WORD
    return value ^ (value >> 31)


def hashed(seed: int, position: int) -> int:
    golden = 0x9E3779B97F4A7C15
    return mix((mix((seed + golden) & WORD) + position * golden) & WORD) >> 33


def edited(line: np.ndarray, request: Request) -> np.ndarray:
    """Scores after bias, penalties and what is forbidden, in the float32 arithmetic that is asked for."""
    params, scores = request.params, line.astype(np.float32).copy()
    prompt, output = request.tokens[: request.num_prompt_tokens], request.tokens[request.num_prompt_tokens :]
    one = np.float32
    for token in range(len(scores)):
        if params.logit_bias and token in params.logit_bias:
            scores[token] += one(params.logit_bias[token])
        if params.allowed_token_ids is not None and token not in params.allowed_token_ids:
            scores[token] = -np.inf
        count = output.count(token)
        if count or token in prompt:
            factor = one(params.repetition_penalty)
            scores[token] = scores[token] / factor if scores[token] > 0 else scores[token] * factor
        scores[token] -= one(params.frequency_penalty) * one(count)
        scores[token] -= one(params.presence_penalty) * one(count > 0)
    if len(output) < params.min_tokens:
        scores[[*request.eos_ids, *params.stop_token_ids]] = -np.inf
    for word in getattr(request.bad_words, "words", ()):
        if word[:-1] == output[len(output) - len(word) + 1 :]:
            scores[word[-1]] = -np.inf
    return scores


def kept(scores: np.ndarray, params: SamplingParams, slack: float) -> list[tuple[int, float]]:
    """Tokens that may be drawn with their weights, in the order in which a draw goes through them."""
    weights = np.exp((scores.astype(np.float64) - scores.max()) / params.temperature)
    order = list(range(len(scores)))
    if params.top_k > 0 or params.top_p < 1:
        order.sort(key=lambda token: (-scores[token], token))
    if params.min_p > 0:
        order = [token for token in order if weights[token] >= params.min_p * (1 + slack)]
    if params.top_k > 0:
        order = order[: params.top_k]
    if params.top_p < 1:
        total, mass, some = sum(weights[token] for token in order), 0.0, []
        for token in order:
            if not some or mass < (params.top_p + slack) * total:
                some.append(token)
            mass += weights[token]
        order = some
    return [(token, float(weights[token])) for token in order]


def possible(line: np.ndarray, request: Request) -> set[int]:
    """The token that follows; more than one where rounding may decide between them."""
    scores = edited(line, request)
    if request.params.greedy:
        return {int(scores.argmax())}
    uniform = hashed(request.seed, len(request.tokens)) / 2**31
    found = set()
    for slack in (-1e-5, 0.0, 1e-5):
        candidates = [(token, weight) for token, weight in kept(scores, request.params, slack) if weight > 0]
        total = sum(weight for _, weight in candidates)
        for shift in (-1e-5, 0.0, 1e-5):
            target, mass = min(max(uniform + shift, 0.0), 1 - 1e-12) * total, 0.0
            for token, weight in candidates:
                mass += weight
                if mass > target:
                    found.add(token)
                    break
    return found
