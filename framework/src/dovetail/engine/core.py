"""The engine proper: requests in, tokens out, one step at a time. It knows no text and no clients."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch

from dovetail.api.errors import ResolutionError
from dovetail.engine.args import EngineArgs
from dovetail.engine.batch import Batch
from dovetail.engine.checks import check_prompt, end_of_sequence_ids
from dovetail.engine.kv_cache import KVCacheManager
from dovetail.engine.messages import EngineInfo, NewRequest, TokenOutput
from dovetail.engine.params import SamplingParams
from dovetail.engine.request import Request
from dovetail.engine.runner import ModelRunner
from dovetail.engine.sampler import sample
from dovetail.engine.scheduler import Scheduler
from dovetail.kernel.plan import Plan
from dovetail.nn.loading import Progress

WARM_UP = SamplingParams(max_tokens=2, temperature=0, ignore_eos=True)


class EngineCore:
    """Schedules, runs and samples.

    Args:
        plan: what to run.
        args: the sizes.
        progress: of loading.
    """

    def __init__(self, plan: Plan, args: EngineArgs, progress: Progress | None = None) -> None:
        torch.manual_seed(args.seed)
        self.runner = ModelRunner(plan, args.block_size, progress)
        cache = self.runner.size_cache(args.gpu_memory_utilization, args.max_num_seqs)
        # Asking for more than fits is an error only if somebody asked; otherwise the context shrinks to what memory holds.
        self.max_model_len = min(plan.max_model_len, cache.tokens)
        if args.max_model_len is not None and args.max_model_len > cache.tokens:
            raise ResolutionError(
                f"--max-model-len {args.max_model_len} was asked for, but the KV cache holds {cache.tokens} tokens",
                "lower it, or give the cache more memory",
            )
        self.runner.allocate(cache.blocks)
        self.kv = KVCacheManager(cache.blocks, args.block_size)
        self.scheduler = Scheduler(args.max_num_seqs, args.max_num_batched_tokens, self.kv)
        self.batch = Batch(args.max_num_seqs, self.max_model_len, args.block_size, self.runner.device)
        config = plan.model_config_object()
        self.vocab_size = config.vocab_size
        self.eos_ids = end_of_sequence_ids(plan)
        self.requests: dict[str, Request] = {}
        self.info = EngineInfo(
            max_model_len=self.max_model_len,
            cache_tokens=cache.tokens,
            cache_bytes=cache.bytes,
            weight_bytes=self.runner.weight_bytes,
            kernels=dict(self.runner.reader.used),
            device=self.runner.platform.describe(),
        )
        self._warm_up()

    def _warm_up(self) -> None:
        """Run one short request through everything, so that the first user does not wait for libraries to set themselves up."""
        request_id = f"warm-up-{os.getpid()}"
        self.add(NewRequest(id=request_id, prompt_token_ids=[0] * min(8, self.max_model_len - 1), params=WARM_UP))
        while not self.scheduler.idle:
            self.step()

    def add(self, new: NewRequest) -> None:
        """Queue a request.

        Raises:
            RequestError: the prompt is empty, longer than the context, or holds ids that the model does not have.
        """
        check_prompt(new.prompt_token_ids, self.max_model_len, self.vocab_size)
        limit = self.max_model_len
        if new.params.max_tokens is not None:
            limit = min(limit, len(new.prompt_token_ids) + new.params.max_tokens)
        request = Request(
            id=new.id,
            tokens=list(new.prompt_token_ids),
            params=new.params,
            prompt_len=len(new.prompt_token_ids),
            max_len=limit,
            eos_ids=self.eos_ids,
        )
        self.requests[new.id] = request
        self.scheduler.add(request)

    def abort(self, ids: Iterable[str]) -> None:
        """Forget requests, wherever they are; ids that are not known any more are fine."""
        for request_id in ids:
            if request := self.requests.pop(request_id, None):
                self._drop(request)

    def _drop(self, request: Request) -> None:
        self.scheduler.remove(request)
        self.batch.remove(request)

    @torch.inference_mode()
    def step(self) -> list[TokenOutput]:
        """Compute one step; what each request that got a token got."""
        schedule = self.scheduler.schedule()
        if not schedule.tokens:
            return []
        prepared = self.batch.prepare(schedule)
        logits = self.runner.forward(prepared.step)
        for request, count in schedule.tokens.items():
            request.computed += count
        if not prepared.sampled:
            return []
        tokens = sample(logits, prepared.sampled).tolist()
        return [self._accept(request, token) for request, token in zip(prepared.sampled, tokens, strict=True)]

    def _accept(self, request: Request, token: int) -> TokenOutput:
        self.batch.append(request, token)
        reason, stop = request.finish_reason()
        if reason is not None:
            del self.requests[request.id]
            self._drop(request)
        return TokenOutput(id=request.id, token_ids=[token], finish_reason=reason, stop_reason=stop)
