"""The engine's own process: ``python -m dovetail.engine.process ADDRESS``.

It connects to its parent, is told what to run, and steps whenever there is work. Its standard input is a pipe from
the parent that carries nothing: when it closes, the parent is gone, and so is the engine.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import traceback
from pathlib import Path

import zmq

from dovetail.api.errors import DovetailError, RequestError
from dovetail.engine import messages as m
from dovetail.engine.args import EngineArgs
from dovetail.kernel.plan import Plan


def main() -> int:
    # Ctrl+C reaches the whole process group; the parent decides when the engine leaves.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, args=(sys.argv[1],), daemon=True).start()
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 1000)
    socket.connect(sys.argv[1])
    try:
        start = m.decode_to_engine(socket.recv())
        assert isinstance(start, m.Start)
        _run(socket, start)
    except Exception as error:
        known = isinstance(error, DovetailError)
        failed = m.Failed(
            error=type(error).__name__,
            problem=error.problem if isinstance(error, DovetailError) else f"{type(error).__name__}: {error}",
            hint=error.hint if isinstance(error, DovetailError) else "",
            traceback=traceback.format_exc(),
        )
        socket.send(m.encode(failed))
        return 1 if known else 70
    finally:
        socket.close()
        context.term()
    return 0


def _leave_with_parent(address: str) -> None:
    while os.read(sys.stdin.fileno(), 1):  # past Python's buffer, whose lock would be held at exit
        pass
    if address.startswith("ipc://"):
        shutil.rmtree(Path(address.removeprefix("ipc://")).parent, ignore_errors=True)  # the parent cannot any more
    os._exit(0)


def _run(socket: zmq.Socket[bytes], start: m.Start) -> None:
    from dovetail.engine.core import EngineCore  # brings torch, so only here

    plan = Plan.model_validate_json(start.plan)
    args = EngineArgs.model_validate_json(start.args)
    core = EngineCore(plan, args, lambda done, total: socket.send(m.encode(m.Loading(done, total))))
    socket.send(m.encode(core.info))
    while True:
        rejected: list[m.TokenOutput] = []
        # With nothing to do, sleep in the first receive; otherwise take what is there and go on.
        block = core.scheduler.idle
        while socket.poll(None if block else 0):
            block = False
            message = m.decode_to_engine(socket.recv())
            match message:
                case m.NewRequest():
                    try:
                        core.add(message)
                    except RequestError as error:
                        rejected.append(m.TokenOutput(message.id, [], "error", None, str(error)))
                case m.Abort():
                    core.abort(message.ids)
                case m.Stop():
                    return
        outputs = rejected + core.step()
        if outputs:
            socket.send(m.encode(m.StepOutputs(outputs)))


if __name__ == "__main__":
    sys.exit(main())
