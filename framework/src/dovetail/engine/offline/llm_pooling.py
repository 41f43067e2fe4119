"""The pooling methods of :class:`~dovetail.engine.offline.llm.LLM`, which return vectors instead of texts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import torch

from dovetail.api.cards import Task
from dovetail.api.errors import RequestError
from dovetail.engine.adapters.lora_request import LoRARequest
from dovetail.engine.offline.adapters import OfflineAdapters
from dovetail.engine.offline.arguments import LoRARequests, ProgressBar, broadcast_to_prompts, progress_bar
from dovetail.engine.offline.pooling import OfflinePooling, PoolingJob, read_pairs, score_outputs, score_prompts
from dovetail.engine.offline.prompts import Prompt, TokenizedPrompt, read_prompts
from dovetail.engine.output.pooled import Pooled
from dovetail.engine.request.pooling_outputs import (
    ClassificationOutput,
    ClassificationRequestOutput,
    EmbeddingOutput,
    EmbeddingRequestOutput,
    PoolingOutput,
    PoolingRequestOutput,
    ScoringRequestOutput,
)
from dovetail.engine.request.pooling_params import PoolingParams, explain_missing_task, find_prompt, floats
from dovetail.engine.step.core import EngineCore
from dovetail.engine.text.tokenizer import Tokenizer
from dovetail.kernel.plan import Plan

Params = PoolingParams | Sequence[PoolingParams] | None


class PoolingMethods:
    """Embeddings, probabilities and scores of prompts, all of them in one batch."""

    plan: Plan
    _tokenizer: Tokenizer | None
    _core: EngineCore
    _adapters: OfflineAdapters
    _pooling: OfflinePooling

    def _lock_engine(self) -> AbstractContextManager[None]:
        raise NotImplementedError

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        truncate_prompt_tokens: int | None = None,
        use_tqdm: ProgressBar = True,
        pooling_params: Params = None,
        lora_request: LoRARequests = None,
        prompt_name: str | None = None,
    ) -> list[EmbeddingRequestOutput]:
        """The embedding of each prompt, in ``outputs.embedding``.

        Args:
            prompts: as :meth:`~dovetail.engine.offline.llm.LLM.generate` takes them.
            truncate_prompt_tokens: truncate longer prompts to this many tokens; -1 for what the context holds.
            use_tqdm: show a progress bar; or what makes one.
            pooling_params: one for all, or one each; None for the model's defaults.
            lora_request: the LoRA adapter to run with, one for all or one (or None) each.
            prompt_name: which of the model's prompts (``config_sentence_transformers.json``) is put before each text, such
                as ``query``; None for its default, which most models do not have.

        Raises:
            RequestError: a prompt does not fit, or the model does not serve embeddings. The message names its tasks and
                what would help.
        """
        return [
            EmbeddingRequestOutput(
                job.id, EmbeddingOutput(floats(each.vector)), job.prompt.token_ids, each.cached_tokens
            )
            for job, each in self._pool_prompts(
                "embed", prompts, pooling_params, truncate_prompt_tokens, use_tqdm, lora_request, prompt_name
            )
        ]

    def classify(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        truncate_prompt_tokens: int | None = None,
        use_tqdm: ProgressBar = True,
        pooling_params: Params = None,
        lora_request: LoRARequests = None,
    ) -> list[ClassificationRequestOutput]:
        """The probability of each label for each prompt, in ``outputs.probs``. Arguments as for :meth:`embed`.

        Raises:
            RequestError: a prompt does not fit, or the model has no labels.
        """
        return [
            ClassificationRequestOutput(
                job.id, ClassificationOutput(floats(each.vector)), job.prompt.token_ids, each.cached_tokens
            )
            for job, each in self._pool_prompts(
                "classify", prompts, pooling_params, truncate_prompt_tokens, use_tqdm, lora_request
            )
        ]

    def encode(
        self,
        prompts: Prompt | Sequence[Prompt],
        pooling_params: Params = None,
        *,
        truncate_prompt_tokens: int | None = None,
        use_tqdm: ProgressBar = True,
        lora_request: LoRARequests = None,
        pooling_task: Task | None = None,
        prompt_name: str | None = None,
    ) -> list[PoolingRequestOutput[PoolingOutput]]:
        """The vector of each prompt for any task, as a float32 tensor in ``outputs.data``. Arguments as for
        :meth:`embed`.

        Args:
            pooling_task: ``embed``, ``classify`` or ``score``; None for the first that the model has.

        Raises:
            RequestError: a prompt does not fit, or the model does not have the task.
        """
        found = self._pool_prompts(
            pooling_task, prompts, pooling_params, truncate_prompt_tokens, use_tqdm, lora_request, prompt_name
        )
        return [
            PoolingRequestOutput(
                job.id, PoolingOutput(_to_tensor(each.vector)), job.prompt.token_ids, each.cached_tokens
            )
            for job, each in found
        ]

    def score(
        self,
        data_1: str | Sequence[str],
        data_2: str | Sequence[str],
        *,
        truncate_prompt_tokens: int | None = None,
        use_tqdm: ProgressBar = True,
        pooling_params: PoolingParams | None = None,
        lora_request: LoRARequest | None = None,
    ) -> list[ScoringRequestOutput]:
        """The scores of pairs of texts, in ``outputs.score``: from a model that reads both texts at once, or else the
        cosine similarity of their embeddings.

        Args:
            data_1: a text, which is scored with each of ``data_2``; or a list of the same length, scored pairwise.

        Raises:
            RequestError: the texts do not fit, or the model can neither score nor embed.
        """
        first, second = read_pairs(data_1, data_2)
        task: Task = "score" if "score" in self.plan.tasks else "embed"
        if task not in self.plan.tasks:
            raise RequestError(*explain_missing_task(self.plan, "score", "embed"))
        prompts = score_prompts(
            self.plan, self._tokenizer, first, second, self._read_truncation(truncate_prompt_tokens)
        )
        jobs, pooled = self._run_pooling(task, prompts, pooling_params, None, use_tqdm, lora_request)
        return score_outputs(self.plan, jobs, pooled, len(first))

    def _read_truncation(self, truncate_prompt_tokens: int | None) -> int | None:
        asked = PoolingParams(truncate_prompt_tokens=truncate_prompt_tokens).truncate_prompt_tokens
        return self._core.max_model_len if asked == -1 else asked

    def _pool_prompts(
        self,
        task: Task | None,
        prompts: Prompt | Sequence[Prompt],
        params: Params,
        truncate: int | None,
        use_tqdm: ProgressBar,
        lora_request: LoRARequests,
        prompt_name: str | None = None,
    ) -> list[tuple[PoolingJob, Pooled]]:
        if task is not None and task not in self.plan.tasks:
            raise RequestError(*explain_missing_task(self.plan, task))
        known: Task | None = task or ("embed" if "embed" in self.plan.tasks else self.plan.tasks[0])
        read = read_prompts(prompts, self._tokenizer, before=find_prompt(self.plan.pooling, known, prompt_name))
        if prompt_name is not None and any(each.text is None for each in read):
            raise RequestError(
                f"prompt_name is {prompt_name!r}, and a prompt is a list of token ids",
                "give texts, or the ids of the whole text",
                param="prompt_name",
            )
        jobs, pooled = self._run_pooling(task, read, params, truncate, use_tqdm, lora_request)
        return list(zip(jobs, pooled, strict=True))

    def _run_pooling(
        self,
        task: Task | None,
        prompts: list[TokenizedPrompt],
        params: Params,
        truncate: int | None,
        use_tqdm: ProgressBar,
        lora_request: LoRARequests,
    ) -> tuple[list[PoolingJob], list[Pooled]]:
        given = [
            _set_task(each or PoolingParams(), task, truncate)
            for each in broadcast_to_prompts("pooling parameters", params, len(prompts))
        ]
        adapters = [self._adapters.name(a) for a in broadcast_to_prompts("LoRA requests", lora_request, len(prompts))]
        jobs = self._pooling.jobs(prompts, given, adapters)
        with self._lock_engine(), progress_bar(use_tqdm, len(jobs), "Processed prompts", "prompt") as bar:
            return jobs, self._pooling.run(jobs, bar.update)


def _set_task(params: PoolingParams, task: Task | None, truncate: int | None) -> PoolingParams:
    if task is not None and params.task not in (None, task):
        raise RequestError(
            f"the pooling parameters are for {params.task}, and {task} was asked for", "leave task out", param="task"
        )
    changes: dict[str, Any] = {"task": task or params.task}
    if truncate is not None:
        changes["truncate_prompt_tokens"] = truncate
    return msgspec.structs.replace(params, **changes)


def _to_tensor(vector: bytes) -> torch.Tensor:
    return torch.tensor(floats(vector), dtype=torch.float32)
