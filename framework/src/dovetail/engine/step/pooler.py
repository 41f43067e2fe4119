"""Pools the hidden states of a step to the vectors of prompts that end in it.

A prompt may be computed in chunks: its last token's hidden state is in the last one, its first token's in the first,
and the mean is the sum over all of them. The state of earlier chunks stays on the device, in
:attr:`~dovetail.engine.engine_request.Request.pooling_state`.

Letters: R requests of a step, T its tokens, C channels, P prompts that end in it, K labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dovetail.api.cards import Task
from dovetail.engine.engine_request import Request
from dovetail.engine.request.pooling_params import PoolingParams
from dovetail.engine.step.input_batch import StepWork
from dovetail.kernel.blame import blame, wrong_answer
from dovetail.kernel.plan import Plan
from dovetail.nn.model import PoolingModel
from dovetail.nn.platform import Platform

MULTI_LABEL = "multi_label_classification"
"""``problem_type`` of configurations with independent labels."""


@dataclass
class PooledVectors:
    """Vectors of some prompts, float32 ``[P, D]`` in the order of ``requests``; calling ``vectors`` waits for them.
    Values after a request's dimensions are zero.
    """

    requests: list[Request]
    vectors: Callable[[], np.ndarray]


class Pooler:
    """Pools the hidden states of steps.

    Args:
        plan: says whether labels are independent.
        platform: where the hidden states are.
        dtype: of activations, for the model's own head.
    """

    def __init__(self, plan: Plan, platform: Platform, dtype: torch.dtype) -> None:
        self.part = plan.model_part.part
        self.platform = platform
        self.dtype = dtype
        self.multi_label = plan.config.get("problem_type") == MULTI_LABEL

    def pool(self, model: PoolingModel, work: StepWork, hidden: Tensor) -> list[PooledVectors]:
        """Add a step's hidden states ``[T, C]`` to its prompts. Returns the vectors of those that end."""
        points = [
            place for place in work.pooled_indices if _get_pooling_params(work.requests[place]).pooling_type != "mean"
        ]
        means = [
            place for place in work.pooled_indices if _get_pooling_params(work.requests[place]).pooling_type == "mean"
        ]
        begins = (np.cumsum(work.num_scheduled_tokens) - work.num_scheduled_tokens).tolist()
        requests, vectors = self._pool_single_tokens(work, points, begins, hidden)
        if means:
            more, averages = self._pool_means(work, means, hidden)
            requests, vectors = [*requests, *more], torch.cat([vectors, averages])
        tasks = [_get_pooling_params(request).task for request in requests]
        return [
            self._build_vectors(model, task, requests, vectors, tasks)
            for task in dict.fromkeys(tasks)
            if task is not None
        ]

    def _pool_single_tokens(
        self, work: StepWork, places: list[int], begins: list[int], hidden: Tensor
    ) -> tuple[list[Request], Tensor]:
        """Prompts that are pooled from one token (first or last); float32 ``[P, C]``."""
        ending: list[Request] = []
        rows: list[int] = []
        waited: list[Request] = []
        for place in places:
            request, begin, count = work.requests[place], begins[place], int(work.num_scheduled_tokens[place])
            ends = bool(work.seq_lens[place] == request.num_prompt_tokens)
            if _get_pooling_params(request).pooling_type == "last":
                if ends:
                    ending.append(request)
                    rows.append(begin + count - 1)
            elif count == work.seq_lens[place]:  # its first token is here
                if ends:
                    ending.append(request)
                    rows.append(begin)
                else:
                    request.pooling_state = hidden[begin].to(torch.float32, copy=True)
            elif ends:
                waited.append(request)
        vectors = hidden[self.platform.upload(np.array(rows, np.int64))].float()
        if waited:
            vectors = torch.cat([vectors, torch.stack([_get_pooling_state(request) for request in waited])])
        return ending + waited, vectors

    def _pool_means(self, work: StepWork, places: list[int], hidden: Tensor) -> tuple[list[Request], Tensor]:
        """Prompts that are mean-pooled; float32 ``[P, C]``."""
        # The lengths add up to T by construction; checking that would wait for the device.
        lengths = self.platform.upload(work.num_scheduled_tokens)
        sums = torch.segment_reduce(hidden.float(), "sum", lengths=lengths, axis=0, unsafe=True)  # [R, C]
        ending: list[int] = []
        for place in places:
            request = work.requests[place]
            if work.num_scheduled_tokens[place] < work.seq_lens[place]:
                sums[place] += _get_pooling_state(request)
            if work.seq_lens[place] == request.num_prompt_tokens:
                ending.append(place)
            else:
                request.pooling_state = sums[place].clone()
        requests = [work.requests[place] for place in ending]
        tokens = self.platform.upload(np.array([request.num_prompt_tokens for request in requests], np.float32))
        return requests, sums[self.platform.upload(np.array(ending, np.int64))] / tokens[:, None]

    def _build_vectors(
        self, model: PoolingModel, task: Task, requests: list[Request], vectors: Tensor, tasks: list[Task | None]
    ) -> PooledVectors:
        lines = [line for line, each in enumerate(tasks) if each == task]
        if len(lines) < len(requests):
            requests = [requests[line] for line in lines]
            vectors = vectors[self.platform.upload(np.array(lines, np.int64))]
        pooling_params = [_get_pooling_params(request) for request in requests]
        if task == "embed":
            values = self._truncate(vectors, pooling_params)
            activated = F.normalize(values, dim=-1)
        else:
            with blame(self.part, "to compute the logits of vectors (pooled_logits)"):
                found: Any = model.pooled_logits(vectors.to(self.dtype))
            if not (isinstance(found, Tensor) and found.ndim == 2 and len(found) == len(vectors)):
                raise wrong_answer(self.part, "pooled_logits()", found, f"logits [{len(vectors)}, K]")
            values = found.float()
            activated = self._probabilities(values)
        return PooledVectors(requests, self.platform.fetch(self._select_activation(activated, values, pooling_params)))

    def _truncate(self, vectors: Tensor, pooling_params: list[PoolingParams]) -> Tensor:
        """Set each vector's values after its requested dimensions to zero, so that normalisation ignores them."""
        if all(params.dimensions is None for params in pooling_params):
            return vectors
        width = vectors.shape[1]
        sizes = self.platform.upload(np.array([params.dimensions or width for params in pooling_params], np.int64))
        places = torch.arange(width, device=vectors.device)
        return vectors * (places < sizes[:, None])

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if logits.shape[1] == 1 or self.multi_label else logits.softmax(-1)

    def _select_activation(self, activated: Tensor, plain: Tensor, pooling_params: list[PoolingParams]) -> Tensor:
        wanted = [bool(params.use_activation) for params in pooling_params]
        if all(wanted):
            return activated
        return torch.where(self.platform.upload(np.array(wanted))[:, None], activated, plain)


def _get_pooling_params(request: Request) -> PoolingParams:
    assert request.pooling_params is not None
    return request.pooling_params


def _get_pooling_state(request: Request) -> Tensor:
    assert request.pooling_state is not None, "the beginning of the prompt was passed over"
    return request.pooling_state
