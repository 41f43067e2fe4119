"""The API's side of the engine: starts its process, sends requests, and hands out what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from dovetail.api import errors
from dovetail.api.errors import DovetailError, EngineDeadError
from dovetail.engine import messages as m
from dovetail.engine.args import EngineArgs
from dovetail.engine.checks import check_prompt
from dovetail.engine.defaults import sampling_defaults
from dovetail.engine.outputs import Delta
from dovetail.engine.params import SamplingParams
from dovetail.engine.processor import OutputProcessor
from dovetail.engine.setup import load_tokenizer
from dovetail.engine.tokenizer import Tokenizer
from dovetail.kernel.plan import Plan

Progress = Callable[[int, int], None]
STOP_SECONDS = 5.0


class AsyncEngine:
    """An engine in a process of its own; use :meth:`start`.

    Attributes:
        plan: what runs.
        max_model_len: tokens of the longest sequence, prompt and output together.
        tokenizer: the model's.
        default_params: sampling parameters where a request is silent; ``max_tokens`` among them is a cap.
        dead_reason: why the engine is gone, once :attr:`alive` is False.
    """

    def __init__(self, plan: Plan, args: EngineArgs, tokenizer: Tokenizer) -> None:
        self.plan = plan
        self.tokenizer = tokenizer
        self.default_params: dict[str, Any] = sampling_defaults(plan, args)
        self.info: m.EngineInfo | None = None
        self.dead_reason = ""
        self.max_model_len = plan.max_model_len
        self.vocab_size: int = plan.model_config_object().vocab_size
        self._processor = OutputProcessor(tokenizer)
        self._queues: dict[str, asyncio.Queue[list[Delta] | DovetailError]] = {}
        self._stopping = False

    @classmethod
    async def start(cls, plan: Plan, args: EngineArgs, progress: Progress | None = None) -> AsyncEngine:
        """Start the process and wait until it is ready; the tokenizer is read meanwhile.

        Raises:
            DovetailError: whatever kept the engine from starting, as it was raised there.
        """
        launched = _Process(plan, args)
        try:
            tokenizer = await asyncio.to_thread(load_tokenizer, plan, args.chat_template)
            engine = cls(plan, args, tokenizer)
            await engine._attach(launched, progress)
        except BaseException:
            launched.kill()
            raise
        return engine

    async def _attach(self, process: _Process, progress: Progress | None) -> None:
        self._process = process
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[m.EngineInfo] = loop.create_future()
        self._progress = progress
        self._reader = asyncio.create_task(self._read())
        process.on_exit(lambda code: loop.call_soon_threadsafe(self._on_exit, code))
        self.info = await self._ready
        self.max_model_len = self.info.max_model_len

    @property
    def alive(self) -> bool:
        return not self.dead_reason

    async def generate(
        self, request_id: str, prompt_token_ids: list[int], params: SamplingParams
    ) -> AsyncGenerator[list[Delta], None]:
        """Deltas as they come, until every completion has a finish reason. Leaving the iterator early aborts the request.

        Raises:
            RequestError: the prompt does not fit.
            EngineDeadError: the engine is gone, or goes while this runs.
        """
        if not self.alive:
            raise EngineDeadError(self.dead_reason)
        check_prompt(prompt_token_ids, self.max_model_len, self.vocab_size)
        sequences = self._processor.add(request_id, prompt_token_ids, params)
        queue: asyncio.Queue[list[Delta] | DovetailError] = asyncio.Queue()
        self._queues[request_id] = queue
        try:
            for sequence in sequences:
                self._send(sequence)
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
                self._send(m.Abort(aborted))

    async def stop(self) -> None:
        """End the process, gently at first."""
        self._stopping = True
        if self.alive:
            self._send(m.Stop())
        await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        self._reader.cancel()
        self._process.kill()

    def _send(self, message: m.Message) -> None:
        # The socket has no high-water mark, so this never waits.
        self._process.socket.send(m.encode(message))

    async def _read(self) -> None:
        try:
            await self._dispatch()
        except Exception as error:  # a bug of ours: nobody may be left waiting for it
            self._die(EngineDeadError(f"what the engine sent cannot be handled ({type(error).__name__}: {error})"))
            raise

    async def _dispatch(self) -> None:
        while True:
            frame: bytes = await self._process.socket.recv()
            match m.decode_from_engine(frame):
                case m.StepOutputs(outputs=outputs):
                    deltas, aborts = self._processor.process(outputs)
                    for request_id, new in deltas.items():
                        if queue := self._queues.get(request_id):
                            queue.put_nowait(new)
                    if aborts:
                        self._send(m.Abort(aborts))
                case m.Loading(done=done, total=total):
                    if self._progress:
                        self._progress(done, total)
                case m.EngineInfo() as info:
                    self._ready.set_result(info)
                case m.Failed() as failed:
                    self._die(_rebuild(failed))

    def _on_exit(self, code: int) -> None:
        if not self._stopping:
            # What it said before it went may still be in the socket; a moment later it has been read.
            asyncio.get_running_loop().call_later(
                0.2,
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


class _Process:
    """The child, and the socket to it."""

    def __init__(self, plan: Plan, args: EngineArgs) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="dovetail-"))  # readable by this user alone
        self._context = zmq.asyncio.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.set_hwm(0)
        path = self._folder / "engine"
        if zmq.has("ipc") and len(os.fsencode(path)) <= zmq.IPC_PATH_MAX_LEN:
            address = f"ipc://{path}"
            self.socket.bind(address)
        else:
            address = f"tcp://127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._child = subprocess.Popen(
            [sys.executable, "-m", "dovetail.engine.process", address], stdin=subprocess.PIPE
        )
        # The Plan holds the overrides' result; a callable could not travel.
        sent = args.model_copy(update={"hf_overrides": {}})
        self.socket.send(m.encode(m.Start(plan.model_dump_json(), sent.model_dump_json())))

    def on_exit(self, callback: Callable[[int], object]) -> None:
        def wait() -> None:
            code = self._child.wait()
            with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is left to tell
                callback(code)

        threading.Thread(target=wait, daemon=True).start()

    def wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(seconds)

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()
        self.socket.close()
        self._context.term()
        shutil.rmtree(self._folder, ignore_errors=True)


def _rebuild(failed: m.Failed) -> DovetailError:
    """The engine's exception as one of our own classes."""
    kind = getattr(errors, failed.error, None)
    if isinstance(kind, type) and issubclass(kind, DovetailError):
        error = kind(failed.problem, failed.hint)
        error.add_note(f"In the engine's process:\n{failed.traceback}")  # seen with --debug
        return error
    print(failed.traceback, file=sys.stderr)
    return EngineDeadError(f"the engine failed: {failed.problem}", "this is a bug; the traceback stands above")


def _exit_words(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
