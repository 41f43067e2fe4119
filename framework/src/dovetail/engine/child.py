"""The engine's process as its parent sees it: the child, and the socket to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import zmq
import zmq.asyncio

from dovetail.engine import messages as m
from dovetail.engine.args import EngineArgs
from dovetail.kernel.plan import Plan


class EngineChild:
    """Starts the process and tells it what to run."""

    def __init__(self, plan: Plan, args: EngineArgs) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="dovetail-"))  # readable by this user alone
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.set_hwm(0)
        path = self._folder / "engine"
        if zmq.has("ipc") and len(os.fsencode(path)) <= zmq.IPC_PATH_MAX_LEN:
            address = f"ipc://{path}"
            self._socket.bind(address)
        else:
            address = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._child = subprocess.Popen(
            [sys.executable, "-m", "dovetail.engine.process", address], stdin=subprocess.PIPE
        )
        # The Plan holds the overrides' result; a callable could not travel.
        sent = args.model_copy(update={"hf_overrides": {}})
        self.send(m.Start(plan.model_dump_json(), sent.model_dump_json()))

    def send(self, message: m.Message) -> None:
        # The socket has no high-water mark, so this never waits.
        self._socket.send(m.encode(message))

    async def receive(self) -> m.FromEngine:
        frame: bytes = await self._socket.recv()
        return m.decode_from_engine(frame)

    def on_exit(self, callback: Callable[[int], object]) -> None:
        """Call back, in another thread, with the exit code once the process has ended."""

        def wait() -> None:
            code = self._child.wait()
            with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is left to tell
                callback(code)

        threading.Thread(target=wait, daemon=True).start()

    def wait(self, seconds: float) -> None:
        """Until it has ended, or the time is up."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(seconds)

    def kill(self) -> None:
        """End it now, and let go of all that it used."""
        self._child.kill()
        self._child.wait()
        self._socket.close()
        self._context.term()
        shutil.rmtree(self._folder, ignore_errors=True)
