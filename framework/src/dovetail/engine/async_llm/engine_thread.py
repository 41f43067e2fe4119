"""An engine's client in a thread with its own event loop, for callers with any event loop or none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar, cast

from dovetail.api.errors import DovetailError, EngineDeadError
from dovetail.engine.adapters.lora_request import LoRARequest, needs_loading
from dovetail.engine.args import EngineArgs
from dovetail.engine.messages import ImageInput
from dovetail.engine.output.pooled import Pooled
from dovetail.engine.process.async_engine import AsyncEngine
from dovetail.engine.process.delta_queue import DeltaQueue
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.request.pooling_params import PoolingParams
from dovetail.engine.setup import load_tokenizer
from dovetail.engine.text.tokenizer import Tokenizer
from dovetail.kernel.plan import Plan
from dovetail.utils.panics import reraise_control_flow

T = TypeVar("T")


class _Engine(AsyncEngine):
    """An engine that loads no tokenizer if its options say so. Prompts and outputs are then token ids."""

    @classmethod
    async def _create(cls, plan: Plan, args: EngineArgs) -> _Engine:
        found = None
        if not args.skip_tokenizer_init:
            found = await asyncio.to_thread(
                load_tokenizer,
                plan,
                args.chat_template,
                args.chat_template_content_format,
                args.allow_special_tokens_in_content,
            )
        return cls(plan, args, cast(Tokenizer, found))  # the detokenization code accepts None

    def _mark_dead(self, error: DovetailError, fault: str = "") -> None:
        # Who calls is the operator.
        super()._mark_dead(EngineDeadError(f"the engine failed: {fault}") if fault else error)


class EngineThread:
    """Starts an engine, and waits until it is ready.

    Scripts start an engine before they have an event loop, or use several loops one after another. The engine's socket
    belongs to one loop.

    Raises:
        DovetailError: the engine could not start, with the reason.
    """

    def __init__(self, plan: Plan, args: EngineArgs) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="dovetail-async-llm", daemon=True)
        self._thread.start()
        self._adapters_lock = asyncio.Lock()
        self._stopped = False
        try:
            self.engine: AsyncEngine = self.submit(_Engine.start(plan, args)).result()
        except BaseException:
            self._stop_loop()
            raise

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        # Whatever still runs is ended here, so that no process or socket is left behind.
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine in the engine's loop. Cancelling the future cancels it there.

        Raises:
            EngineDeadError: the engine was stopped.
        """
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # the loop is closed
            coroutine.close()
            raise EngineDeadError("the engine was stopped") from None

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the engine's loop, and return its result."""
        return await asyncio.wrap_future(self.submit(coroutine))

    async def forward(
        self,
        loop: asyncio.AbstractEventLoop,
        queue: DeltaQueue,
        request_id: str,
        prompt_token_ids: list[int],
        params: SamplingParams,
        priority: int,
        cache_salt: str | None,
        lora_request: LoRARequest | None,
        images: list[ImageInput] | None = None,
    ) -> None:
        """Run a request in the engine's loop, and pass its deltas and errors to a queue of another loop."""
        with contextlib.suppress(RuntimeError):  # the other loop is closed: nobody waits for this any more
            try:
                adapter = await self.load_adapter(lora_request)
                deltas = self.engine.generate(
                    request_id,
                    prompt_token_ids,
                    params,
                    priority=priority,
                    cache_salt=cache_salt,
                    adapter=adapter,
                    images=images,
                )
                async with contextlib.aclosing(deltas):
                    async for new in deltas:
                        loop.call_soon_threadsafe(queue.put, new)
            except (
                asyncio.CancelledError
            ):  # the caller has left; or the engine was stopped, and the caller must hear of it
                loop.call_soon_threadsafe(queue.fail, EngineDeadError("the engine was stopped"))
                raise
            except BaseException as error:  # a library's panic among them
                reraise_control_flow(error)
                loop.call_soon_threadsafe(queue.fail, error)

    async def pool(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: PoolingParams,
        priority: int,
        cache_salt: str | None,
        lora_request: LoRARequest | None,
    ) -> Pooled:
        """The vector of a prompt. Runs in the engine's loop.

        Raises:
            RequestError: see :meth:`dovetail.engine.process.async_engine.AsyncEngine.pool`.
        """
        adapter = await self.load_adapter(lora_request)
        return await self.engine.pool(
            request_id, prompt_token_ids, params, priority=priority, cache_salt=cache_salt, adapter=adapter
        )

    async def load_adapter(self, request: LoRARequest | None) -> str | None:
        """The engine's name of a request's adapter. Loads the adapter if necessary. Runs in the engine's loop.

        Raises:
            RequestError: it cannot be loaded, the name belongs to another path, or adapters are not enabled.
        """
        if request is None:
            return None
        async with self._adapters_lock:
            if needs_loading(request, self.engine.adapters, self.engine.args.enable_lora):
                await self.engine.add_adapter(request.lora_name, request.lora_path)
        return request.lora_name

    def stop(self) -> None:
        """End the engine's process and this thread. A second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        if threading.current_thread() is self._thread:  # a garbage collection that happens to run here
            self._loop.create_task(self._stop_from_within())
            return
        self.submit(self.engine.stop()).result()
        self._stop_loop()

    async def _stop_from_within(self) -> None:
        await self.engine.stop()
        self._loop.stop()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
