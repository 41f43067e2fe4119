"""Helpers for the processes of one server: a private socket, and exit with the parent."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import zmq
import zmq.asyncio

from dovetail.api.errors import DovetailError
from dovetail.engine.process.private_folder import create_private_folders, describe_places
from dovetail.kernel.interrupts import set_handled

IPC = "ipc://"
SOCKET_NAME = "socket"


class PrivateSocket:
    """A zmq socket that only processes of this user can connect to: a unix socket in a folder of their own.

    Attributes:
        socket: it has no high-water mark, so that sending never blocks.
        address: to connect to.
        folder: readable by this user only. It is removed with this object, or by the child if this process is killed.

    Raises:
        DovetailError: there is no place for such a folder.
    """

    def __init__(self, kind: int) -> None:
        if not zmq.has("ipc"):
            problem = "this build of zmq has no unix sockets, and other users can connect to all others"
            raise DovetailError(problem, "install pyzmq from its wheels")
        self._context = zmq.asyncio.Context()
        self.socket = self._context.socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.set_hwm(0)
        try:
            self.folder = self._bind()
        except BaseException:
            self.socket.close()
            self._context.term()
            raise
        self.address = f"{IPC}{self.folder / SOCKET_NAME}"

    def _bind(self) -> Path:
        """Bind the socket in the first place where that is possible. Returns the folder."""
        for folder in create_private_folders(zmq.IPC_PATH_MAX_LEN - len(SOCKET_NAME) - 1):
            try:
                self.socket.bind(f"{IPC}{folder / SOCKET_NAME}")
            except zmq.ZMQError:  # no file system for sockets
                shutil.rmtree(folder, ignore_errors=True)
            else:
                return folder
        raise DovetailError(
            f"no place for a socket that other users cannot connect to (tried {describe_places()})",
            "set TMPDIR to a folder with a short path, in which and above which only you can write",
        )

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
    set_handled(True)

    def follow() -> None:
        while os.read(0, 1):  # past Python's buffer, whose lock would be held at exit
            pass
        shutil.rmtree(Path(address.removeprefix(IPC)).parent, ignore_errors=True)
        os._exit(0)

    threading.Thread(target=follow, daemon=True).start()
