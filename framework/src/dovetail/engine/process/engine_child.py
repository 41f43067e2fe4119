"""The parent's handle of the engine's process: the child process, and the socket to it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable

import zmq

from dovetail.engine import messages as m
from dovetail.engine.args import EngineArgs
from dovetail.engine.process.ipc import PrivateSocket, on_exit
from dovetail.kernel.plan import Plan
from dovetail.python_path import child_environment, python_command
from dovetail.utils.threads import thread_variables


class EngineChild:
    """The child process of the engine, and the socket to it. The constructor starts it and sends it what to run."""

    def __init__(self, plan: Plan, args: EngineArgs) -> None:
        self._socket = PrivateSocket(zmq.DEALER)
        command = python_command("-m", "dovetail.engine.process.engine_process", self._socket.address)
        environment = child_environment(**thread_variables())
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        self.send(m.Start(plan.model_dump_json(), args.to_json()))

    def send(self, message: m.Message) -> None:
        self._socket.socket.send(m.encode(message))

    async def receive(self) -> m.FromEngine:
        frame: bytes = await self._socket.socket.recv()
        return m.decode_from_engine(frame)

    def on_exit(self, callback: Callable[[int], object]) -> None:
        """Call back, in another thread, with the exit code once the process has ended."""
        on_exit(self._child, callback)

    def wait(self, seconds: float) -> None:
        """Wait until the process has ended, or the time is up."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(seconds)

    def kill(self) -> None:
        """Kill the process, and release its resources."""
        self._child.kill()
        self._child.wait()
        self._socket.close()
