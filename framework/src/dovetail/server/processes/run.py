"""Runs the server: binds the port, loads the engine, serves, and shuts down."""

from __future__ import annotations

import socket

from dovetail.api.errors import EngineDeadError
from dovetail.server.app import build_app
from dovetail.server.http.keys import load_api_keys
from dovetail.server.http.listen import bind, check_tls, close_socket, server_url, startup_message
from dovetail.server.http.user_middleware import load_middleware
from dovetail.server.observe.request_log import set_up_logs
from dovetail.server.observe.tracing import check_tracing
from dovetail.server.processes.engine_supervision import MakeEngine, SupervisedEngine
from dovetail.server.processes.http_server import serve_http
from dovetail.server.processes.loop import run as run_loop
from dovetail.server.processes.signals import Signals, run_until_signal
from dovetail.server.rendering.pool import TemplatePool
from dovetail.server.settings import ServerSettings
from dovetail.utils import logs


def serve(make_engine: MakeEngine, settings: ServerSettings) -> int:
    """Serve until stopped by SIGINT or SIGTERM.

    Args:
        make_engine: loads the model. Called once the address is bound, and again when the engine has died.

    Returns:
        The exit code: 0, or 128 and the signal's number if the model was not ready yet.

    Raises:
        UsageError: the settings contradict each other, or hold invalid keys.
        EngineDeadError: the engine ended while serving, and so did its replacement. Clients received an error.
        DovetailError: the address cannot be used, or the engine cannot be made.
    """
    set_up_logs(settings)
    settings = load_api_keys(settings)
    check_tls(settings)
    check_tracing(settings)
    load_middleware(settings.middleware)  # what cannot be had is said before a model is loaded
    sock = bind(settings)
    try:
        return run_loop(_serve(make_engine, settings, sock))
    finally:
        close_socket(settings, sock)


async def _serve(make_engine: MakeEngine, settings: ServerSettings, sock: socket.socket) -> int:
    with Signals() as signals:
        if settings.exit_with_stdin:
            signals.watch_stdin()
        with TemplatePool(settings) as templates:  # its process starts while the engine loads
            loaded = await run_until_signal(make_engine, signals)
            if loaded is None:
                assert signals.number is not None
                return 128 + signals.number
            engine = SupervisedEngine(loaded, make_engine)
            templates.use(engine.tokenizer)

            def announce() -> None:
                logs.announce(startup_message(settings, engine.plan.model, server_url(settings, sock)), output=True)

            try:
                reason = await serve_http(build_app(engine, settings, renderer=templates), sock, signals, announce)
            finally:
                signals.restore()
                await engine.stop()
    if reason is not None:
        raise EngineDeadError(f"the engine ended while serving: {reason}")
    return 0
