"""Tokens a second through the server's sockets, with an engine that computes nothing.

python benchmarks/frontend.py [--streams 1 64 512] [--tokens 100000] [--route chat|completions] [--rate 0] [--api-server-count 1] [--model FOLDER]

For each number of streams: output tokens a second as clients in another process receive them, events a token (below 1, tokens went out together), and the
time that the server's processes computed for each token, which tells what a faster or less busy machine would carry. Without a rate the engine waits until
its last step was handed out; several processes do not hold the engine up, so that they need one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import selectors
import socket
import time
import urllib.request
from multiprocessing.connection import Connection

import msgspec
import psutil
from common import heading

BODIES = {
    "chat": {"messages": [{"role": "user", "content": "Hello"}]},
    "completions": {"prompt": "Hello"},
}


def run_server(told: Connection, model: str | None, processes: int, rate: float) -> None:
    """A whole server over the fake engine; tells its port."""
    from fake_engine import FakeChild

    from dovetail.engine.args import EngineArgs
    from dovetail.engine.process.async_engine import AsyncEngine
    from dovetail.engine.process.engine_client import EngineClient
    from dovetail.engine.setup import load_tokenizer, make_plan
    from dovetail.server.processes.hub import serve_processes
    from dovetail.server.processes.relay import RelayedEngine
    from dovetail.server.processes.run import serve
    from dovetail.server.settings import ServerSettings

    args = EngineArgs(model=model, load_format="dummy" if model else "auto", max_num_seqs=1024)
    plan = make_plan(args)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = ServerSettings(port=port, log_level="warning", api_server_count=processes)

    async def make(engine: EngineClient) -> None:
        await engine.attach(FakeChild(rate=rate))
        told.send(port)

    async def make_engine() -> AsyncEngine:
        engine = AsyncEngine(plan, args, load_tokenizer(plan))
        await make(engine)
        return engine

    async def make_relayed() -> RelayedEngine:
        engine = RelayedEngine(plan, args)
        await make(engine)
        return engine

    if processes == 1:
        serve(make_engine, settings)
    else:
        serve_processes(make_relayed, settings, plan, args)


class Client:
    """One stream over a socket of its own, read without a library that would be the slower end."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.sendall(request)
        self.socket.setblocking(False)
        self.events = 0
        self.tail = b""

    def read(self) -> bool:
        """Whether the stream goes on."""
        data = self.socket.recv(1 << 18)
        # An event ends with an empty line; what is looked for may be cut anywhere.
        self.events += (self.tail[-1:] + data).count(b"\n\n")
        self.tail = (self.tail + data)[-5:]
        return bool(data) and self.tail != b"0\r\n\r\n"


def run_clients(port: int, route: str, streams: int, tokens: int) -> tuple[float, int]:
    """Seconds, and events that came."""
    path = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}[route]
    body = msgspec.json.encode(
        {**BODIES[route], "max_tokens": tokens, "ignore_eos": True, "stream": True, "temperature": 0}
    )
    request = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    selector = selectors.DefaultSelector()
    started = time.perf_counter()
    clients = [Client(port, request) for _ in range(streams)]
    for client in clients:
        selector.register(client.socket, selectors.EVENT_READ, client)
    left = streams
    while left:
        for key, _ in selector.select():
            if not key.data.read():
                selector.unregister(key.fileobj)
                key.data.socket.close()
                left -= 1
    return time.perf_counter() - started, sum(client.events for client in clients)


def await_health(port: int) -> None:
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
        except OSError:
            time.sleep(0.05)
        else:
            return


def spent_by(process: psutil.Process) -> float:
    """Seconds that a process and those that it started have computed."""
    family = [process, *process.children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in family)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 64, 512])
    parser.add_argument("--tokens", type=int, default=100_000, help="in all")
    parser.add_argument(
        "--rate", type=float, default=0, help="tokens a second that the engine makes; 0 for as many as are taken"
    )
    parser.add_argument("--api-server-count", type=int, default=1)
    parser.add_argument("--model", help="a folder with config and tokenizer, instead of the embedded model")
    parser.add_argument("--route", choices=sorted(BODIES), default="chat")
    args = parser.parse_args()
    if args.api_server_count > 1 and not args.rate:
        parser.error("several processes need a --rate")
    print(heading("benchmarks/frontend.py"))
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=run_server, args=(there, args.model, args.api_server_count, args.rate))
    server.start()
    port = here.recv()
    process = psutil.Process(server.pid)
    try:
        await_health(port)
        run_clients(port, args.route, 8, 64)
        for streams in args.streams:
            each = min(max(args.tokens // streams, 16), 4000)
            before = spent_by(process)
            seconds, events = run_clients(port, args.route, streams, each)
            spent = spent_by(process) - before
            total = streams * each
            print(
                f"  {streams:4} streams: {total / seconds:9,.0f} tokens/s, {events / total:5.2f} events a token, "
                f"{spent / total * 1e6:5.1f} µs of processor a token"
            )
    finally:
        os.kill(server.pid, 15)
        server.join(10)


if __name__ == "__main__":
    main()
