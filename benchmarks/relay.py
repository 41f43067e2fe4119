"""What passing tokens on costs the hub of a server of several API processes.

python benchmarks/relay.py [--streams 256] [--steps 240] [--processes 1 2 4 8] [--seconds 5]

The engine is a process that sends steps at a pace, one token for each stream, over the socket of a real one; the API processes are sockets that
somebody reads. What is measured is the processor time of the process between them.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import random
import time
from typing import Any

import zmq
import zmq.asyncio
from common import heading

from dovetail.engine import messages as m
from dovetail.engine.process.ipc import PrivateSocket
from dovetail.engine.request.params import SamplingParams
from dovetail.server.processes.loop import run
from dovetail.server.processes.relay import Relay, RelayedEngine

INFO = m.EngineInfo(32768, 1024, "no memory", {}, "nothing")
FRAMES = 16


def run_engine(address: str, streams: int, steps: int) -> None:
    """Send steps for ever."""
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(address)
    socket.send(m.encode(INFO))
    stats = m.EngineStats(running=streams)
    frames = [
        m.encode(
            m.StepOutputs([m.TokenOutput(f"{i:032x}-0#0", [random.randrange(50_000)]) for i in range(streams)], stats)
        )
        for _ in range(FRAMES)
    ]
    start = time.monotonic()
    for step in itertools.count():
        time.sleep(max(start + step / steps - time.monotonic(), 0))
        socket.send(frames[step % FRAMES])


def run_processes(address: str, names: list[bytes]) -> None:
    """Read what is sent to each."""
    context, poller = zmq.Context(), zmq.Poller()
    for name in names:
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, name)
        socket.connect(address)
        socket.send(b"")
        poller.register(socket, zmq.POLLIN)
    while True:
        for socket, _ in poller.poll():
            socket.recv()


class Child:
    """The engine's process, as far as a relay needs it."""

    def __init__(self) -> None:
        self.private = PrivateSocket(zmq.DEALER)
        self.steps = 0

    async def receive(self) -> m.FromEngine:
        self.steps += 1
        return m.decode_from_engine(await self.private.socket.recv())

    def send(self, message: m.Message) -> None:
        """What is asked of it is given anyway."""

    def on_exit(self, callback: object) -> None: ...

    def wait(self, seconds: float) -> None: ...

    def kill(self) -> None:
        self.private.close()


async def measure(streams: int, steps: int, processes: int, seconds: float) -> None:
    child, hub = Child(), PrivateSocket(zmq.ROUTER)
    names = [b"process %d" % number for number in range(processes)]
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=run_engine, args=(child.private.address, streams, steps), daemon=True),
        context.Process(target=run_processes, args=(hub.address, names), daemon=True),
    ]
    for other in others:
        other.start()
    plan: Any = None
    engine = RelayedEngine(plan, plan)
    await engine.attach(child)
    relay = Relay(lambda name, message: hub.socket.send_multipart([name, m.encode(message)]))
    for _ in names:
        relay.add_process((await hub.socket.recv_multipart())[0])
    relay.set_engine(engine)
    for i in range(streams):
        relay.receive(names[i % processes], m.NewRequest(f"{i:032x}-0#0", [1], SamplingParams()))
    await asyncio.sleep(1)
    began, spent, passed = time.monotonic(), time.process_time(), child.steps
    await asyncio.sleep(seconds)
    took, spent, passed = time.monotonic() - began, time.process_time() - spent, child.steps - passed
    print(
        f"  {processes} processes: {passed / took:5.0f} steps/s, {streams * passed / took:7,.0f} tokens/s, {spent / took:5.1%} of a core, "
        f"{spent / passed * 1e6:5.0f} µs a step"
    )
    await engine.stop()
    hub.close()
    for other in others:
        other.kill()
        other.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--steps", type=int, default=240, help="a second")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()
    print(heading("benchmarks/relay.py"))
    for processes in args.processes:
        run(measure(args.streams, args.steps, processes, args.seconds))


if __name__ == "__main__":
    main()
