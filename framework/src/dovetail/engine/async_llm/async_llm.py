"""``AsyncLLM``: concurrent requests of coroutines, on an engine in its own process."""

from __future__ import annotations

import asyncio
import concurrent.futures
import uuid
import weakref
from collections.abc import AsyncGenerator, Iterable
from functools import cached_property, partial
from typing import Any, Self

from dovetail.api.errors import EngineDeadError, RequestError, UsageError
from dovetail.engine.adapters.lora_request import LoRARequest
from dovetail.engine.args import EngineArgs
from dovetail.engine.async_llm.awaitables import AsyncModelConfig, AsyncTokenizer
from dovetail.engine.async_llm.engine_thread import EngineThread
from dovetail.engine.messages import ImageInput
from dovetail.engine.offline.prompts import Prompt, TokenizedPrompt, read_prompts, require_tokenizer
from dovetail.engine.output.accumulator import OutputAccumulator
from dovetail.engine.process.delta_queue import DeltaQueue
from dovetail.engine.request.checks import check_truncation_with_images, truncate_prompt
from dovetail.engine.request.defaults import apply_defaults
from dovetail.engine.request.outputs import RequestOutput
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.request.pooling_outputs import PoolingOutput, PoolingRequestOutput
from dovetail.engine.request.pooling_params import PoolingParams, floats
from dovetail.engine.setup import make_plan
from dovetail.kernel.plan import Plan
from dovetail.utils import logs
from dovetail.utils.foreign.variables import variable_notices


class _Aborted(Exception):  # noqa: N818  # not an error of anybody's
    """Ends a request that was aborted."""


class AsyncLLM:
    """A model for asynchronous scripts: a server without HTTP.

    It can be made before there is an event loop, or inside one (which is blocked while the model loads), and used from
    one loop or from several, one after another. End it with :meth:`shutdown`, or use ``async with``.

    Args:
        engine_args: what to run.

    Attributes:
        args, plan: what runs.
        default_params: sampling parameters if a request has none. Its ``max_tokens`` is also an upper limit.

    Raises:
        DovetailError: the model cannot be resolved or loaded, with the reason.
    """

    def __init__(self, engine_args: EngineArgs) -> None:
        for notice in variable_notices():
            logs.announce(f"note: {notice}")
        self.args = engine_args
        self.plan: Plan = make_plan(engine_args)
        self._thread = EngineThread(self.plan, engine_args)
        self._engine = self._thread.engine
        self._running: dict[str, tuple[asyncio.AbstractEventLoop, DeltaQueue]] = {}
        self._pooling: dict[str, concurrent.futures.Future[Any]] = {}
        # At the interpreter's exit, the engine's process sees that its parent has ended, and exits.
        self._finalizer = weakref.finalize(self, self._thread.stop)
        self._finalizer.atexit = False

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs, start_engine_loop: bool = True) -> Self:
        """Start an engine.

        Args:
            start_engine_loop: must be True, because the engine runs from now on.

        Raises:
            DovetailError: the model cannot be resolved or loaded, with the reason.
        """
        if not start_engine_loop:
            raise UsageError("start_engine_loop is False, and an engine runs once it is made", "leave it out")
        return cls(engine_args)

    # -- requests

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        lora_request: LoRARequest | None = None,
        priority: int = 0,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Complete a prompt. Leaving the iterator early, or cancelling its task, aborts the request.

        Args:
            prompt: one, in any of the forms that :meth:`~dovetail.engine.offline.llm.LLM.generate` accepts.
            sampling_params: None for the model's defaults.
            request_id: must not be in use; None for a random one.
            lora_request: the LoRA adapter to run with; loaded when it is first named.
            priority: lower runs first, under ``scheduling_policy="priority"`` alone.

        Yields:
            Outputs as they grow, the last of them with ``finished``: with the parameters' ``output_kind`` CUMULATIVE
                each has everything so far, with DELTA only what is new; with FINAL_ONLY there is one.

        Raises:
            RequestError: the prompt or a parameter does not fit, the output format is not supported, or the id is in
                use.
            EngineDeadError: the engine is gone, or goes while this runs.
        """
        if sampling_params is not None and not isinstance(sampling_params, SamplingParams):
            raise RequestError(
                f"sampling_params is a {type(sampling_params).__name__}",
                "give SamplingParams; for vectors, call encode",
                param="sampling_params",
            )
        request_id = self._name_request(request_id)
        self._check_priority(priority)
        loop, queue = asyncio.get_running_loop(), DeltaQueue()
        self._running[request_id] = loop, queue
        try:
            params = apply_defaults(sampling_params, self.default_params)
            read = await self._read_prompt(prompt, images=True)
            ids, images = await self._place_images(read, params)
            accumulator = OutputAccumulator(request_id, read.text, ids, params)
            running = self._thread.submit(
                self._thread.forward(
                    loop, queue, request_id, ids, params, priority, read.cache_salt, lora_request, images
                )
            )
            try:
                while not accumulator.finished:
                    try:
                        accumulator.add(await queue.take())
                    except _Aborted:
                        accumulator.abort()
                    if (output := accumulator.take()) is not None:
                        yield output
            finally:
                running.cancel()
        finally:
            del self._running[request_id]

    async def encode(
        self,
        prompt: Prompt,
        pooling_params: PoolingParams | None = None,
        request_id: str | None = None,
        *,
        lora_request: LoRARequest | None = None,
        priority: int = 0,
    ) -> AsyncGenerator[PoolingRequestOutput[PoolingOutput], None]:
        """Compute the vector of a prompt. Arguments as for :meth:`generate`.

        Yields:
            One output, with a float32 tensor in ``outputs.data``.

        Raises:
            RequestError: the prompt does not fit, the model has no such vectors, or the request was aborted.
            EngineDeadError: the engine is gone, or goes while this runs.
        """
        request_id = self._name_request(request_id)
        self._check_priority(priority)
        read = await self._read_prompt(prompt)
        params = pooling_params or PoolingParams()
        ids = self._truncate(read, params.truncate_prompt_tokens)
        running = self._pooling[request_id] = self._thread.submit(
            self._thread.pool(request_id, ids, params, priority, read.cache_salt, lora_request)
        )
        try:
            pooled = await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if request_id in self._pooling:
                raise
            raise RequestError(f"the request {request_id!r} was aborted") from None
        finally:
            self._pooling.pop(request_id, None)
        if pooled.error is not None:
            raise RequestError(pooled.error)
        import torch  # the engine has its own; this process needs it for tensors alone

        data = PoolingOutput(torch.tensor(floats(pooled.vector), dtype=torch.float32))
        yield PoolingRequestOutput(request_id, data, ids, pooled.cached_tokens)

    async def abort(self, request_id: str | Iterable[str]) -> None:
        """Abort running requests. Their iterators yield a last output with the finish reason ``abort``. Unknown ids
        are ignored.
        """
        for name in [request_id] if isinstance(request_id, str) else request_id:
            if name in self._running:
                loop, queue = self._running[name]
                loop.call_soon_threadsafe(queue.fail, _Aborted())
            elif (pooling := self._pooling.pop(name, None)) is not None:
                pooling.cancel()

    def _name_request(self, request_id: str | None) -> str:
        if not self._engine.alive:
            raise EngineDeadError(self._engine.dead_reason)
        name = uuid.uuid4().hex if request_id is None else str(request_id)
        if name in self._running or name in self._pooling:
            raise RequestError(f"a request with the id {name!r} is running", "give each request an id of its own")
        return name

    def _check_priority(self, priority: int) -> None:
        if priority and self.args.scheduling_policy != "priority":
            raise RequestError(
                f"priority was given, and the scheduling policy is {self.args.scheduling_policy}",
                'start with scheduling_policy="priority"',
                param="priority",
            )

    async def _place_images(
        self, prompt: TokenizedPrompt, params: SamplingParams
    ) -> tuple[list[int], list[ImageInput] | None]:
        """A prompt's token ids as the engine gets them, and its images; None for none."""
        if not prompt.images:
            return truncate_prompt(prompt.token_ids, params, self._engine.max_model_len), None
        check_truncation_with_images(params)
        placed = await self._thread.run(self._engine.place_images(prompt.token_ids, prompt.images))
        return placed.token_ids, placed.images

    async def _read_prompt(self, prompt: Prompt, *, images: bool = False) -> TokenizedPrompt:
        read = await asyncio.to_thread(partial(read_prompts, images=images), prompt, self._engine.tokenizer)
        if len(read) != 1:
            raise RequestError(f"{len(read)} prompts were given", "make one request for each", param="prompt")
        return read[0]

    def _truncate(self, prompt: TokenizedPrompt, keep: int | None) -> list[int]:
        limit = self._engine.max_model_len if keep == -1 else keep
        if limit is None or len(prompt.token_ids) <= limit or prompt.text is None:
            return prompt.token_ids[:limit]
        return self._engine.tokenizer.encode_within(prompt.text, limit)  # which leaves the special tokens at its end

    # -- the model

    @property
    def default_params(self) -> dict[str, Any]:
        return self._engine.default_params

    def get_default_sampling_params(self) -> SamplingParams:
        """The default parameters of :meth:`generate`: the model's own generation configuration."""
        return apply_defaults(None, self.default_params)

    @cached_property
    def tokenizer(self) -> AsyncTokenizer:
        """The model's tokenizer; see :meth:`get_tokenizer`."""
        return AsyncTokenizer.from_plan(require_tokenizer(self._engine.tokenizer, "get_tokenizer"), self.plan)

    def get_tokenizer(self) -> AsyncTokenizer:
        """The model's tokenizer with the interface of transformers. The result can also be awaited.

        Raises:
            RequestError: there is none (``skip_tokenizer_init``).
        """
        return self.tokenizer

    @cached_property
    def model_config(self) -> AsyncModelConfig:
        """The main facts about the running model."""
        return AsyncModelConfig.from_plan(self.plan, self._engine.max_model_len)

    def get_model_config(self) -> AsyncModelConfig:
        """:attr:`model_config`. The result can also be awaited."""
        return self.model_config

    async def add_lora(self, lora_request: LoRARequest) -> bool:
        """Load a LoRA adapter before a request names it.

        Raises:
            RequestError: it cannot be loaded, or adapters are not enabled.
        """
        await self._thread.run(self._thread.load_adapter(lora_request))
        return True

    async def list_loras(self) -> list[str]:
        """Names of the loaded LoRA adapters."""
        return sorted(self._engine.adapters)

    async def reset_prefix_cache(self) -> bool:
        """Empty the prefix cache. Running requests continue."""
        await self._thread.run(self._engine.reset_prefix_cache())
        return True

    async def sleep(self, level: int = 1) -> None:
        """Free the device's memory. Level 1 keeps the weights in the host's memory, level 2 drops them. Requests wait
        meanwhile.

        Raises:
            RequestError: there is no such level.
        """
        await self._thread.run(self._engine.sleep(level))

    async def wake_up(self, tags: list[str] | None = None) -> None:
        """Allocate the device's memory again: all, or only ``weights`` or ``kv_cache``.

        Raises:
            RequestError: a tag is unknown.
        """
        await self._thread.run(self._engine.wake_up(tags))

    async def is_sleeping(self) -> bool:
        return self._engine.sleeping

    # -- the engine's process

    async def check_health(self) -> None:
        """Check that the engine runs.

        Raises:
            EngineDeadError: the engine has ended; with the reason.
        """
        if not self._engine.alive:
            raise EngineDeadError(self._engine.dead_reason)

    @property
    def is_running(self) -> bool:
        return self._engine.alive

    @property
    def is_stopped(self) -> bool:
        return not self._engine.alive

    @property
    def errored(self) -> bool:
        """Whether the engine ended without :meth:`shutdown`."""
        return not self._engine.alive and self._finalizer.alive

    @property
    def dead_error(self) -> EngineDeadError:
        """Why the engine has ended, if it has."""
        return EngineDeadError(self._engine.dead_reason)

    def shutdown(self) -> None:
        """End the engine's process. Running and later requests raise ``EngineDeadError``. A second call does
        nothing.
        """
        self._finalizer()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.shutdown)


AsyncLLMEngine = AsyncLLM
"""vLLM's older name for it."""
