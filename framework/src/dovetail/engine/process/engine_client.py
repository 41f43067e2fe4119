"""Connects to one engine process: start, end, messages, and calls of the engine's operations."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, Self

import msgspec

from dovetail.api.errors import DovetailError, EngineDeadError
from dovetail.engine import messages as m
from dovetail.engine.adapters.lora_request import AdapterSource, check_adapter_name, find_adapter, parse_lora_modules
from dovetail.engine.args import EngineArgs
from dovetail.engine.process.engine_child import EngineChild
from dovetail.engine.process.failures import describe_exit, explain_failure, rebuild_error, restore_error
from dovetail.kernel.plan import Plan
from dovetail.kernel.registry import Registry
from dovetail.utils.panics import reraise_control_flow

Progress = Callable[[int, int], None]
STOP_SECONDS = 5.0
LAST_MESSAGES_SECONDS = 0.2
"""After a process exits, wait this long for its last messages in the socket."""
FAILED_WHILE_SERVING = "a step failed, and the log says why"
"""What clients are told of an exception that ended the engine. What it says is for the operator: it may name plugins,
their files and values.
"""


class EngineHandle(Protocol):
    """What the client needs from the handle of an engine's process."""

    def send(self, message: m.Message) -> None: ...

    async def receive(self) -> m.FromEngine: ...

    def on_exit(self, callback: Callable[[int], object]) -> None: ...

    def wait(self, seconds: float) -> None: ...

    def kill(self) -> None: ...


class EngineClient(ABC):
    """The client of an engine in its own process. Create it with :meth:`start`.

    Attributes:
        plan: what runs.
        info: the engine's message when it became ready.
        stats: the engine's statistics after its newest step.
        adapters: the LoRA adapters that requests may name: name → source.
        sleeping: whether a part of the engine sleeps (:meth:`sleep`).
        dead_reason: why the engine has ended, once :attr:`alive` is False, as clients may be told.
        fault: the same for the operator. It may name plugins, their files and values.
    """

    def __init__(self, plan: Plan, args: EngineArgs) -> None:
        self.plan = plan
        self.args = args
        self.info: m.EngineInfo | None = None
        self.stats = m.EngineStats()
        self.adapters: dict[str, str] = {}
        self.sleeping = False
        self.dead_reason = self.fault = ""
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._num_calls = 0
        self._dead_event = asyncio.Event()
        self._stopping = False

    @classmethod
    async def start(cls, plan: Plan, args: EngineArgs, progress: Progress | None = None) -> Self:
        """Start the process and wait until it is ready, with the command line's adapters loaded.

        Raises:
            DovetailError: the engine could not start; the error that was raised there.
        """
        modules = parse_lora_modules(args.lora_modules)
        child = EngineChild(plan, args)
        try:
            engine = await cls._create(plan, args)
            await engine.attach(child, progress)
        except BaseException:
            child.kill()
            raise
        try:
            for module in modules:
                await engine.add_adapter(module.name, module.path)
        except BaseException:
            await engine.stop()
            raise
        return engine

    @classmethod
    async def _create(cls, plan: Plan, args: EngineArgs) -> Self:
        """Create what can be made while the process starts."""
        return cls(plan, args)

    async def attach(self, child: EngineHandle, progress: Progress | None = None) -> None:
        """Connect to a process, and wait until it is ready.

        Raises:
            DovetailError: as :meth:`start`.
        """
        self._child = child
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._progress = progress
        self._reader = asyncio.create_task(self._read())
        child.on_exit(lambda code: loop.call_soon_threadsafe(self._on_exit, code))
        try:
            await self._ready
        except BaseException:
            self._stopping = True
            self._reader.cancel()
            raise

    @property
    def alive(self) -> bool:
        return not self.dead_reason

    async def ended(self) -> str:
        """Wait until the engine has ended. Returns the reason, for the operator."""
        await self._dead_event.wait()
        return self.fault

    async def call(self, operation: str, *arguments: Any) -> Any:
        """Run one of the engine's operations (:data:`~dovetail.engine.messages.OPERATIONS`), and wait for its result.

        Raises:
            DovetailError: as it was raised there.
            EngineDeadError: the engine has ended, or ends meanwhile.
        """
        assert operation in m.OPERATIONS, operation
        self._check_alive()
        self._num_calls += 1
        number = self._num_calls
        answer = self._calls[number] = asyncio.get_running_loop().create_future()
        try:
            self._child.send(m.Call(number, operation, list(arguments)))
            return await answer
        finally:
            del self._calls[number]

    async def overview(self) -> m.Overview:
        """A snapshot of the engine. It includes requests that other API processes sent."""
        return msgspec.convert(await self.call("overview"), m.Overview)

    async def reset_prefix_cache(self) -> None:
        """Empty the prefix cache. Running requests continue."""
        await self.call("reset_prefix_cache")

    async def sleep(self, level: int = 1) -> None:
        """Free the device's memory. At level 1 the weights move to the host's memory, at level 2 they are read again
        later.

        Raises:
            RequestError: there is no such level.
        """
        await self.call("sleep", level)

    async def wake_up(self, tags: list[str] | None = None) -> None:
        """Make the engine ready for requests again.

        Args:
            tags: wake only ``weights``, or only ``kv_cache``.

        Raises:
            RequestError: a tag is unknown.
        """
        await self.call("wake_up", tags)

    async def add_adapter(self, name: str, path: str) -> None:
        """Load a LoRA adapter from a folder or a hub repository.

        Raises:
            RequestError: the name is in use, the adapter cannot be loaded, or it does not fit the model.
        """
        check_adapter_name(name, (), self.adapters)

        def find() -> AdapterSource:
            registry = Registry.load(plugins=self.args.plugins, prefer=self.args.prefer)
            return find_adapter(name, path, registry, self.args.download_dir, self.args.hf_token)

        source = await asyncio.to_thread(find)
        await self.call("add_adapter", source.model_dump_json())

    async def remove_adapter(self, name: str) -> None:
        """Unload a LoRA adapter. Its requests finish with it.

        Raises:
            RequestError: there is none of this name.
        """
        await self.call("remove_adapter", name)

    async def stop(self) -> None:
        """Stop the process: first with a message, then by force."""
        self._stopping = True
        if self.alive:
            self._child.send(m.Stop())
            await asyncio.to_thread(self._child.wait, STOP_SECONDS)
        self._reader.cancel()
        self._child.kill()
        self._mark_dead(EngineDeadError("the engine was stopped"))

    def _check_alive(self) -> None:
        if not self.alive:
            raise EngineDeadError(self.dead_reason)

    async def _read(self) -> None:
        try:
            while True:
                self._handle(await self._child.receive())
        except BaseException as error:  # a bug of ours: fail whoever waits for it
            reraise_control_flow(error)
            self._mark_dead(
                EngineDeadError(f"what the engine sent cannot be handled ({type(error).__name__}: {error})")
            )
            raise

    def _handle(self, message: m.FromEngine) -> None:
        match message:
            case m.StepOutputs(outputs=outputs, stats=stats):
                self.stats = stats
                self._take(outputs)
            case m.Answer() as answer:
                self._resolve_call(answer)
            case m.State(adapters=adapters, sleeping=sleeping):
                self.adapters, self.sleeping = adapters, sleeping
            case m.Loading(done=done, total=total):
                if self._progress:
                    self._progress(done, total)
            case m.EngineInfo() as info:
                self.info = info
                self._ready.set_result(None)
            case m.Failed() as failed if self._ready.done():
                self._mark_dead(EngineDeadError(FAILED_WHILE_SERVING), explain_failure(failed))
            case m.Failed() as failed:
                self._mark_dead(rebuild_error(failed))

    @abstractmethod
    def _take(self, outputs: list[m.TokenOutput]) -> None:
        """Process the outputs of one step."""

    def _resolve_call(self, answer: m.Answer) -> None:
        waiting = self._calls.get(answer.number)
        if waiting is None or waiting.done():  # the caller was cancelled
            return
        if answer.failure is None:
            waiting.set_result(answer.result)
            return
        name, problem, hint = answer.failure
        error = restore_error(name, problem, hint)
        waiting.set_exception(error or RuntimeError(f"the engine failed: {name}: {problem}"))

    def _on_exit(self, code: int) -> None:
        if not self._stopping:
            asyncio.get_running_loop().call_later(
                LAST_MESSAGES_SECONDS,
                self._mark_dead,
                EngineDeadError(
                    f"the engine process ended unexpectedly ({describe_exit(code)})", "see its last messages above"
                ),
            )

    def _mark_dead(self, error: DovetailError, fault: str = "") -> None:
        if self.alive:
            self.fault = fault or str(error)
            self._fail_waiting(error)
            self._dead_event.set()

    def _fail_waiting(self, error: DovetailError) -> None:
        """Fail every pending call with the reason why the engine has ended."""
        self.dead_reason = str(error)
        if not self._ready.done():
            self._ready.set_exception(error)
        for call in self._calls.values():
            if not call.done():
                call.set_exception(EngineDeadError(self.dead_reason))
