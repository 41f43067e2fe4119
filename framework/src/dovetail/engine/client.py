"""The API's side of the engine: starts its process, sends requests, and hands out what comes back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

import msgspec

from dovetail.api import errors
from dovetail.api.errors import DovetailError, EngineDeadError
from dovetail.engine import messages as m
from dovetail.engine.adapters import AdapterSource, check_adapter_name, find_adapter, parse_lora_modules
from dovetail.engine.args import EngineArgs
from dovetail.engine.checks import Limits, check_request
from dovetail.engine.child import EngineChild
from dovetail.engine.defaults import sampling_defaults
from dovetail.engine.outputs import Delta
from dovetail.engine.params import SamplingParams
from dovetail.engine.processor import OutputProcessor
from dovetail.engine.setup import load_tokenizer
from dovetail.engine.structured import check_structured
from dovetail.engine.tokenizer import Tokenizer
from dovetail.kernel.plan import Plan
from dovetail.kernel.registry import Registry

Progress = Callable[[int, int], None]
STOP_SECONDS = 5.0
LAST_WORDS_SECONDS = 0.2
"""What a process said before it went may still be in the socket; so much later it has been read."""


class Child(Protocol):
    """What the client needs of the engine's process."""

    def send(self, message: m.Message) -> None: ...

    async def receive(self) -> m.FromEngine: ...

    def on_exit(self, callback: Callable[[int], object]) -> None: ...

    def wait(self, seconds: float) -> None: ...

    def kill(self) -> None: ...


class AsyncEngine:
    """An engine in a process of its own; use :meth:`start`.

    Attributes:
        plan: what runs.
        max_model_len: tokens of the longest sequence, prompt and output together.
        tokenizer: the model's.
        default_params: sampling parameters where a request is silent; ``max_tokens`` among them is a cap.
        stats: how the engine stood after its newest step.
        adapters: the LoRA adapters that requests may name: name → where each came from.
        sleeping: whether something of it sleeps (:meth:`sleep`).
        dead_reason: why the engine is gone, once :attr:`alive` is False.
    """

    def __init__(self, plan: Plan, args: EngineArgs, tokenizer: Tokenizer) -> None:
        self.plan = plan
        self.args = args
        self.tokenizer = tokenizer
        self.default_params: dict[str, Any] = sampling_defaults(plan, args)
        self.info: m.EngineInfo | None = None
        self.stats = m.EngineStats()
        self.adapters: dict[str, str] = {}
        self.sleeping = False
        self.dead_reason = ""
        self.max_model_len = plan.max_model_len
        self.vocab_size: int = plan.model_config_object().vocab_size
        self._processor = OutputProcessor(tokenizer)
        self._queues: dict[str, asyncio.Queue[list[Delta] | DovetailError]] = {}
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._called = 0
        self._ended = asyncio.Event()
        self._stopping = False

    @classmethod
    async def start(cls, plan: Plan, args: EngineArgs, progress: Progress | None = None) -> AsyncEngine:
        """Start the process and wait until it is ready; the tokenizer is read meanwhile.

        Raises:
            DovetailError: whatever kept the engine from starting, as it was raised there.
        """
        modules = parse_lora_modules(args.lora_modules)
        child = EngineChild(plan, args)
        try:
            tokenizer = await asyncio.to_thread(load_tokenizer, plan, args.chat_template)
            engine = cls(plan, args, tokenizer)
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

    async def attach(self, child: Child, progress: Progress | None = None) -> None:
        """Listen to a process, and wait until it is ready.

        Raises:
            DovetailError: as :meth:`start`.
        """
        self._child = child
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[m.EngineInfo] = loop.create_future()
        self._progress = progress
        self._reader = asyncio.create_task(self._read())
        child.on_exit(lambda code: loop.call_soon_threadsafe(self._on_exit, code))
        try:
            self.info = await self._ready
        except BaseException:
            self._stopping = True
            self._reader.cancel()
            raise
        self.max_model_len = self.info.max_model_len

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
    def alive(self) -> bool:
        return not self.dead_reason

    @property
    def restarting(self) -> bool:
        """Never: a process that has died is not started again by its client."""
        return False

    async def ended(self) -> str:
        """Wait until the engine is gone; why it went."""
        await self._ended.wait()
        return self.dead_reason

    async def generate(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        adapter: str | None = None,
    ) -> AsyncGenerator[list[Delta], None]:
        """Deltas as they come, until every completion has a finish reason. Leaving the iterator early aborts the request.

        Args:
            priority: lower runs first, under ``--scheduling-policy priority``.
            cache_salt: share cached prefixes only with requests of the same salt.
            adapter: the LoRA adapter to run with.

        Raises:
            RequestError: the prompt or a parameter does not fit, or the form of the output cannot be kept.
            EngineDeadError: the engine is gone, or goes while this runs.
        """
        self._check_alive()
        check_request(prompt_token_ids, params, Limits(self.max_model_len, self.vocab_size, self.args.max_logprobs))
        if params.structured_outputs is not None:
            await asyncio.to_thread(check_structured, params.structured_outputs, self.plan)
            self._check_alive()
        sequences = self._processor.add(
            request_id, prompt_token_ids, params, priority=priority, cache_salt=cache_salt, adapter=adapter
        )
        queue: asyncio.Queue[list[Delta] | DovetailError] = asyncio.Queue()
        self._queues[request_id] = queue
        try:
            for sequence in sequences:
                self._child.send(sequence)
            left = params.n
            while left:
                deltas: list[Delta] = []
                item = await queue.get()
                while True:  # whatever has come meanwhile goes out together
                    if isinstance(item, DovetailError):
                        raise item
                    deltas += item
                    if queue.empty():
                        break
                    item = queue.get_nowait()
                left -= sum(d.finish_reason is not None for d in deltas)
                yield deltas
        finally:
            del self._queues[request_id]
            if (aborted := self._processor.abort(request_id)) and self.alive:
                self._child.send(m.Abort(aborted))

    async def call(self, operation: str, *arguments: Any) -> Any:
        """Have the engine do one of its own operations (:data:`~dovetail.engine.messages.OPERATIONS`), and wait for what it returns.

        Raises:
            DovetailError: as it was raised there.
            EngineDeadError: the engine is gone, or goes meanwhile.
        """
        assert operation in m.OPERATIONS, operation
        self._check_alive()
        self._called += 1
        number = self._called
        answer = self._calls[number] = asyncio.get_running_loop().create_future()
        try:
            self._child.send(m.Call(number, operation, list(arguments)))
            return await answer
        finally:
            del self._calls[number]

    async def overview(self) -> m.Overview:
        """What the engine is doing at the moment, asked of itself: it knows of requests that other processes sent, too."""
        return msgspec.convert(await self.call("overview"), m.Overview)

    async def reset_prefix_cache(self) -> None:
        """Forget what was computed of earlier prompts; requests that run go on."""
        await self.call("reset_prefix_cache")

    async def sleep(self, level: int = 1) -> None:
        """Give the device's memory back: at level 1 the weights go to the host's memory, at level 2 they are read again later.

        Raises:
            RequestError: there is no such level.
        """
        await self.call("sleep", level)
        self.sleeping = True

    async def wake_up(self, tags: list[str] | None = None) -> None:
        """Be ready for requests again.

        Args:
            tags: wake only ``weights``, or only ``kv_cache``.

        Raises:
            RequestError: a tag is unknown.
        """
        self.sleeping = bool(await self.call("wake_up", tags))

    async def add_adapter(self, name: str, path: str) -> None:
        """Load a LoRA adapter from a folder or a hub repository.

        Raises:
            RequestError: the name is taken, it cannot be loaded, or it does not fit the model.
        """
        check_adapter_name(name, (), self.adapters)

        def find() -> AdapterSource:
            registry = Registry.load(plugins=self.args.plugins, prefer=self.args.prefer)
            return find_adapter(name, path, registry, self.args.download_dir)

        source = await asyncio.to_thread(find)
        await self.call("add_adapter", source.model_dump_json())
        self.adapters[name] = path

    async def remove_adapter(self, name: str) -> None:
        """Forget a LoRA adapter; requests that have it keep it.

        Raises:
            RequestError: there is none of this name.
        """
        await self.call("remove_adapter", name)
        self.adapters.pop(name, None)

    async def stop(self) -> None:
        """End the process, gently at first."""
        self._stopping = True
        if self.alive:
            self._child.send(m.Stop())
            await asyncio.to_thread(self._child.wait, STOP_SECONDS)
        self._reader.cancel()
        self._child.kill()
        self._die(EngineDeadError("the engine was stopped"))

    def _check_alive(self) -> None:
        if not self.alive:
            raise EngineDeadError(self.dead_reason)

    async def _read(self) -> None:
        try:
            await self._dispatch()
        except Exception as error:  # a bug of ours: nobody may be left waiting for it
            self._die(EngineDeadError(f"what the engine sent cannot be handled ({type(error).__name__}: {error})"))
            raise

    async def _dispatch(self) -> None:
        while True:
            match await self._child.receive():
                case m.StepOutputs(outputs=outputs, stats=stats):
                    self.stats = stats
                    deltas, aborts = self._processor.process(outputs)
                    for request_id, new in deltas.items():
                        if queue := self._queues.get(request_id):
                            queue.put_nowait(new)
                    if aborts:
                        self._child.send(m.Abort(aborts))
                case m.Answer() as answer:
                    self._settle(answer)
                case m.Loading(done=done, total=total):
                    if self._progress:
                        self._progress(done, total)
                case m.EngineInfo() as info:
                    self._ready.set_result(info)
                case m.Failed() as failed:
                    self._die(_rebuild(failed))

    def _settle(self, answer: m.Answer) -> None:
        waiting = self._calls.get(answer.number)
        if waiting is None or waiting.done():  # whoever called has left
            return
        if answer.failure is None:
            waiting.set_result(answer.result)
            return
        name, problem, hint = answer.failure
        error = _known(name, problem, hint)
        waiting.set_exception(error or RuntimeError(f"the engine failed: {name}: {problem}"))

    def _on_exit(self, code: int) -> None:
        if not self._stopping:
            asyncio.get_running_loop().call_later(
                LAST_WORDS_SECONDS,
                self._die,
                EngineDeadError(
                    f"the engine process ended unexpectedly ({_exit_words(code)})", "see its last messages above"
                ),
            )

    def _die(self, error: DovetailError) -> None:
        if self.dead_reason:
            return
        self.dead_reason = str(error)
        if not self._ready.done():
            self._ready.set_exception(error)
        for queue in self._queues.values():
            queue.put_nowait(EngineDeadError(self.dead_reason))
        for call in self._calls.values():
            if not call.done():
                call.set_exception(EngineDeadError(self.dead_reason))
        self._ended.set()


def _known(name: str, problem: str, hint: str) -> DovetailError | None:
    kind = getattr(errors, name, None)
    return kind(problem, hint) if isinstance(kind, type) and issubclass(kind, DovetailError) else None


def _rebuild(failed: m.Failed) -> DovetailError:
    """The engine's exception as one of our own classes."""
    if error := _known(failed.error, failed.problem, failed.hint):
        error.add_note(f"In the engine's process:\n{failed.traceback}")  # seen with --debug
        return error
    print(failed.traceback, file=sys.stderr)
    return EngineDeadError(f"the engine failed: {failed.problem}", "this is a bug; the traceback stands above")


def _exit_words(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
