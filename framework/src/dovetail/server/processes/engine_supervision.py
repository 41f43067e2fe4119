"""Restarts the engine once after it dies."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from dovetail.api.errors import DovetailError, EngineDeadError
from dovetail.engine.messages import EngineStats, ImageInput, Overview
from dovetail.engine.output.pooled import Pooled
from dovetail.engine.request.outputs import Delta
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.request.pooling_params import PoolingParams
from dovetail.server.engine_protocol import ServedEngine, ServedPlan, ServedTokenizer
from dovetail.utils.logs import announce
from dovetail.utils.panics import reraise_control_flow

if TYPE_CHECKING:
    from dovetail.engine.images.inputs import PromptWithImages

MakeEngine = Callable[[], Awaitable[ServedEngine]]
MAX_RESTARTS = 1
"""After a second crash the server ends, so that clients and their balancer notice."""


class Supervised(Protocol):
    """What the supervisor needs from an engine; see :class:`~dovetail.server.engine_protocol.ServedEngine`."""

    @property
    def alive(self) -> bool: ...

    @property
    def dead_reason(self) -> str: ...

    @property
    def adapters(self) -> Mapping[str, str]: ...

    async def add_adapter(self, name: str, path: str) -> None: ...

    async def remove_adapter(self, name: str) -> None: ...

    async def ended(self) -> str: ...

    async def stop(self) -> None: ...


E = TypeVar("E", bound=Supervised)


class Supervisor(Generic[E]):
    """Watches an engine and replaces it when it dies. The replacement gets the LoRA adapters that the first engine had.

    While the replacement loads, :attr:`alive` is False and :attr:`restarting` True.

    Args:
        engine: the first engine, ready.
        make_engine: makes the replacement.
        on_change: called when the engine has died, when its replacement serves, and when there will be no engine any
            more.

    Attributes:
        engine: the current engine.
    """

    def __init__(
        self, engine: E, make_engine: Callable[[], Awaitable[E]], on_change: Callable[[], object] = lambda: None
    ) -> None:
        self.engine = engine
        self._make_engine = make_engine
        self._on_change = on_change
        self._restarts_left = MAX_RESTARTS
        self._final_reason = self._final_fault = ""
        self._watching = asyncio.create_task(self._watch())

    async def ended(self) -> str:
        """Wait until there is no engine and there will be none. Returns the reason, for the operator."""
        await asyncio.wait({self._watching})
        return self._final_fault or self.dead_reason

    async def _watch(self) -> None:
        while self._restarts_left:
            fault = await self.engine.ended()
            self._on_change()
            try:
                await self._restart(fault)
            except BaseException as error:  # whatever it was, there is no engine: the server ends, and says why
                reraise_control_flow(error)
                self._end(
                    f"{self.engine.dead_reason}; starting it again failed",
                    f"{fault}; starting it again failed: {error}",
                )
                return
            self._on_change()
        fault = await self.engine.ended()
        self._end(f"it died again: {self.engine.dead_reason}", f"it died again: {fault}")

    def _end(self, reason: str, fault: str) -> None:
        self._final_reason, self._final_fault = reason, fault
        self._on_change()

    async def _restart(self, fault: str) -> None:
        announce(f"the engine died: {fault}; it is being started again", logging.ERROR)
        started = time.monotonic()
        await self.engine.stop()
        engine = await self._make_engine()
        try:
            await _restore_adapters(engine, self.engine.adapters)
        except BaseException:
            await engine.stop()
            raise
        self.engine = engine
        self._restarts_left -= 1
        announce(f"the engine serves again, after {time.monotonic() - started:.1f} s")

    async def stop(self) -> None:
        """Stop the engine, or the start of its replacement."""
        self._watching.cancel()
        await asyncio.wait({self._watching})
        await self.engine.stop()

    @property
    def alive(self) -> bool:
        return self.engine.alive and not self._final_reason

    @property
    def restarting(self) -> bool:
        return not self.alive and not self._final_reason and self._restarts_left > 0

    @property
    def dead_reason(self) -> str:
        return self._final_reason or self.engine.dead_reason


class SupervisedEngine(Supervisor[ServedEngine]):
    """A :class:`~dovetail.server.engine_protocol.ServedEngine` that forwards to the current engine."""

    async def add_adapter(self, name: str, path: str) -> None:
        await self._current().add_adapter(name, path)

    async def remove_adapter(self, name: str) -> None:
        await self._current().remove_adapter(name)

    def generate(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        adapter: str | None = None,
        images: list[ImageInput] | None = None,
    ) -> AsyncGenerator[list[Delta], None]:
        return self._current().generate(
            request_id,
            prompt_token_ids,
            params,
            priority=priority,
            cache_salt=cache_salt,
            adapter=adapter,
            images=images,
        )

    @property
    def image_placeholder(self) -> str | None:
        return self.engine.image_placeholder

    async def place_images(self, prompt_token_ids: list[int], images: Sequence[str]) -> PromptWithImages:
        return await self._current().place_images(prompt_token_ids, images)

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
        return await self._current().pool(
            request_id, prompt_token_ids, params, priority=priority, cache_salt=cache_salt, adapter=adapter
        )

    def check_beam_search(self) -> None:
        self._current().check_beam_search()

    async def overview(self) -> Overview:
        return await self._current().overview()

    async def reset_prefix_cache(self) -> None:
        await self._current().reset_prefix_cache()

    async def sleep(self, level: int) -> None:
        await self._current().sleep(level)

    async def wake_up(self, tags: list[str] | None = None) -> None:
        await self._current().wake_up(tags)

    def _current(self) -> ServedEngine:
        if not self.alive:
            raise EngineDeadError(self.dead_reason)
        return self.engine

    @property
    def plan(self) -> ServedPlan:
        return self.engine.plan

    @property
    def tokenizer(self) -> ServedTokenizer:
        return self.engine.tokenizer

    @property
    def max_model_len(self) -> int:
        return self.engine.max_model_len

    @property
    def eos_ids(self) -> frozenset[int]:
        return self.engine.eos_ids

    @property
    def default_params(self) -> Mapping[str, Any]:
        return self.engine.default_params

    @property
    def max_num_seqs(self) -> int:
        return self.engine.max_num_seqs

    @property
    def max_num_queued_requests(self) -> int | None:
        return self.engine.max_num_queued_requests

    @property
    def scheduling_policy(self) -> str:
        return self.engine.scheduling_policy

    @property
    def stats(self) -> EngineStats:
        return self.engine.stats

    @property
    def sleeping(self) -> bool:
        return self.engine.sleeping

    @property
    def adapters(self) -> Mapping[str, str]:
        return self.engine.adapters


async def _restore_adapters(engine: Supervised, adapters: Mapping[str, str]) -> None:
    """Load and unload adapters until the new engine has those of the old one."""
    for name in engine.adapters.keys() - adapters.keys():
        await engine.remove_adapter(name)
    for name, path in adapters.items():
        if name in engine.adapters:
            continue
        try:
            await engine.add_adapter(name, path)
        except EngineDeadError:
            raise
        except DovetailError as error:  # it may have been deleted since; that is no reason to serve nothing at all
            announce(f"the adapter {name} is no longer served: {error}", logging.WARNING)
