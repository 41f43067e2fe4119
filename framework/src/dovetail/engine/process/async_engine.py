"""The client of the engine in the API's process: sends requests, and yields text deltas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import msgspec

from dovetail.api.errors import DovetailError, EngineDeadError, RequestError
from dovetail.engine import messages as m
from dovetail.engine.args import EngineArgs
from dovetail.engine.grammars.check_process import GrammarChecker
from dovetail.engine.grammars.checks import find_kind, find_validator, report_notices
from dovetail.engine.images import make_image_inputs
from dovetail.engine.output.delta_merger import DeltaMerger
from dovetail.engine.output.pooled import Pooled
from dovetail.engine.output.processor import OutputProcessor, prepares_quickly
from dovetail.engine.process.delta_queue import DeltaQueue
from dovetail.engine.process.engine_client import EngineClient
from dovetail.engine.request.checks import ModelLimits, check_request, find_eos_token_ids
from dovetail.engine.request.defaults import sampling_defaults
from dovetail.engine.request.logits_processors import check_logits_processors
from dovetail.engine.request.outputs import Delta
from dovetail.engine.request.params import SamplingParams, StructuredOutputs
from dovetail.engine.request.pooling_params import NO_SAMPLING, PoolingParams, check_pooling, resolve_pooling_params
from dovetail.engine.setup import load_tokenizer
from dovetail.engine.text.tokenizer import Tokenizer
from dovetail.kernel.plan import Plan

if TYPE_CHECKING:
    from dovetail.engine.images.inputs import PromptWithImages

IMAGE_THREADS = 4
"""Prompts whose images are fetched or decoded at once. Of the largest image, a thread takes half a gigabyte."""


class AsyncEngine(EngineClient):
    """An engine that many coroutines use concurrently. Create it with :meth:`start`, which reads the tokenizer while
    the process starts.

    Attributes:
        max_model_len: maximum sequence length in tokens, prompt and output together.
        tokenizer: the model's.
        eos_ids: end-of-sequence tokens.
        default_params: sampling parameters for fields that a request does not set. Its ``max_tokens`` is also an upper
            limit.
    """

    def __init__(self, plan: Plan, args: EngineArgs, tokenizer: Tokenizer) -> None:
        super().__init__(plan, args)
        self.tokenizer = tokenizer
        self.default_params: dict[str, Any] = sampling_defaults(plan, args)
        self._config = plan.build_model_config()
        self.vocab_size: int = self._config.vocab_size
        self.eos_ids = find_eos_token_ids(plan)
        self._processor = OutputProcessor(tokenizer)
        self._delta_queues: dict[str, DeltaQueue] = {}
        self._mergers: dict[str, DeltaMerger] = {}
        self._pooling_futures: dict[str, asyncio.Future[Pooled]] = {}
        self._checker: GrammarChecker | None = None
        self._images = make_image_inputs(plan, args)
        self._image_threads: ThreadPoolExecutor | None = None

    @classmethod
    async def _create(cls, plan: Plan, args: EngineArgs) -> Self:
        return cls(
            plan,
            args,
            await asyncio.to_thread(
                load_tokenizer,
                plan,
                args.chat_template,
                args.chat_template_content_format,
                args.allow_special_tokens_in_content,
            ),
        )

    @property
    def max_model_len(self) -> int:
        assert self.info is not None
        return self.info.max_model_len

    @property
    def max_num_seqs(self) -> int:
        assert self.info is not None
        return self.info.max_num_seqs

    @property
    def max_num_queued_requests(self) -> int | None:
        return self.args.max_num_queued_requests

    @property
    def scheduling_policy(self) -> str:
        return self.args.scheduling_policy

    @property
    def restarting(self) -> bool:
        """Always False: this client does not restart a process that has died."""
        return False

    async def generate(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        adapter: str | None = None,
        images: list[m.ImageInput] | None = None,
    ) -> AsyncGenerator[list[Delta], None]:
        """Yield deltas until every completion has a finish reason. Leaving the iterator early aborts the request.

        Args:
            priority: lower runs first, under ``--scheduling-policy priority``.
            cache_salt: share cached prefixes only with requests of the same salt.
            adapter: the LoRA adapter to run with.
            images: of the prompt, from :meth:`place_images`.

        Raises:
            RequestError: the prompt or a parameter does not fit, or the output format is not supported.
            EngineDeadError: the engine has ended, or ends while this runs.
        """
        self._check_alive()
        check_request(prompt_token_ids, params, self._limits)
        if params.logits_processors:
            check_logits_processors(params, self.plan)
        if params.structured_outputs is not None:
            form = await self._check_format(params.structured_outputs)
            params = msgspec.structs.replace(params, structured_outputs=form)
            self._check_alive()
        prepared = None
        if not prepares_quickly(params):
            prepared = await asyncio.to_thread(self._processor.prepare, params)
            self._check_alive()
        new = self._processor.add(
            request_id,
            prompt_token_ids,
            params,
            priority=priority,
            cache_salt=cache_salt,
            adapter=adapter,
            prepared=prepared,
            images=images,
        )
        queue = self._delta_queues[request_id] = DeltaQueue()
        if self.args.stream_interval > 1:
            self._mergers[request_id] = DeltaMerger(self.args.stream_interval)
        try:
            self._child.send(new)
            left = params.n
            while left:
                deltas = await queue.take()
                for delta in deltas:
                    if delta.finish_reason is not None:
                        left -= 1
                yield deltas
        finally:
            del self._delta_queues[request_id]
            self._mergers.pop(request_id, None)
            if (aborted := self._processor.abort(request_id)) and self.alive:
                self._child.send(m.Abort(aborted))

    @cached_property
    def image_placeholder(self) -> str | None:
        """What stands for an image in a text for the model; None if it takes no images."""
        if self._images is None:
            return None
        return self._images.placeholder_text(self.tokenizer.id_to_token(self._images.processor.placeholder))

    async def place_images(self, prompt_token_ids: list[int], images: Sequence[Any]) -> PromptWithImages:
        """Read and process images, and put them into a prompt with a placeholder for each. Fetching and decoding have
        threads of their own, so that neither the event loop nor short work waits for them.

        Args:
            images: as for :meth:`~dovetail.engine.images.inputs.ImageInputs.prepare`.

        Raises:
            RequestError: an image cannot be read, there are not as many placeholders, or the model takes none.
        """
        if self._images is None:
            raise RequestError(f"{self.plan.model} takes no images", "send it text", param="messages")
        if self._image_threads is None:
            self._image_threads = ThreadPoolExecutor(IMAGE_THREADS, thread_name_prefix="dovetail-images")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._image_threads, self._images.prepare, prompt_token_ids, images)

    async def _check_format(self, params: StructuredOutputs) -> StructuredOutputs:
        """Check a format beside the event loop. Returns it as it is sent to the engine.

        Raises:
            RequestError: it is not supported, or it is not valid, or too much work.
        """
        validator = find_validator(find_kind(params), self.plan)
        if self._checker is None:
            self._checker = GrammarChecker(validator)
        params = await self._checker.write(params)
        report_notices(await self._checker.check(params))
        return params

    async def stop(self) -> None:
        if self._checker is not None:
            self._checker.close()
        if self._image_threads is not None:
            self._image_threads.shutdown(wait=False, cancel_futures=True)
        await super().stop()

    async def pool(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: PoolingParams,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        adapter: str | None = None,
    ) -> Pooled:
        """The vector of one prompt. Cancelling the task that waits for it aborts the request.

        Args:
            priority, cache_salt, adapter: see :meth:`generate`.

        Raises:
            RequestError: the prompt does not fit, or the model has no such vectors.
            EngineDeadError: the engine has ended, or ends while this runs.
        """
        self._check_alive()
        pooling = resolve_pooling_params(params, self.plan)
        check_pooling(prompt_token_ids, pooling, self._limits, self._config.hidden_size)
        assert request_id not in self._pooling_futures
        new = m.NewRequest(request_id, prompt_token_ids, NO_SAMPLING, priority, cache_salt, adapter, pooling=pooling)
        waiting = self._pooling_futures[request_id] = asyncio.get_running_loop().create_future()
        try:
            self._child.send(new)
            return await waiting
        finally:
            del self._pooling_futures[request_id]
            if waiting.cancelled() and self.alive:
                self._child.send(m.Abort([request_id]))

    def check_beam_search(self) -> None:
        """
        Raises:
            RequestError: a search for the likeliest outputs has no logprobs to go by.
        """
        self._limits.check_scores("use_beam_search")

    @property
    def _limits(self) -> ModelLimits:
        return ModelLimits(self.max_model_len, self.vocab_size, self.args.max_logprobs, self.args.logprobs_mode)

    def _take(self, outputs: list[m.TokenOutput]) -> None:
        if self._pooling_futures:
            outputs = [output for output in outputs if not self._resolve_pooling(output)]
        deltas, aborts = self._processor.process(outputs)
        for request_id, new in deltas.items():
            if merger := self._mergers.get(request_id):
                new = merger.add(new)
            if new and (queue := self._delta_queues.get(request_id)):
                queue.put(new)
        if aborts:
            self._child.send(m.Abort(aborts))

    def _resolve_pooling(self, output: m.TokenOutput) -> bool:
        waiting = self._pooling_futures.get(output.id)
        if waiting is None:
            return False
        if not waiting.done():
            waiting.set_result(Pooled.from_output(output))
        return True

    def _fail_waiting(self, error: DovetailError) -> None:
        super()._fail_waiting(error)
        for queue in self._delta_queues.values():
            queue.fail(EngineDeadError(self.dead_reason))
        for waiting in self._pooling_futures.values():
            if not waiting.done():
                waiting.set_exception(EngineDeadError(self.dead_reason))
