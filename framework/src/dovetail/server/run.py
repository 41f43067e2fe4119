"""Runs the server: takes the port, loads the engine, serves, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator

import uvicorn

from dovetail.api.errors import EngineDeadError
from dovetail.server.app import build_app
from dovetail.server.context import ServerContext
from dovetail.server.engine_protocol import ServedEngine
from dovetail.server.errors import engine_dead, stopping
from dovetail.server.keys import with_all_keys
from dovetail.server.listen import address, bind, check_tls, in_use, release
from dovetail.server.settings import ServerSettings
from dovetail.server.supervision import MakeEngine, SupervisedEngine

KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep idle connections, so that it is they who close them and never lose a request to it."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(make_engine: MakeEngine, settings: ServerSettings) -> int:
    """Serve until told to stop by SIGINT or SIGTERM.

    Args:
        make_engine: loads the model; called once the address is ours, and again when the engine has died.

    Returns:
        The exit code: 0, or 128 and the signal's number if the model was not ready yet.

    Raises:
        UsageError: the settings contradict each other, or name keys that are none.
        EngineDeadError: the engine ended while serving, and so did its successor; clients were told.
        DovetailError: the address cannot be used, or the engine cannot be made.
    """
    settings = with_all_keys(settings)
    check_tls(settings)
    sock = bind(settings)
    try:
        return asyncio.run(_serve(make_engine, settings, sock))
    finally:
        release(settings, sock)


async def _serve(make_engine: MakeEngine, settings: ServerSettings, sock: socket.socket) -> int:
    with _Signals() as signals:
        if settings.exit_with_stdin:
            threading.Thread(target=_stop_with_stdin, args=(asyncio.get_running_loop(), signals), daemon=True).start()
        loaded = await _load(make_engine, signals)
        if loaded is None:
            assert signals.number is not None
            return 128 + signals.number
        engine = SupervisedEngine(loaded, make_engine)
        try:
            reason = await _serve_engine(engine, settings, sock, signals)
        finally:
            # From here on a signal ends the process at once.
            signals.restore()
            await engine.stop()
    if reason is not None:
        raise EngineDeadError(f"the engine ended while serving: {reason}")
    return 0


def _stop_with_stdin(loop: asyncio.AbstractEventLoop, signals: _Signals) -> None:
    while os.read(0, 1 << 16):
        pass
    with contextlib.suppress(RuntimeError):  # the loop is closed: we are stopping already
        loop.call_soon_threadsafe(signals.tell, signal.SIGTERM)


async def _load(make_engine: MakeEngine, signals: _Signals) -> ServedEngine | None:
    async def make() -> ServedEngine:
        return await make_engine()

    loading, told = asyncio.create_task(make()), asyncio.create_task(signals.first.wait())
    try:
        await asyncio.wait({loading, told}, return_when=asyncio.FIRST_COMPLETED)
        return loading.result() if loading.done() else None
    finally:
        loading.cancel()
        told.cancel()
        await asyncio.gather(loading, told, return_exceptions=True)


async def _serve_engine(
    engine: ServedEngine, settings: ServerSettings, sock: socket.socket, signals: _Signals
) -> str | None:
    """Serve until told to stop, or until there is no engine: why there is none."""
    app = build_app(engine, settings)
    context: ServerContext = app.state.context
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_level=settings.uvicorn_log_level,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        # Open requests are ended by the context, with an answer; this is for what is left then.
        timeout_graceful_shutdown=math.ceil(settings.shutdown_timeout) + 2,
        ssl_keyfile=settings.ssl_keyfile,
        ssl_certfile=settings.ssl_certfile,
        ssl_ca_certs=settings.ssl_ca_certs,
        ssl_cert_reqs=ssl.CERT_REQUIRED if settings.ssl_ca_certs else ssl.CERT_NONE,
    )
    server = _Server(config, context)

    ended = asyncio.create_task(engine.ended())

    async def watch() -> None:
        told = asyncio.create_task(signals.first.wait())
        await asyncio.wait({told, ended}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        server.should_exit = True
        if ended.done():
            context.abort_all(engine_dead(ended.result()))
        else:
            await signals.second.wait()
            context.abort_all(stopping())
            server.force_exit = True

    watching = asyncio.create_task(watch())
    try:
        await server.serve(sockets=[sock])
        return ended.result() if ended.done() else None
    finally:
        watching.cancel()
        ended.cancel()
        await asyncio.gather(watching, ended, return_exceptions=True)


class _Server(uvicorn.Server):
    """uvicorn, with the signals left to us, and requests that outlast the shutdown told so."""

    def __init__(self, config: uvicorn.Config, context: ServerContext) -> None:
        super().__init__(config)
        self.context = context

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets
        settings = self.context.settings
        try:
            await super().startup(sockets)
        except OSError as error:
            # Two servers can bind one port as long as neither listens; the second to listen learns of it here.
            raise in_use(settings) if error.errno == errno.EADDRINUSE else error from None
        names = ", ".join(self.context.names)
        print(f"Dovetail serves {names} at {address(settings, sockets[0])} (Ctrl+C stops it)", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        grace = self.context.settings.shutdown_timeout
        timer = asyncio.get_running_loop().call_later(grace, self.context.abort_all, stopping())
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()


class _Signals:
    """Says when the process is told to stop, and when it is told again."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._handled = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> _Signals:
        if self._handled:
            for number in SIGNALS:
                asyncio.get_running_loop().add_signal_handler(number, self.tell, number)
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def restore(self) -> None:
        if self._handled:
            for number in SIGNALS:
                asyncio.get_running_loop().remove_signal_handler(number)
            self._handled = False

    def tell(self, number: int) -> None:
        self.number = self.number or number
        (self.second if self.first.is_set() else self.first).set()
