"""Pooling in the offline API: embeddings, probabilities of labels, and scores of pairs of texts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dovetail.api.errors import RequestError
from dovetail.engine.messages import NewRequest
from dovetail.engine.offline.prompts import TokenizedPrompt, require_tokenizer
from dovetail.engine.offline.sequences import read_sequence
from dovetail.engine.output.pooled import Pooled
from dovetail.engine.request.pooling_outputs import ScoringOutput, ScoringRequestOutput
from dovetail.engine.request.pooling_params import (
    NO_SAMPLING,
    PoolingParams,
    broadcast_pairs,
    check_pooling,
    cosine_similarity,
    find_prompt,
    floats,
    resolve_pooling_params,
)
from dovetail.engine.step.core import EngineCore
from dovetail.engine.text.tokenizer import Tokenizer
from dovetail.kernel.plan import Plan

Adapter = str | None


@dataclass(frozen=True, slots=True)
class PoolingJob:
    """A prompt that becomes a vector.

    Attributes:
        adapter: name of the LoRA adapter to run with.
    """

    id: str
    prompt: TokenizedPrompt
    params: PoolingParams
    adapter: Adapter = None


class OfflinePooling:
    """Runs pooling requests on an engine in this process. Used by one thread at a time."""

    def __init__(self, core: EngineCore, plan: Plan, tokenizer: Tokenizer | None) -> None:
        self._core = core
        self._plan = plan
        self._tokenizer = tokenizer
        self._ids = itertools.count()

    def jobs(
        self, prompts: Sequence[TokenizedPrompt], params: Sequence[PoolingParams], adapters: Sequence[Adapter]
    ) -> list[PoolingJob]:
        """Truncate and check prompts.

        Raises:
            RequestError: one does not fit, or the model has no such vectors.
        """
        found = []
        wanted = [resolve_pooling_params(each, self._plan) for each in params]
        width = self._plan.build_model_config().hidden_size
        for prompt, given, asked, adapter in zip(prompts, params, wanted, adapters, strict=True):
            ids = self._truncate(prompt, given.truncate_prompt_tokens)
            check_pooling(ids, asked, self._core.limits, width)
            cut = TokenizedPrompt(prompt.text, ids, prompt.cache_salt)
            found.append(PoolingJob(f"pool-{next(self._ids)}", cut, asked, adapter))
        return found

    def _truncate(self, prompt: TokenizedPrompt, asked: int | None) -> list[int]:
        keep = self._core.max_model_len if asked == -1 else asked
        text, ids, tokenizer = prompt.text, prompt.token_ids, self._tokenizer
        if keep is None or len(ids) <= keep:
            return ids
        if text is not None and tokenizer is not None and tokenizer.encode(text) == ids:
            return tokenizer.encode_within(text, keep)  # which leaves the special tokens at its end
        return ids[:keep]

    def run(self, jobs: Sequence[PoolingJob], finished: Callable[[], Any] = lambda: None) -> list[Pooled]:
        """The vector of each job, in order.

        Args:
            finished: called after each vector.

        Raises:
            RequestError: a request is refused or fails.
        """
        done: dict[str, Pooled] = {}
        try:
            for job in jobs:
                prompt = job.prompt
                self._core.add(
                    NewRequest(
                        job.id,
                        prompt.token_ids,
                        NO_SAMPLING,
                        cache_salt=prompt.cache_salt,
                        adapter=job.adapter,
                        pooling=job.params,
                    )
                )
            while len(done) < len(jobs):
                for output in self._core.step():
                    done[output.id] = Pooled.from_output(output)
                    finished()
        except BaseException:  # Ctrl+C among them: leave nothing behind for the next call
            self._core.abort([job.id for job in jobs])
            raise
        for pooled in done.values():
            if pooled.error is not None:
                raise RequestError(pooled.error)
        return [done[job.id] for job in jobs]


def read_pairs(data_1: Any, data_2: Any) -> tuple[list[str], list[str]]:
    """The two sides of a comparison: one text with each of the others, or two lists of the same length.

    Raises:
        RequestError: they are not texts, or their numbers differ.
    """
    first, second = _texts("data_1", data_1), _texts("data_2", data_2)
    if len(first) not in (1, len(second)):
        raise RequestError(
            f"data_1 has {len(first)} texts and data_2 {len(second)}",
            "give one of the former, or as many",
            param="data_1",
        )
    return first, second


def _texts(name: str, given: Any) -> list[str]:
    texts = [given] if isinstance(given, str) else read_sequence(given, name)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise RequestError(f"{name} is {given!r}", "give a text, or a list of texts", param=name)
    return list(texts)


def score_prompts(
    plan: Plan, tokenizer: Tokenizer | None, first: list[str], second: list[str], limit: int | None
) -> list[TokenizedPrompt]:
    """The prompts to compute for a comparison: the pairs, for a model that reads both texts at once; otherwise each
    text separately.

    Args:
        limit: maximum number of tokens of each.
    """
    encode = require_tokenizer(tokenizer, "score").encode_within
    if "score" in plan.tasks:
        return [
            TokenizedPrompt(None, encode(text, limit, pair=other)) for text, other in broadcast_pairs(first, second)
        ]
    before = find_prompt(plan.pooling, "embed", None)
    return [TokenizedPrompt(None, encode(before + text, limit)) for text in (*first, *second)]


def score_outputs(
    plan: Plan, jobs: Sequence[PoolingJob], pooled: Sequence[Pooled], firsts: int
) -> list[ScoringRequestOutput]:
    """The scores, from the vectors of :func:`score_prompts`.

    Args:
        firsts: how many of them are of the first side.
    """
    vectors = [floats(each.vector) for each in pooled]
    if "score" in plan.tasks:
        return [
            ScoringRequestOutput(job.id, ScoringOutput(vector[0]), job.prompt.token_ids, each.cached_tokens)
            for job, vector, each in zip(jobs, vectors, pooled, strict=True)
        ]
    entries = list(zip(jobs, vectors, pooled, strict=True))
    return [
        ScoringRequestOutput(
            job.id,
            ScoringOutput(cosine_similarity(a, b)),
            one.prompt.token_ids + job.prompt.token_ids,
            cached.cached_tokens + other.cached_tokens,
        )
        for (one, a, cached), (job, b, other) in broadcast_pairs(entries[:firsts], entries[firsts:])
    ]
