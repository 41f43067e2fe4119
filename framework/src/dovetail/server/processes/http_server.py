"""Runs uvicorn on one socket and one engine, from the first connection to a graceful shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import math
import socket
import time
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from dovetail.server.context import ServerContext
from dovetail.server.generate.sse import DirectSendMiddleware
from dovetail.server.http.errors import engine_dead_error, server_stopping_error
from dovetail.server.http.http_protocol import build_protocol_class
from dovetail.server.http.listen import BACKLOG, address_in_use_error, client_certificates, raise_open_files_limit
from dovetail.server.processes.signals import Signals
from dovetail.server.prompts.render import check_own_template

KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep idle connections, so the client closes the connection first, and no request is lost in
between.
"""
FLUSH_SECONDS = 2
"""Time to write the last error responses after open requests were ended."""
DRAIN_POLL_SECONDS = 0.02
GC_THRESHOLD = 50_000
"""Garbage collection threshold, in objects. A request allocates a few hundred."""


async def serve_http(app: FastAPI, sock: socket.socket, signals: Signals, announce: Callable[[], object]) -> str | None:
    """Serve until told to stop, or until the engine has ended.

    Args:
        app: see :func:`~dovetail.server.app.build_app`.
        sock: bound; closed at the end.
        announce: called once connections are accepted.

    Returns:
        Why the engine has ended, if it has.

    Raises:
        DovetailError: another server listens at the socket's address.
    """
    raise_open_files_limit()
    _tune_garbage_collector()
    context: ServerContext = app.state.context
    settings = context.settings
    config = uvicorn.Config(
        DirectSendMiddleware(app),
        http=build_protocol_class(settings.receive_timeout),
        lifespan="off",
        ws="none",
        log_config=None,  # its loggers hand their records to ours
        log_level=settings.uvicorn_log_level,
        access_log=False,  # requests are logged with what they took and gave
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=FLUSH_SECONDS,
        ssl_keyfile=settings.ssl_keyfile,
        ssl_certfile=settings.ssl_certfile,
        ssl_ca_certs=settings.ssl_ca_certs,
        ssl_cert_reqs=client_certificates(settings),
        ssl_ciphers=settings.ssl_ciphers,
    )
    server = _Server(config, context, announce)
    ended = asyncio.create_task(context.engine.ended())
    ending = asyncio.create_task(_stop_on_signal(server, ended, signals))
    checking = asyncio.create_task(check_own_template(context))
    try:
        await server.serve(sockets=[sock])
        return ended.result() if ended.done() else None
    finally:
        ending.cancel()
        ended.cancel()
        checking.cancel()
        await asyncio.gather(ending, ended, checking, return_exceptions=True)
        if app.state.traces is not None:
            await asyncio.to_thread(app.state.traces.close)


def _tune_garbage_collector() -> None:
    """Make the garbage collector run less often.

    By default it would scan all modules after every few hundred objects, most of which are freed without it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])


async def _stop_on_signal(server: _Server, ended: asyncio.Task[str], signals: Signals) -> None:
    """Wait for a stop signal or the engine's end, and stop the server."""
    first, second = (asyncio.create_task(event.wait()) for event in (signals.first, signals.second))
    try:
        await asyncio.wait({first, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            drained = asyncio.create_task(server.drain())
            await asyncio.wait({drained, second, ended}, return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()
        server.context.abort_all(engine_dead_error(ended.result()) if ended.done() else server_stopping_error())
        server.should_exit = True
        await second
        server.force_exit = True
    finally:
        first.cancel()
        second.cancel()


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers, and with a drain phase before it stops listening."""

    def __init__(self, config: uvicorn.Config, context: ServerContext, announce: Callable[[], object]) -> None:
        super().__init__(config)
        self.context = context
        self.announce = announce

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as error:
            # Two servers can bind one port as long as neither listens; the second to listen learns of it here.
            raise address_in_use_error(self.context.settings) if error.errno == errno.EADDRINUSE else error from None
        self.announce()

    async def drain(self) -> None:
        """Refuse new requests, and let the running ones finish within the time limit.

        The server still listens meanwhile, so that health checks of a load balancer see that it stops.
        """
        deadline = time.monotonic() + self.context.settings.shutdown_timeout
        self.context.closing_error = server_stopping_error()
        for connection in list(self.server_state.connections):
            connection.shutdown()  # of those that are idle; others end with their answer
        while self.server_state.tasks and time.monotonic() < deadline:
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        # Clients that are slow to read what was written for them have what is left of the time.
        left = max(deadline - time.monotonic(), 0)
        self.config.timeout_graceful_shutdown = math.ceil(left) + FLUSH_SECONDS
