"""Helpers for the processes of one server: a private socket, and exit with the parent."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import zmq
import zmq.asyncio

IPC = "ipc://"


class PrivateSocket:
    """A zmq socket that only processes of this user can connect to.

    Attributes:
        socket: it has no high-water mark, so that sending never blocks.
        address: to connect to.
        folder: readable by this user only. It is removed with this object, or by the child if this process is killed.
    """

    def __init__(self, kind: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dovetail-"))
        self._context = zmq.asyncio.Context()
        self.socket = self._context.socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.set_hwm(0)
        path = self.folder / "socket"
        if zmq.has("ipc") and len(os.fsencode(path)) <= zmq.IPC_PATH_MAX_LEN:
            self.address = f"{IPC}{path}"
            self.socket.bind(self.address)
        else:
            self.address = f"tcp://127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}"

    def close(self) -> None:
        self.socket.close()
        self._context.term()
        shutil.rmtree(self.folder, ignore_errors=True)


def on_exit(process: subprocess.Popen[bytes], callback: Callable[[int], object]) -> None:
    """Call back, in another thread, with the exit code once the process has ended."""

    def wait() -> None:
        code = process.wait()
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is left to notify
            callback(code)

    threading.Thread(target=wait, daemon=True).start()


def exit_with_parent(address: str) -> None:
    """End this process when standard input closes, which is a pipe from the parent. Ignore signals.

    Ctrl+C reaches a whole process group, and a process manager may signal all processes of a server. The parent decides
    when its children exit.

    Args:
        address: of the parent's socket. Its folder is removed, because the parent cannot do so any more.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

    def follow() -> None:
        while os.read(0, 1):  # past Python's buffer, whose lock would be held at exit
            pass
        if address.startswith(IPC):
            shutil.rmtree(Path(address.removeprefix(IPC)).parent, ignore_errors=True)
        os._exit(0)

    threading.Thread(target=follow, daemon=True).start()
